//! The deadlines of sessions: a binary heap in which each session has at most one entry, whose
//! place is known, so that moving a deadline costs O(log n) and allocates nothing.

use crate::stack::Time;

const NOWHERE: u32 = u32::MAX;

/// Invariant: `heap[place[k]].1 == k` for each key `k` whose place is not `NOWHERE`, and no entry
/// is earlier than its parent.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: Vec<(Time, u32)>,
    place: Vec<u32>,
}

impl Deadlines {
    /// The earliest deadline.
    pub fn first(&self) -> Option<Time> {
        self.heap.first().map(|&(time, _)| time)
    }

    /// The deadline of a key.
    pub fn of(&self, key: u32) -> Option<Time> {
        match self.place.get(key as usize) {
            Some(&place) if place != NOWHERE => Some(self.heap[place as usize].0),
            _ => None,
        }
    }

    /// Sets the key's deadline, or removes it. Grows the heap's memory only with the number of
    /// keys.
    pub fn set(&mut self, key: u32, deadline: Option<Time>) {
        if self.place.len() <= key as usize {
            self.place.resize(key as usize + 1, NOWHERE);
        }
        let place = self.place[key as usize];
        match (place, deadline) {
            (NOWHERE, None) => {}
            (NOWHERE, Some(time)) => {
                self.heap.push((time, key));
                self.sift(self.heap.len() - 1);
            }
            (place, Some(time)) => {
                self.heap[place as usize].0 = time;
                self.sift(place as usize);
            }
            (place, None) => {
                self.place[key as usize] = NOWHERE;
                self.heap.swap_remove(place as usize);
                if (place as usize) < self.heap.len() {
                    self.sift(place as usize);
                }
            }
        }
    }

    /// Takes the key whose deadline is the earliest, if that is not after `now`.
    pub fn pop_due(&mut self, now: Time) -> Option<u32> {
        let &(time, key) = self.heap.first()?;
        if time > now {
            return None;
        }
        self.set(key, None);
        Some(key)
    }

    /// Moves the entry at `at` up or down to where it belongs and writes down where that is.
    fn sift(&mut self, mut at: usize) {
        while at > 0 && self.heap[at].0 < self.heap[(at - 1) / 2].0 {
            let parent = (at - 1) / 2;
            self.heap.swap(at, parent);
            self.place[self.heap[at].1 as usize] = at as u32;
            at = parent;
        }
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.heap[child].0 < self.heap[least].0 {
                    least = child;
                }
            }
            self.place[self.heap[at].1 as usize] = at as u32;
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            self.place[self.heap[at].1 as usize] = at as u32;
            at = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn random_moves_agree_with_a_sorted_map() {
        let mut deadlines = Deadlines::default();
        let mut model = BTreeMap::<u32, u64>::new();
        let mut seed = 0x5eed_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            seed >> 33
        };
        for _ in 0..20_000 {
            let key = (random() % 50) as u32;
            match random() % 4 {
                0 => {
                    deadlines.set(key, None);
                    model.remove(&key);
                }
                1 => {
                    let now = random() % 1000;
                    let first = model.values().min().copied();
                    match deadlines.pop_due(Time::from_nanos(now)) {
                        Some(key) => {
                            assert_eq!(model.remove(&key), first);
                            assert!(first.is_some_and(|first| first <= now));
                        }
                        None => assert!(first.is_none_or(|first| first > now)),
                    }
                }
                _ => {
                    let time = random() % 1000;
                    deadlines.set(key, Some(Time::from_nanos(time)));
                    model.insert(key, time);
                }
            }
            assert_eq!(deadlines.of(key).map(Time::as_nanos), model.get(&key).copied());
            assert_eq!(deadlines.first().map(Time::as_nanos), model.values().min().copied());
        }
    }
}
