//! The same bytes in every shape.

use crate::{
    chain::Chain,
    error::{Error, Result},
    pool::{Class, Pool},
};

/// A chain of these bytes, cut before each of the `places` (bytes from the start, ascending).
/// Places outside the bytes, and repeated ones, cut nothing.
///
/// # Errors
/// [`Error::NoBuffers`]; nothing is taken.
///
/// ```
/// use mbuf::testing::{cut, plain_pool};
///
/// let chain = cut(&plain_pool(), b"headerpayload", &[2, 6])?;
/// let pieces: Vec<&[u8]> = chain.slices()?.collect();
/// assert_eq!(pieces, [&b"he"[..], b"ader", b"payload"]);
/// # Ok::<(), mbuf::Error>(())
/// ```
pub fn cut(pool: &Pool, bytes: &[u8], places: &[usize]) -> Result<Chain> {
    let mut chain: Option<Chain> = None;
    let mut from = 0;
    for &place in places.iter().chain([&bytes.len()]) {
        if place <= from || place > bytes.len() {
            continue;
        }
        let piece = pool.chain_from(&bytes[from..place])?;
        join(&mut chain, piece)?;
        from = place;
    }
    chain.map_or_else(|| pool.chain(), Ok)
}

/// A chain of these bytes with one byte in each segment.
///
/// # Errors
/// [`Error::NoBuffers`], where the pool has fewer mbufs than there are bytes; nothing is taken.
///
/// ```
/// use mbuf::testing::{bytewise, plain_pool};
///
/// let chain = bytewise(&plain_pool(), b"abc")?;
/// assert_eq!((chain.len(), chain.segments()), (3, 3));
/// # Ok::<(), mbuf::Error>(())
/// ```
pub fn bytewise(pool: &Pool, bytes: &[u8]) -> Result<Chain> {
    let places: Vec<usize> = (1..bytes.len()).collect();
    cut(pool, bytes, &places)
}

/// The chain cut in two at every place, one after the other: `bytes.len() - 1` chains.
///
/// ```
/// use mbuf::testing::{every_cut, plain_pool};
///
/// let pool = plain_pool();
/// for chain in every_cut(&pool, b"abcd") {
///     assert_eq!(chain?.segments(), 2);
/// }
/// # Ok::<(), mbuf::Error>(())
/// ```
pub fn every_cut<'a>(
    pool: &'a Pool,
    bytes: &'a [u8],
) -> impl Iterator<Item = Result<Chain>> + use<'a> {
    (1..bytes.len()).map(move |place| cut(pool, bytes, &[place]))
}

/// A shape that a chain of given bytes may have. Each has been the one that some program did not
/// reckon with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shape {
    /// As few segments as the classes allow.
    Whole,
    /// One byte in each segment.
    Bytewise,
    /// Segments of 1, 2, 3, ... bytes.
    Growing,
    /// Stripped bytes before the first, in the same segment.
    Stripped,
    /// An empty head that was emptied from the front, and the bytes behind it.
    HeadEmpty,
    /// Put together from the back by prepends.
    Prepended,
    /// Shared with another chain: nobody may write.
    Shared,
    /// A private first half, a shared second.
    HalfShared,
    /// Split inside a cluster and joined again: counted, writable, with a bound in the middle.
    SplitCluster,
    /// Pieces from two pools in turn.
    TwoPools,
    /// Memory that a caller owns: read-only.
    External,
}

/// A chain in a certain shape, with what keeps it so (those that share its bytes).
#[derive(Debug)]
pub struct Shaped {
    /// The chain.
    pub chain: Chain,
    companions: Vec<Chain>,
}

impl Shaped {
    /// Chains that share bytes with it. They must never see what is done to the chain.
    pub fn companions(&self) -> &[Chain] {
        &self.companions
    }

    /// The chain and those that share bytes with it, apart.
    pub(crate) fn into_parts(self) -> (Chain, Vec<Chain>) {
        (self.chain, self.companions)
    }
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 11] = [
        Shape::Whole,
        Shape::Bytewise,
        Shape::Growing,
        Shape::Stripped,
        Shape::HeadEmpty,
        Shape::Prepended,
        Shape::Shared,
        Shape::HalfShared,
        Shape::SplitCluster,
        Shape::TwoPools,
        Shape::External,
    ];

    /// A chain of these bytes in this shape, from `pool`; `other` is the second pool of
    /// [`Shape::TwoPools`]. [`Shape::External`] allocates from the heap, the others only what the
    /// `Vec` of companions needs.
    ///
    /// # Errors
    /// [`Error::NoBuffers`]; nothing is taken. ([`Shape::Bytewise`] needs an mbuf for each byte.)
    ///
    /// ```
    /// use mbuf::testing::{Shape, plain_pool};
    ///
    /// let (pool, other) = (plain_pool(), plain_pool());
    /// let shaped = Shape::Shared.make(&pool, &other, &[1; 1000])?;
    /// assert!(!shaped.chain.is_writable());
    /// assert_eq!(shaped.companions()[0].len(), 1000);
    /// # Ok::<(), mbuf::Error>(())
    /// ```
    pub fn make(self, pool: &Pool, other: &Pool, bytes: &[u8]) -> Result<Shaped> {
        let mut companions = Vec::new();
        let chain = match self {
            Shape::Whole => pool.chain_from(bytes)?,
            Shape::Bytewise => bytewise(pool, bytes)?,
            Shape::Growing => growing(bytes.len(), |from, to| pool.chain_from(&bytes[from..to]))?
                .map_or_else(|| pool.chain(), Ok)?,
            Shape::Stripped => {
                let mut chain = pool.chain_from(b"seventeen bytes..")?;
                chain.extend_from_slice(bytes)?;
                chain.trim_front(17)?;
                chain
            }
            Shape::HeadEmpty => {
                let mut chain = pool.chain_from(b"gone")?;
                chain.concat(pool.chain_from(bytes)?)?;
                chain.trim_front(4)?;
                chain
            }
            Shape::Prepended => prepended(pool, bytes)?,
            Shape::Shared => {
                let mut chain = in_cluster(pool, bytes)?;
                companions.push(chain.share()?);
                chain
            }
            Shape::HalfShared => {
                let middle = bytes.len() / 2;
                let mut chain = pool.chain_from(&bytes[..middle])?;
                let mut second = in_cluster(pool, &bytes[middle..])?;
                companions.push(second.share()?);
                chain.concat(second)?;
                chain
            }
            Shape::SplitCluster => {
                let mut chain = in_cluster(pool, bytes)?;
                let tail = chain.split_off(bytes.len() / 2)?;
                chain.concat(tail)?;
                chain
            }
            Shape::TwoPools => growing(bytes.len(), |from, to| {
                let pool = if (to - from) % 2 == 0 { pool } else { other };
                pool.chain_from(&bytes[from..to])
            })?
            .map_or_else(|| other.chain(), Ok)?,
            Shape::External => pool.attach(bytes.to_vec(), ..)?,
        };
        Ok(Shaped { chain, companions })
    }
}

