//! A table of values with small, dense indices, which epoll tokens and timers name.

/// Names a session of a [`Reactor`](super::Reactor): an index, and a generation that tells it from
/// the sessions that had the index before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId {
    pub(super) index: u32,
    generation: u32,
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Values under dense indices. The memory of removed ones is used again.
///
/// Invariant: an index is in `free` or in `resting` exactly if its entry has no value.
#[derive(Debug)]
pub(super) struct Table<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    /// Removed in this turn: the events that the turn has still to handle may name them.
    resting: Vec<u32>,
    len: usize,
}

impl<T> Table<T> {
    pub fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), resting: Vec::new(), len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// One more than the largest index so far.
    pub fn bound(&self) -> u32 {
        self.entries.len() as u32
    }

    /// The id that [`Table::insert`] will give next.
    pub fn next_id(&self) -> SessionId {
        match self.free.last() {
            Some(&index) => {
                SessionId { index, generation: self.entries[index as usize].generation }
            }
            None => SessionId { index: self.bound(), generation: 0 },
        }
    }

    pub fn insert(&mut self, value: T) -> SessionId {
        let id = self.next_id();
        if self.free.pop().is_none() {
            self.entries.push(Entry { generation: 0, value: None });
        }
        self.entries[id.index as usize].value = Some(value);
        self.len += 1;
        id
    }

    /// Takes the value out. Its index is given to no other until [`Table::settle`].
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let entry = self.entries.get_mut(index as usize)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.resting.push(index);
        self.len -= 1;
        Some(value)
    }

    /// Lets the indices of removed values be used again.
    pub fn settle(&mut self) {
        self.free.append(&mut self.resting);
    }

    pub fn at(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.value.as_mut()
    }

    pub fn get(&self, id: SessionId) -> Option<&T> {
        let entry = self.entries.get(id.index as usize)?;
        entry.value.as_ref().filter(|_| entry.generation == id.generation)
    }

    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut T> {
        let entry = self.entries.get_mut(id.index as usize)?;
        entry.value.as_mut().filter(|_| entry.generation == id.generation)
    }

    /// The id of the value at an index.
    pub fn id(&self, index: u32) -> SessionId {
        SessionId { index, generation: self.entries[index as usize].generation }
    }

    /// All values with their indices. O(bound).
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().enumerate().filter_map(|(i, e)| Some((i as u32, e.value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_used_again_but_not_within_the_turn_and_not_under_the_old_name() {
        let mut table = Table::new();
        let a = table.insert("a");
        let b = table.insert("b");
        assert_eq!((a.index, b.index, table.len()), (0, 1, 2));
        assert_eq!(table.remove(a.index), Some("a"));
        assert_eq!(table.remove(a.index), None);
        assert_eq!(table.insert("c").index, 2);
        table.settle();
        let d = table.insert("d");
        assert_eq!(d.index, a.index);
        assert_ne!(d, a);
        assert_eq!((table.get(a), table.get(d).copied()), (None, Some("d")));
        assert_eq!(
            table.iter().map(|(i, v)| (i, *v)).collect::<Vec<_>>(),
            [(0, "d"), (1, "b"), (2, "c")]
        );
    }
}
