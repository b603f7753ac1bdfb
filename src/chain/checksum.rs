//! The Internet checksum (RFC 1071) over chains, and its incremental update (RFC 1624).
//!
//! All values are numbers in host order that go into a header as big-endian (`to_be_bytes`). A
//! *sum* is the ones' complement sum of 16-bit words; a *checksum* is its complement, the value
//! that stands in a header. Over bytes that include a right checksum, the checksum is 0.
//!
//! ```
//! use mbuf::chain::checksum::Sum;
//!
//! let pool = mbuf::Pool::with_memory(1 << 20)?;
//! let datagram = pool.chain_from(&[0x00, 0x07, 0x00, 0x09, 0x00, 0x0b, 0x00, 0x00, 1, 2, 3])?;
//!
//! // UDP over IPv4 (RFC 768): a pseudo header, then header and payload.
//! let mut sum = Sum::ipv4("192.0.2.1".parse()?, "192.0.2.2".parse()?, 17, 11);
//! sum.add_chain(&datagram, ..)?;
//! assert_eq!(sum.checksum(), 0x77c2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeBounds,
};

use crate::{
    chain::Chain,
    error::{Error, Result},
    meta::Offload,
};

/// A ones' complement sum that grows piece by piece, however the pieces are cut.
///
/// A piece of odd length leaves half a word open, which the next piece fills: this is what makes
/// the sum right over segments. Small and `Copy`; no method allocates.
///
/// ```
/// use mbuf::chain::checksum::Sum;
///
/// let mut sum = Sum::new();
/// sum.add(&[0x12, 0x34, 0x56]);
/// sum.add(&[0x78]);
/// assert_eq!(sum.fold(), 0x1234 + 0x5678);
/// assert_eq!(sum.checksum(), !(0x1234 + 0x5678));
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    /// The sum so far, as a word in native order.
    words: u16,
    /// Whether an odd number of bytes was added.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    ///
    /// ```
    /// assert_eq!(mbuf::chain::checksum::Sum::new().fold(), 0);
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The sum of the pseudo header of RFC 768 and RFC 9293: addresses, protocol, and the length
    /// in bytes of transport header and payload.
    ///
    /// ```
    /// use mbuf::chain::checksum::Sum;
    ///
    /// let sum = Sum::ipv4("10.0.0.1".parse()?, "10.0.0.2".parse()?, 6, 20);
    /// assert_eq!(sum.fold(), 0x0a00 + 1 + 0x0a00 + 2 + 6 + 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> Self {
        let word = |bytes| u64::from(u32::from_ne_bytes(bytes));
        let [high, low] = len.to_be_bytes();
        let sum =
            word(source.octets()) + word(destination.octets()) + word([0, protocol, high, low]);
        Self { words: fold_native(sum), odd: false }
    }

    /// The sum of the pseudo header of RFC 8200, section 8.1.
    ///
    /// ```
    /// use mbuf::chain::checksum::Sum;
    ///
    /// let sum = Sum::ipv6("::1".parse()?, "::2".parse()?, 58, 0x1_0000);
    /// assert_eq!(sum.fold(), 1 + 2 + 58 + 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, len: u32) -> Self {
        let word = |bytes| u64::from(u32::from_ne_bytes(bytes));
        let mut sum = word(len.to_be_bytes()) + word([0, 0, 0, next_header]);
        for address in [source, destination] {
            for &bytes in address.octets().as_chunks::<4>().0 {
                sum += word(bytes);
            }
        }
        Self { words: fold_native(sum), odd: false }
    }

    /// Adds bytes. O(n), 32 bytes a turn.
    ///
    /// ```
    /// let mut sum = mbuf::chain::checksum::Sum::new();
    /// sum.add(&[0xff, 0xff, 0x00, 0x01]);
    /// assert_eq!(sum.fold(), 1, "the carry comes back in at the other end");
    /// ```
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        if bytes.len() <= MAX_PIECE {
            return self.add_piece(bytes);
        }
        bytes.chunks(MAX_PIECE).for_each(|piece| self.add_piece(piece));
    }

    fn add_piece(&mut self, piece: &[u8]) {
        let mut sum = words(piece);
        // RFC 1071, 2(B): bytes that start in the middle of a word have a sum that is swapped.
        if self.odd {
            sum = fold_native(sum).swap_bytes().into();
        }
        // What words are added up to leaves room for one more.
        self.words = fold_native(sum + u64::from(self.words));
        self.odd ^= piece.len() % 2 == 1;
    }

    /// Adds a part of a chain. O(n + segments); does not reshape it, and never allocates.
    ///
    /// # Errors
    /// [`Error::TooShort`] where the range reaches past the chain, [`Error::Invalid`] where it
    /// ends before it starts, [`Error::Io`] where an opaque segment cannot be read. The sum is
    /// then unchanged.
    ///
    /// [`Error::TooShort`]: crate::Error::TooShort
    /// [`Error::Invalid`]: crate::Error::Invalid
    /// [`Error::Io`]: crate::Error::Io
    ///
    /// ```
    /// use mbuf::chain::checksum::Sum;
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(&[0xaa, 0x12])?;
    /// chain.concat(pool.chain_from(&[0x34])?)?;
    /// let mut sum = Sum::new();
    /// sum.add_chain(&chain, 1..)?;
    /// assert_eq!(sum.fold(), 0x1234);
    /// assert!(sum.add_chain(&chain, ..4).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_chain(&mut self, chain: &Chain, range: impl RangeBounds<usize>) -> Result<()> {
        let range = chain.resolve(range)?;
        let mut sum = *self;
        let mut start = 0;
        for seg in chain.segs() {
            let end = start + seg.len();
            let part = range.start.max(start)..range.end.min(end);
            if !part.is_empty() {
                let part = part.start - start..part.end - start;
                match seg.bytes() {
                    Some(bytes) => sum.add(&bytes[part]),
                    None => {
                        let mut copy = [0; 4096];
                        for offset in part.clone().step_by(copy.len()) {
                            let copy = &mut copy[..(part.end - offset).min(4096)];
                            seg.read_at(offset, copy)?;
                            sum.add(copy);
                        }
                    }
                }
            }
            if end >= range.end {
                break;
            }
            start = end;
        }
        *self = sum;
        Ok(())
    }

    /// The sum of all that was added, as 16 bits; an open half word counts as if a zero byte
    /// followed.
    ///
    /// ```
    /// let mut sum = mbuf::chain::checksum::Sum::new();
    /// sum.add(&[0x12]);
    /// assert_eq!(sum.fold(), 0x1200);
    /// ```
    pub fn fold(self) -> u16 {
        u16::from_be_bytes(self.words.to_ne_bytes())
    }

    /// The complement of the sum: what stands in a header. (UDP sends 0 as 0xffff, because there
    /// 0 means *no checksum*: RFC 768. This is for the caller to do.)
    ///
    /// ```
    /// let mut sum = mbuf::chain::checksum::Sum::new();
    /// sum.add(&[0x00, 0x01]);
    /// assert_eq!(sum.checksum(), 0xfffe);
    /// ```
    pub fn checksum(self) -> u16 {
        !self.fold()
    }
}