/// Pieces of 1, 2, 3, ... bytes, joined.
fn growing(
    len: usize,
    mut piece: impl FnMut(usize, usize) -> Result<Chain>,
) -> Result<Option<Chain>> {
    let mut chain = None;
    let (mut from, mut step) = (0, 1);
    while from < len {
        let to = (from + step).min(len);
        join(&mut chain, piece(from, to)?)?;
        (from, step) = (to, step + 1);
    }
    Ok(chain)
}

/// From the back, in pieces of at most 50 bytes, the last of them without headroom.
fn prepended(pool: &Pool, bytes: &[u8]) -> Result<Chain> {
    let mut chain = pool.chain_with_headroom(0)?;
    let mut end = bytes.len();
    while end > 0 {
        let from = end.saturating_sub(50);
        chain.prepend_slice(&bytes[from..end])?;
        end = from;
    }
    Ok(chain)
}

/// In clusters even where a small mbuf would do, for the bytes of those are copied, not shared.
fn in_cluster(pool: &Pool, bytes: &[u8]) -> Result<Chain> {
    let mut chain = pool.chain_in(Class::K2, pool.headroom())?;
    chain.extend_from_slice(bytes)?;
    Ok(chain)
}

fn join(chain: &mut Option<Chain>, piece: Chain) -> Result<()> {
    match chain {
        Some(chain) => chain.concat(piece).map_err(Error::from),
        None => {
            *chain = Some(piece);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, assert_all_free, plain_pool, pool};

    #[test]
    fn every_shape_of_every_length_holds_its_bytes() {
        let (pool, other) = (pool(), plain_pool());
        for len in [0, 1, 2, 3, 49, 50, 51, 127, 128, 129, 600, 2100] {
            let bytes = Rng::new(len as u64).bytes(len);
            for shape in Shape::ALL {
                let shaped = shape.make(&pool, &other, &bytes).unwrap();
                shaped.chain.check().unwrap();
                assert_eq!(shaped.chain.to_vec().unwrap(), bytes, "{shape:?} of {len}");
            }
            assert_all_free(&pool);
            assert_all_free(&other);
        }
    }

    #[test]
    fn shapes_are_what_they_are_called() {
        let (pool, other) = (pool(), plain_pool());
        let bytes = Rng::new(9).bytes(1000);
        let make = |shape: Shape| shape.make(&pool, &other, &bytes).unwrap();
        assert_eq!(make(Shape::Whole).chain.segments(), 1);
        assert_eq!(make(Shape::Bytewise).chain.segments(), 1000);
        assert!(!make(Shape::Shared).chain.is_writable());
        assert!(!make(Shape::External).chain.is_writable());
        assert_eq!(make(Shape::SplitCluster).chain.segments(), 2);
        assert!(make(Shape::SplitCluster).chain.is_writable());
        make(Shape::Stripped).chain.restore(17).unwrap();
        make(Shape::HeadEmpty).chain.restore(4).unwrap();
        let two = make(Shape::TwoPools);
        assert!(level_of(&pool) > 0 && level_of(&other) > 0);
        drop(two);
        assert_all_free(&other);
    }

    fn level_of(pool: &Pool) -> usize {
        pool.stats().in_use()
    }

    #[test]
    fn cuts_fall_where_they_are_asked_for() {
        let pool = plain_pool();
        let lens = |places: &[usize]| -> Vec<usize> {
            let chain = cut(&pool, b"0123456789", places).unwrap();
            chain.slices().unwrap().map(<[u8]>::len).collect()
        };
        assert_eq!(lens(&[]), [10]);
        assert_eq!(lens(&[0, 10, 11]), [10]);
        assert_eq!(lens(&[1, 1, 9]), [1, 8, 1]);
        assert_eq!(every_cut(&pool, b"0123456789").count(), 9);
        assert!(cut(&pool, b"", &[1]).unwrap().is_empty());
    }

    #[test]
    fn a_pool_that_is_too_small_is_an_error_and_loses_nothing() {
        let pool = Pool::builder().count(Class::Small, 8).build().unwrap();
        assert!(matches!(bytewise(&pool, &[0; 9]), Err(Error::NoBuffers { .. })));
        assert_all_free(&pool);
    }
}
