//! Chance from a seed.

/// A small generator of pseudo-random numbers: SplitMix64 (Steele, Lea and Flood, *Fast
/// splittable pseudorandom number generators*, OOPSLA 2014).
///
/// The same seed gives the same numbers on every machine and in every version of this crate, so
/// a failure that a test found is found again by its seed. Not for secrets. Every method is O(1)
/// in time save those that fill memory.
///
/// ```
/// use mbuf::testing::Rng;
///
/// let mut rng = Rng::new(0);
/// assert_eq!(rng.next_u64(), 0xe220_a839_7b1d_cdaf); // the reference value for seed 0
/// assert!(rng.below(6) < 6);
/// assert_eq!(Rng::new(7).bytes(100), Rng::new(7).bytes(100));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts from `seed`; every seed is as good as any other.
    ///
    /// ```
    /// use mbuf::testing::Rng;
    ///
    /// assert_eq!(Rng::new(7).next_u64(), Rng::new(7).next_u64());
    /// ```
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    ///
    /// ```
    /// use mbuf::testing::Rng;
    ///
    /// let mut rng = Rng::new(7);
    /// assert_ne!(rng.next_u64(), rng.next_u64());
    /// ```
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 where `n` is 0. (The bias, below n/2^64, does not matter here.)
    ///
    /// ```
    /// use mbuf::testing::Rng;
    ///
    /// let mut rng = Rng::new(7);
    /// assert!((0..100).all(|_| rng.below(6) < 6));
    /// assert_eq!(rng.below(0), 0);
    /// ```
    pub fn below(&mut self, n: usize) -> usize {
        ((self.next_u64() as u128 * n as u128) >> 64) as usize
    }

    /// A number from `low` to `high`, both included; `low` where `high` is less.
    ///
    /// ```
    /// use mbuf::testing::Rng;
    ///
    /// let mut rng = Rng::new(7);
    /// assert!((0..100).all(|_| (1..=6).contains(&rng.between(1, 6))));
    /// ```
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// `true` in `per_mille` of a thousand cases.
    ///
    /// ```
    /// use mbuf::testing::Rng;
    ///
    /// let mut rng = Rng::new(7);
    /// assert!(rng.chance(1000) && !rng.chance(0));
    /// ```
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < per_mille as usize
    }

    /// Fills `out`.
    ///
    /// ```
    /// use mbuf::testing::Rng;
    ///
    /// let mut bytes = [0; 16];
    /// Rng::new(7).fill(&mut bytes);
    /// assert_eq!(bytes[..], Rng::new(7).bytes(16));
    /// ```
    pub fn fill(&mut self, out: &mut [u8]) {
        for piece in out.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }

    /// So many bytes in a new `Vec`.
    ///
    /// ```
    /// use mbuf::testing::Rng;
    ///
    /// assert_eq!(Rng::new(7).bytes(100).len(), 100);
    /// ```
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_every_value_occurs() {
        let mut rng = Rng::new(3);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[rng.below(5)] += 1;
        }
        assert!(seen.iter().all(|&n| n > 100), "{seen:?}");
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.between(4, 4), 4);
        assert_eq!(rng.between(9, 2), 9);
        assert!((0..100).all(|_| (2..=4).contains(&rng.between(2, 4))));
        assert!((0..100).all(|_| !rng.chance(0) && rng.chance(1000)));
        let hits = (0..10_000).filter(|_| rng.chance(100)).count();
        assert!((700..1300).contains(&hits), "{hits} of 10,000 at 100 in a thousand");
    }

    #[test]
    fn fill_reaches_every_byte_of_every_length() {
        for len in 0..40 {
            let mut any = vec![0; len];
            let mut rng = Rng::new(len as u64);
            for _ in 0..8 {
                any.iter_mut().zip(rng.bytes(len)).for_each(|(a, b)| *a |= b);
            }
            assert!(any.iter().all(|&byte| byte != 0), "length {len}: {any:?}");
        }
    }
}
