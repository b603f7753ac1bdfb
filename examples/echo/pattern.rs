//! What is sent: a long run of bytes in which each depends on its place.

use std::{fmt, sync::LazyLock};

use mbuf::{Chain, Pool, Result};

/// The pattern repeats after so many bytes: a prime, so that no buffer size hides a mix-up.
const PERIOD: usize = 65_521;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(PERIOD)
    .collect()
});

/// A byte that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// Its place in what was checked.
    pub at: u64,
    pub expected: u8,
    pub found: u8,
}

impl Wrong {
    /// The same byte, counted from where `before` other bytes begin.
    pub fn behind(self, before: u64) -> Self {
        Self { at: self.at + before, ..self }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong { at, expected, found } = self;
        write!(f, "byte {at} is {found:#04x} and should be {expected:#04x}")
    }
}

/// A chain that holds the `len` bytes of the pattern from place `at` on.
pub fn chain(pool: &Pool, at: u64, len: usize) -> Result<Chain> {
    let mut pieces = pieces(at, len);
    let mut chain = pool.chain_from(pieces.next().unwrap_or_default())?;
    for piece in pieces {
        chain.extend_from_slice(piece)?;
    }
    Ok(chain)
}

/// Compares a chain with the pattern from place `at` on, however the chain is cut.
pub fn check(chain: &Chain, at: u64) -> Result<Option<Wrong>> {
    let mut checked = 0;
    for slice in chain.slices()? {
        let mut rest = slice;
        for expected in pieces(at + checked, slice.len()) {
            let (found, after) = rest.split_at(expected.len());
            if found != expected {
                let place = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
                return Ok(Some(Wrong {
                    at: checked + place as u64,
                    expected: expected[place],
                    found: found[place],
                }));
            }
            checked += expected.len() as u64;
            rest = after;
        }
    }
    Ok(None)
}

/// The bytes from place `at` on, in as many pieces as the pattern's end makes of them.
fn pieces(at: u64, len: usize) -> impl Iterator<Item = &'static [u8]> {
    let (mut start, mut left) = ((at % PERIOD as u64) as usize, len);
    std::iter::from_fn(move || {
        let n = left.min(PERIOD - start);
        let piece = &PATTERN[start..start + n];
        left -= n;
        start = 0;
        (n > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_checks_and_a_changed_byte_does_not() {
        let pool = Pool::with_memory(4 << 20).unwrap();
        for (at, len) in [(0, 0), (0, 1), (65_500, 100), (1 << 40, 200_000)] {
            let mut made = chain(&pool, at, len).unwrap();
            assert_eq!(made.len(), len);
            assert_eq!(check(&made, at), Ok(None));
            if len > 0 {
                let place = len / 2;
                let mut byte = [0];
                made.peek(place, &mut byte).unwrap();
                made.copy_back(place, &[!byte[0]]).unwrap();
                let wrong = check(&made, at).unwrap().unwrap();
                assert_eq!((wrong.at, wrong.found), (place as u64, !byte[0]));
            }
        }
        assert_eq!(pool.stats().in_use(), 0);
    }

    #[test]
    fn a_message_in_the_place_of_another_shows() {
        let pool = Pool::with_memory(4 << 20).unwrap();
        let made = chain(&pool, 1000, 64).unwrap();
        for other in (0..2000).filter(|at| *at != 1000) {
            assert!(check(&made, other).unwrap().is_some());
        }
    }
}
