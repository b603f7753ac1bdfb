//! A list of indices by how recently they were touched. Everything is O(1).

/// Not in the list.
const ABSENT: u32 = u32::MAX;
/// The end of the list.
const END: u32 = u32::MAX - 1;

/// Indices, oldest first, linked through a table: touching and removing one costs a few writes,
/// and no memory beyond two words for each index ever used.
#[derive(Debug)]
pub(super) struct Lru {
    /// Of each index: the next older and the next newer one.
    links: Vec<(u32, u32)>,
    oldest: u32,
    newest: u32,
    len: usize,
}

impl Lru {
    pub(super) fn new() -> Self {
        Self { links: Vec::new(), oldest: END, newest: END, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != END).then_some(self.oldest)
    }

    /// Makes it the newest, in the list from here on.
    pub(super) fn touch(&mut self, index: u32) {
        if self.newest == index {
            return;
        }
        self.remove(index);
        if self.links.len() <= index as usize {
            self.links.resize(index as usize + 1, (ABSENT, ABSENT));
        }
        self.links[index as usize] = (self.newest, END);
        match self.newest {
            END => self.oldest = index,
            newest => self.links[newest as usize].1 = index,
        }
        self.newest = index;
        self.len += 1;
    }

    /// Takes it out, if it is in.
    pub(super) fn remove(&mut self, index: u32) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let (older, newer) = std::mem::replace(link, (ABSENT, ABSENT));
        if older == ABSENT {
            return;
        }
        match older {
            END => self.oldest = newer,
            older => self.links[older as usize].1 = newer,
        }
        match newer {
            END => self.newest = older,
            newer => self.links[newer as usize].0 = older,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn against_a_plain_list() {
        let mut lru = Lru::new();
        let mut model: Vec<u32> = Vec::new();
        let mut random = 1_u32;
        for _ in 0..10_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let index = random >> 16 & 15;
            model.retain(|&other| other != index);
            if random >> 28 < 9 {
                lru.touch(index);
                model.push(index);
            } else {
                lru.remove(index);
            }
            assert_eq!((lru.oldest(), lru.len()), (model.first().copied(), model.len()));
        }
        while let Some(oldest) = lru.oldest() {
            assert_eq!(oldest, model.remove(0));
            lru.remove(oldest);
        }
        assert!(model.is_empty());
    }
}