impl Chain {
    /// The Internet checksum (RFC 1071) of a part of the chain: right at odd boundaries between
    /// segments, and 0 over bytes that include a right checksum. O(n + segments); does not
    /// reshape the chain, and never allocates. Where a pseudo header is summed too, see
    /// [`checksum::Sum`](Sum).
    ///
    /// # Errors
    /// [`Error::TooShort`] where the range reaches past the chain, [`Error::Invalid`] where it
    /// ends before it starts, [`Error::Io`] where an opaque segment cannot be read.
    ///
    /// [`Error::TooShort`]: crate::Error::TooShort
    /// [`Error::Invalid`]: crate::Error::Invalid
    /// [`Error::Io`]: crate::Error::Io
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// // The example of RFC 1071, section 3, cut at an odd place.
    /// let mut chain = pool.chain_from(&[0x00, 0x01, 0xf2])?;
    /// chain.concat(pool.chain_from(&[0x03, 0xf4, 0xf5, 0xf6, 0xf7])?)?;
    /// assert_eq!(chain.checksum(..)?, !0xddf2);
    /// assert_eq!(chain.checksum(2..4)?, !0xf203);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn checksum(&self, range: impl RangeBounds<usize>) -> Result<u16> {
        let mut sum = Sum::new();
        sum.add_chain(self, range)?;
        Ok(sum.checksum())
    }
}

/// The Internet checksum of contiguous bytes. O(n).
///
/// ```
/// use mbuf::chain::checksum;
///
/// let mut header = [
///     0x45, 0x00, 0x00, 0x54, 0x00, 0x00, 0x40, 0x00, 0x40, 0x01, // checksum:
///     0x00, 0x00, 0xc0, 0x00, 0x02, 0x01, 0xc0, 0x00, 0x02, 0x02,
/// ];
/// let sum = checksum::of(&header);
/// header[10..12].copy_from_slice(&sum.to_be_bytes());
/// assert_eq!(checksum::of(&header), 0);
/// ```
#[inline]
pub fn of(bytes: &[u8]) -> u16 {
    /// The longest header of IPv4.
    const SHORT: usize = 60;
    // A header is a few whole words: wider lanes would cost more to set up than they save.
    if bytes.len() <= SHORT
        && let (words, []) = bytes.as_chunks::<4>()
    {
        let sum = words.iter().fold(0, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
        return !u16::from_be_bytes(fold_native(sum).to_ne_bytes());
    }
    let mut sum = Sum::new();
    sum.add(bytes);
    sum.checksum()
}

/// The checksum of a header in which one 16-bit word at an even offset was changed: equation 3 of
/// RFC 1624, `HC' = ~(~HC + ~m + m')`. O(1).
///
/// The result has the same meaning to a receiver as a checksum computed anew; where all summed
/// bytes are zero it is 0 where that would be 0xffff.
///
/// ```
/// use mbuf::chain::checksum;
///
/// let before = [0x45, 0x00, 0x40, 0x01];
/// let after = [0x45, 0x00, 0x3f, 0x01]; // the time to live was decremented
/// assert_eq!(checksum::update(checksum::of(&before), 0x4001, 0x3f01), checksum::of(&after));
///
/// // The example of RFC 1624, section 4, which the older equation got wrong.
/// assert_eq!(checksum::update(0xdd2f, 0x5555, 0x3285), 0x0000);
/// ```
pub fn update(old_sum: u16, old_word: u16, new_word: u16) -> u16 {
    !fold(u32::from(!old_sum) + u32::from(!old_word) + u32::from(new_word))
}

/// As [`update`], for a 32-bit field (an IPv4 address) that starts at an even offset. O(1).
///
/// ```
/// use mbuf::chain::checksum;
///
/// let before = [10, 0, 0, 1, 0, 7];
/// let after = [192, 0, 2, 1, 0, 7];
/// let sum = checksum::update_u32(checksum::of(&before), 0x0a00_0001, 0xc000_0201);
/// assert_eq!(sum, checksum::of(&after));
/// ```
pub fn update_u32(old_sum: u16, old: u32, new: u32) -> u16 {
    let sum = update(old_sum, (old >> 16) as u16, (new >> 16) as u16);
    update(sum, old as u16, new as u16)
}

/// Folds the carries of a sum of 16-bit words back into 16 bits. O(1).
///
/// ```
/// assert_eq!(mbuf::chain::checksum::fold(0x2_ddf0), 0xddf2);
/// assert_eq!(mbuf::chain::checksum::fold(u32::MAX), 0xffff);
/// ```
pub fn fold(sum: u32) -> u16 {
    fold_native(u64::from(sum))
}

/// Completes a partial checksum: the field, `field` bytes behind `start`, holds the sum of the pseudo
/// header (not complemented, as Linux and virtio have it), and what becomes of it covers all from
/// `start` to the end of the chain. A result of 0 is written as 0xffff, which means the same and is
/// right for UDP too, where 0 is *no checksum* (RFC 768). The flag
/// [`Offload::CHECKSUM_PARTIAL`] is taken from the metadata.
///
/// Shared bytes of the field are copied first: a sharer never sees the write. O(n + segments).
///
/// # Errors
/// [`Error::TooShort`] where the field is not within the chain, [`Error::NoBuffers`] where shared
/// bytes have to be copied, [`Error::Io`] where an opaque segment cannot be read: unchanged.
///
/// [`Error::TooShort`]: crate::Error::TooShort
/// [`Error::NoBuffers`]: crate::Error::NoBuffers
/// [`Error::Io`]: crate::Error::Io
///
/// ```
/// use mbuf::chain::checksum::{self, Sum};
///
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let pseudo = Sum::ipv4("192.0.2.1".parse()?, "192.0.2.2".parse()?, 17, 11);
/// let mut packet = pool.chain_from(&[0x00, 0x07, 0x00, 0x09, 0x00, 0x0b, 0x00, 0x00, 1, 2, 3])?;
/// packet.copy_back(6, &pseudo.fold().to_be_bytes())?;
/// packet.prepend_slice(&[0x45; 20])?; // whatever comes before it does not matter
/// checksum::complete(&mut packet, 20, 6)?;
/// assert_eq!(packet.to_vec()?[26..28], [0x77, 0xc2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn complete(chain: &mut Chain, start: usize, field: usize) -> Result<()> {
    let at = start.saturating_add(field);
    let needed = at.saturating_add(2);
    if needed > chain.len() {
        return Err(Error::TooShort { needed, available: chain.len() });
    }
    let checksum = match chain.checksum(start..)? {
        0 => 0xffff,
        checksum => checksum,
    };
    chain.copy_back(at, &checksum.to_be_bytes())?;
    let offload = chain.meta().offload();
    chain.meta_mut().set_offload(offload - Offload::CHECKSUM_PARTIAL);
    Ok(())
}

/// The most bytes that [`words`] is given: far from where its lanes would overflow (2^31 turns).
const MAX_PIECE: usize = 1 << 30;

/// The sum of at most [`MAX_PIECE`] bytes as 16-bit words in native order, carries not folded; a
/// last odd byte counts as if a zero followed.
///
/// RFC 1071, 2(C): the sum may be taken over wider words as long as the carries come back in. Each
/// 8 bytes are added as two halves of 32 bits, so that a lane of 64 bits loses no carry, and the
/// compiler can keep several lanes in one vector.
fn words(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0_u64; 4];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane += halves(u64::from_ne_bytes(*word));
        }
    }
    let mut sum = lanes.into_iter().map(halves).sum();
    let (long, rest) = rest.as_chunks::<8>();
    for word in long {
        sum += halves(u64::from_ne_bytes(*word));
    }
    let (pairs, odd) = rest.as_chunks::<2>();
    for pair in pairs {
        sum += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [last] = odd {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

/// The sum of the two halves: the same modulo 2^16 - 1, and with room for carries.
fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// Folds the carries into 16 bits; after the fourth step none is left, from any 64-bit sum.
fn fold_native(sum: u64) -> u16 {
    let sum = halves(halves(sum));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, section 1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn any_bytes_sum_as_the_naive_way(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(of(&bytes), naive(&bytes));
        }

        #[test]
        fn the_cuts_do_not_show(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(0_usize..300, 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut sum = Sum::new();
            let mut start = 0;
            for cut in cuts {
                sum.add(&bytes[start..cut]);
                start = cut;
            }
            prop_assert_eq!(sum.checksum(), naive(&bytes));
        }

        #[test]
        fn an_update_is_as_good_as_a_new_sum(
            mut bytes in prop::collection::vec(any::<u8>(), 2..80),
            at in 0_usize..40,
            new in any::<u16>(),
        ) {
            let at = at * 2 % (bytes.len() / 2 * 2);
            // A byte that is not zero and not touched: sums of nothing but zeroes have two names.
            bytes.extend([1, 0]);
            if bytes.len() % 2 == 1 {
                bytes.push(0);
            }
            let old_sum = of(&bytes);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(old_sum, old, new), of(&bytes));
        }
    }

    #[test]
    fn a_partial_checksum_is_completed_however_the_chain_is_cut_and_shared() {
        let pool = crate::Pool::with_memory(1 << 20).unwrap();
        let pseudo = Sum::ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 29);
        let mut bytes = vec![0xaa; 14];
        bytes.extend([0, 7, 0, 9, 0, 29]);
        bytes.extend(pseudo.fold().to_be_bytes());
        bytes.extend(1..=21);
        let whole = naive(&bytes[14..]);
        for cut in 1..bytes.len() {
            let mut chain = pool.chain_from(&bytes[..cut]).unwrap();
            chain.concat(pool.chain_from(&bytes[cut..]).unwrap()).unwrap();
            chain.meta_mut().set_offload(Offload::CHECKSUM_PARTIAL | Offload::SEGMENTED);
            let other = chain.share().unwrap();
            complete(&mut chain, 14, 6).unwrap();
            assert_eq!(chain.to_vec().unwrap()[20..22], whole.to_be_bytes(), "cut at {cut}");
            assert_eq!(chain.meta().offload(), Offload::SEGMENTED);
            assert_eq!(other.to_vec().unwrap(), bytes, "a sharer sees no write");
        }
    }

    #[test]
    fn a_completed_checksum_is_never_zero_and_a_field_outside_is_refused() {
        let pool = crate::Pool::with_memory(1 << 20).unwrap();
        let mut chain = pool.chain_from(&[0xff, 0xff, 0, 0]).unwrap();
        complete(&mut chain, 0, 2).unwrap();
        assert_eq!(chain.to_vec().unwrap(), [0xff; 4]);
        for (start, field) in [(0, 3), (4, 0), (3, 0), (usize::MAX, 1), (0, usize::MAX)] {
            let error = complete(&mut chain, start, field).unwrap_err();
            assert!(matches!(error, Error::TooShort { available: 4, .. }), "{error}");
        }
        assert_eq!(chain.to_vec().unwrap(), [0xff; 4]);
    }

    #[test]
    fn all_ones_of_every_length_do_not_overflow() {
        for len in (0..200).chain([65_535, 65_536, 1 << 20]) {
            let bytes = vec![0xff; len];
            assert_eq!(of(&bytes), naive(&bytes), "{len} bytes");
        }
    }

    #[test]
    fn folding_reaches_sixteen_bits_from_anywhere() {
        for sum in [0, 0xffff, 0x1_0000, u64::MAX, u64::MAX - 1, 0xffff_0001_0000, u64::MAX >> 1] {
            let folded = u64::from(fold_native(sum));
            assert_eq!(folded % 0xffff, sum % 0xffff, "{sum:#x}");
            assert!(sum == 0 || folded != 0, "{sum:#x}: a sum that is not zero stays so");
        }
    }
}
