//! Reassembly of fragmented datagrams: one engine for IPv4 (RFC 791, 3.2; RFC 815) and IPv6
//! (RFC 8200, 4.5; RFC 5722).
//!
//! ```text
//! datagram   |<-------- 0 ........ 1480 -------->|<------ ... ------>|<-- last: no more follow
//! fragments   [offset 0, more]                    [1480, more]        [2960]
//! ```
//!
//! It knows no header: the layer above strips it, and gives the offset in bytes, whether more
//! fragments follow, and a key that names the datagram (addresses, identification, protocol).
//!
//! **What a hostile peer gets.** An overlap, or two ends that disagree, discards the whole datagram
//! and whatever still comes of it until its time is over (RFC 5722); an exact duplicate is refused
//! alone. A fragment that reaches beyond the longest datagram, that is empty, or that is no
//! multiple of 8 bytes while more follow, is refused. What is held is bounded in datagrams, in
//! fragments of each, in storage, and in age from the first fragment on; where room is needed the
//! oldest datagram goes.
//!
//! **Accounting.** A chain that the engine lets go is never dropped in silence: it waits in a list
//! that [`bury`](Reassembly::bury) counts as drops of the layer. Call it after each
//! [`insert`](Reassembly::insert), [`expire`](Reassembly::expire) and
//! [`clear`](Reassembly::clear).

use std::{hash::Hash, mem, time::Duration};

use mbuf::{
    Chain,
    meta::Offload,
    stack::{Context, DropReason, Held, Time},
};

/// Fragments that overlap, or disagree about the end: the whole datagram is discarded.
pub const OVERLAP: DropReason = DropReason("fragment_overlap");
/// A fragment that is there already, byte for byte.
pub const DUPLICATE: DropReason = DropReason("fragment_duplicate");
/// A fragment that is empty, or whose length is no multiple of 8 while more follow.
pub const BAD_FRAGMENT: DropReason = DropReason("bad_fragment");
/// A fragment that reaches beyond the longest datagram there can be.
pub const FRAGMENT_TOO_LONG: DropReason = DropReason("fragment_too_long");
/// The other fragments did not come in time.
pub const REASSEMBLY_TIMEOUT: DropReason = DropReason("reassembly_timeout");
/// Given up for the fragments of a newer datagram.
pub const EVICTED: DropReason = DropReason("fragment_evicted");

/// All reasons of the engine's own, for the `LayerInfo` of the layer that has one.
pub const REASONS: [DropReason; 6] =
    [OVERLAP, DUPLICATE, BAD_FRAGMENT, FRAGMENT_TOO_LONG, REASSEMBLY_TIMEOUT, EVICTED];

/// How much the engine may hold.
///
/// ```
/// use mbuf_protocols::net::reassembly::Limits;
///
/// assert_eq!(Limits::default().datagrams, 64);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Unfinished datagrams (64).
    pub datagrams: usize,
    /// Fragments of one datagram (64).
    pub fragments: usize,
    /// Storage that all of them pin, in bytes (1 MiB).
    pub footprint: usize,
    /// How long a datagram may take from its first fragment on (30 s).
    pub age: Duration,
    /// The longest datagram, without its IP header, in bytes (65,535; IPv4 has 20 less).
    pub longest: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            datagrams: 64,
            fragments: 64,
            footprint: 1 << 20,
            age: Duration::from_secs(30),
            longest: 65_535,
        }
    }
}

/// What became of a fragment.
#[derive(Debug)]
#[must_use = "a chain in it must go somewhere"]
pub enum Verdict {
    /// It is held until the others come.
    Held,
    /// The datagram is whole: the metadata and the stripped header are those of its first
    /// fragment. So many chains were merged into it, for `cx.merged`.
    Complete(Chain, usize),
    /// This fragment is not wanted; the datagram stays as it was.
    Refused(Chain, DropReason),
    /// The datagram was given up with all its fragments, this one among them: so many chains wait
    /// to be [buried](Reassembly::bury).
    Discarded {
        /// How many.
        chains: usize,
        /// Why.
        reason: DropReason,
    },
}

/// A fragment that is held: bytes `start..end` of its datagram.
#[derive(Debug)]
struct Piece {
    start: usize,
    end: usize,
    footprint: usize,
    chain: Chain,
}

/// Invariant: `pieces` are sorted, disjoint, not empty, and end at `total` or before; none are left
/// where `refused` says why the datagram was given up.
#[derive(Debug)]
struct Datagram<K> {
    key: K,
    born: Time,
    /// Where it ends, once the last fragment has come.
    total: Option<usize>,
    /// How many bytes are there.
    bytes: usize,
    pieces: Vec<Piece>,
    refused: Option<DropReason>,
}

/// Fragments of datagrams that are not whole yet.
///
/// Its tables are made once and grow to the limits only: warm, it takes nothing from the heap.
///
/// ```
/// use mbuf::stack::Time;
/// use mbuf_protocols::net::reassembly::{Limits, Reassembly, Verdict};
///
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let mut engine = Reassembly::new(Limits::default());
/// let last = pool.chain_from(b" whole")?;
/// assert!(matches!(engine.insert(7_u32, 8, false, last, Time::ZERO), Verdict::Held));
/// let first = pool.chain_from(b"it comes")?;
/// match engine.insert(7, 0, true, first, Time::ZERO) {
///     Verdict::Complete(datagram, 1) => assert_eq!(datagram.to_vec()?, b"it comes whole"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reassembly<K> {
    limits: Limits,
    /// By age, the oldest first.
    datagrams: Vec<Datagram<K>>,
    held: Held,
    /// Empty lists that have room.
    spare: Vec<Vec<Piece>>,
    /// What is to be counted as dropped.
    grave: Vec<(Chain, DropReason)>,
}

impl<K: Eq + Hash + Copy> Reassembly<K> {
    /// An engine that holds nothing. (A limit of 0 datagrams or fragments refuses everything.)
    ///
    /// ```
    /// # use mbuf_protocols::net::reassembly::{Limits, Reassembly};
    /// assert_eq!(Reassembly::<u32>::new(Limits::default()).held().chains, 0);
    /// ```
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            datagrams: Vec::with_capacity(limits.datagrams.min(4096)),
            held: Held::default(),
            spare: Vec::new(),
            grave: Vec::new(),
        }
    }

    /// Takes a fragment that starts at byte `offset` of the datagram `key`; `more` says whether
    /// others follow it. O(datagrams + its fragments); copies the bytes only where they pin more
    /// than four times their length. [`Reassembly::bury`] is to be called afterwards.
    ///
    /// Of the first fragment the header that was stripped (`transport_offset - network_offset`
    /// bytes of it) is kept, so that it can be quoted.
    ///
    /// ```
    /// # use mbuf::stack::Time;
    /// # use mbuf_protocols::net::reassembly::{BAD_FRAGMENT, Limits, Reassembly, Verdict};
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut engine = Reassembly::new(Limits::default());
    /// let seven = pool.chain_from(&[0; 7])?; // and more follow
    /// match engine.insert((), 0, true, seven, Time::ZERO) {
    ///     Verdict::Refused(chain, reason) => assert_eq!((chain.len(), reason), (7, BAD_FRAGMENT)),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn insert(
        &mut self,
        key: K,
        offset: usize,
        more: bool,
        mut chain: Chain,
        now: Time,
    ) -> Verdict {
        let len = chain.len();
        if len == 0 || !offset.is_multiple_of(8) || more && !len.is_multiple_of(8) {
            return Verdict::Refused(chain, BAD_FRAGMENT);
        }
        let end = offset.saturating_add(len);
        if end > self.limits.longest {
            return Verdict::Refused(chain, FRAGMENT_TOO_LONG);
        }
        let found = self.datagrams.iter().position(|datagram| datagram.key == key);
        if let Some(datagram) = found.and_then(|place| self.datagrams.get(place)) {
            match datagram.fits(offset, end, more, &chain) {
                Fit::New if datagram.pieces.len() < self.limits.fragments => {}
                Fit::New => return self.give_up(found, chain, DropReason::LIMIT),
                Fit::Again => return Verdict::Refused(chain, DUPLICATE),
                Fit::Never(reason) => return Verdict::Refused(chain, reason),
                Fit::Overlap => return self.give_up(found, chain, OVERLAP),
            }
        } else if self.limits.datagrams == 0 || self.limits.fragments == 0 {
            return Verdict::Refused(chain, DropReason::LIMIT);
        }
        if !compact(&mut chain, offset == 0) {
            return Verdict::Refused(chain, DropReason::NO_BUFFERS);
        }
        let footprint = chain.footprint();
        let own: usize = found
            .and_then(|place| self.datagrams.get(place))
            .map_or(0, |datagram| datagram.pieces.iter().map(|piece| piece.footprint).sum());
        if own.saturating_add(footprint) > self.limits.footprint {
            return self.give_up(found, chain, DropReason::LIMIT);
        }
        let mut place = self.make_room(found, footprint);
        if found.is_none() {
            let pieces = self.spare.pop().unwrap_or_default();
            self.datagrams.push(Datagram {
                key,
                born: now,
                total: None,
                bytes: 0,
                pieces,
                refused: None,
            });
            place = self.datagrams.len() - 1;
        }
        let Some(datagram) = self.datagrams.get_mut(place) else {
            return Verdict::Refused(chain, DropReason::LIMIT);
        };
        let at = datagram.pieces.partition_point(|piece| piece.start < offset);
        datagram.pieces.insert(at, Piece { start: offset, end, footprint, chain });
        datagram.bytes += len;
        if !more {
            datagram.total = Some(end);
        }
        let whole = datagram.total == Some(datagram.bytes);
        self.held += Held { chains: 1, footprint };
        if whole { self.join(place) } else { Verdict::Held }
    }

    /// Takes out the datagrams whose time is over: of each the key, the first fragment if it is
    /// there (to quote: it is the caller's now), and how many others wait to be
    /// [buried](Reassembly::bury). What is not asked for stays.
    ///
    /// ```
    /// # use mbuf::stack::Time;
    /// # use mbuf_protocols::net::reassembly::{Limits, Reassembly, Verdict};
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut engine = Reassembly::new(Limits::default());
    /// let fragment = pool.chain_from(&[0; 8])?;
    /// assert!(matches!(engine.insert('a', 0, true, fragment, Time::ZERO), Verdict::Held));
    /// assert!(engine.expire(Time::from_millis(29_999)).next().is_none());
    /// let (key, first, others) = engine.expire(Time::from_millis(30_000)).next().unwrap();
    /// assert_eq!((key, first.unwrap().len(), others), ('a', 8, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn expire(
        &mut self,
        now: Time,
    ) -> impl Iterator<Item = (K, Option<Chain>, usize)> + use<'_, K> {
        std::iter::from_fn(move || {
            while self.next_expiry().is_some_and(|expiry| expiry <= now) {
                let mut datagram = self.datagrams.remove(0);
                if datagram.refused.is_some() {
                    self.recycle(datagram.pieces);
                    continue;
                }
                let first = match datagram.pieces.first() {
                    Some(piece) if piece.start == 0 => {
                        let piece = datagram.pieces.remove(0);
                        self.release(&piece);
                        Some(piece.chain)
                    }
                    _ => None,
                };
                let key = datagram.key;
                let dropped = self.inter(datagram.pieces, REASSEMBLY_TIMEOUT);
                return Some((key, first, dropped));
            }
            None
        })
    }

    /// When the next datagram's time is over. O(1).
    ///
    /// ```
    /// # use mbuf_protocols::net::reassembly::{Limits, Reassembly};
    /// assert_eq!(Reassembly::<u32>::new(Limits::default()).next_expiry(), None);
    /// ```
    pub fn next_expiry(&self) -> Option<Time> {
        self.datagrams.first().map(|datagram| datagram.born + self.limits.age)
    }

    /// What is held. O(1).
    ///
    /// ```
    /// # use mbuf::stack::Held;
    /// # use mbuf_protocols::net::reassembly::{Limits, Reassembly};
    /// assert_eq!(Reassembly::<u32>::new(Limits::default()).held(), Held::default());
    /// ```
    pub fn held(&self) -> Held {
        self.held
    }

    /// Gives up everything, also what is remembered of datagrams that were discarded: at
    /// `Signal::Shutdown`, or when memory is low. Answers how many chains wait to be
    /// [buried](Reassembly::bury).
    ///
    /// ```
    /// # use mbuf::stack::DropReason;
    /// # use mbuf_protocols::net::reassembly::{Limits, Reassembly};
    /// assert_eq!(Reassembly::<u32>::new(Limits::default()).clear(DropReason::CLOSED), 0);
    /// ```
    pub fn clear(&mut self, reason: DropReason) -> usize {
        let mut chains = 0;
        while let Some(datagram) = self.datagrams.pop() {
            chains += self.inter(datagram.pieces, reason);
        }
        chains
    }

    /// The next chain that was let go, and why. [`Reassembly::bury`] does this for all.
    ///
    /// ```
    /// # use mbuf_protocols::net::reassembly::{Limits, Reassembly};
    /// assert!(Reassembly::<u32>::new(Limits::default()).pop_dropped().is_none());
    /// ```
    pub fn pop_dropped(&mut self) -> Option<(Chain, DropReason)> {
        self.grave.pop()
    }

    /// Drops the chains that were let go, each counted by its reason as a drop of the layer.
    pub fn bury(&mut self, cx: &mut Context<'_>) {
        while let Some((chain, reason)) = self.grave.pop() {
            let outcome = cx.drop(chain, reason);
            cx.apply(outcome);
        }
    }

    /// Makes room for one more fragment of the datagram at `found`, or of a new one, by giving up
    /// the oldest others. Answers where that datagram is by then.
    fn make_room(&mut self, found: Option<usize>, footprint: usize) -> usize {
        let mut place = found;
        loop {
            let full = place.is_none() && self.datagrams.len() >= self.limits.datagrams;
            if !full && self.held.footprint.saturating_add(footprint) <= self.limits.footprint {
                break;
            }
            // One that was discarded already pins nothing, but counts as a datagram.
            let oldest = self.datagrams.iter().enumerate().position(|(i, datagram)| {
                Some(i) != place && (full || !datagram.pieces.is_empty())
            });
            let Some(oldest) = oldest else { break };
            let datagram = self.datagrams.remove(oldest);
            self.inter(datagram.pieces, EVICTED);
            place = place.map(|place| if oldest < place { place - 1 } else { place });
        }
        place.unwrap_or(self.datagrams.len())
    }

    /// Discards the datagram with the fragment that was too much, and remembers that.
    fn give_up(&mut self, found: Option<usize>, chain: Chain, reason: DropReason) -> Verdict {
        let Some(datagram) = found.and_then(|place| self.datagrams.get_mut(place)) else {
            return Verdict::Refused(chain, reason);
        };
        datagram.refused = Some(reason);
        datagram.total = None;
        datagram.bytes = 0;
        let pieces = mem::take(&mut datagram.pieces);
        let chains = self.inter(pieces, reason) + 1;
        self.grave.push((chain, reason));
        Verdict::Discarded { chains, reason }
    }

    /// The datagram at `place` is whole.
    fn join(&mut self, place: usize) -> Verdict {
        let mut pieces = self.datagrams.remove(place).pieces;
        let mut merged = 0;
        let mut whole: Option<Chain> = None;
        for piece in pieces.drain(..) {
            self.release(&piece);
            match &mut whole {
                None => whole = Some(piece.chain),
                Some(whole) => match whole.concat(piece.chain) {
                    Ok(()) => merged += 1,
                    // Longer than 4 GiB: not with these limits.
                    Err(rejected) => self.grave.push((rejected.value, FRAGMENT_TOO_LONG)),
                },
            }
        }
        self.recycle(pieces);
        match whole {
            None => Verdict::Discarded { chains: 0, reason: BAD_FRAGMENT },
            Some(mut chain) => {
                // A device that summed up a fragment has not summed up the datagram.
                let offload = chain.meta().offload();
                chain
                    .meta_mut()
                    .set_offload(offload - Offload::CHECKSUM_VERIFIED - Offload::CHECKSUM_PARTIAL);
                Verdict::Complete(chain, merged)
            }
        }
    }

    fn release(&mut self, piece: &Piece) {
        self.held.chains = self.held.chains.saturating_sub(1);
        self.held.footprint = self.held.footprint.saturating_sub(piece.footprint);
    }

    /// Lets the pieces go, for that reason.
    fn inter(&mut self, mut pieces: Vec<Piece>, reason: DropReason) -> usize {
        let chains = pieces.len();
        for piece in pieces.drain(..) {
            self.release(&piece);
            self.grave.push((piece.chain, reason));
        }
        self.recycle(pieces);
        chains
    }

    fn recycle(&mut self, pieces: Vec<Piece>) {
        if pieces.capacity() > 0 && self.spare.len() < self.limits.datagrams {
            self.spare.push(pieces);
        }
    }
}

/// How a fragment goes with those that are there.
enum Fit {
    New,
    Again,
    Overlap,
    Never(DropReason),
}

impl<K> Datagram<K> {
    fn fits(&self, start: usize, end: usize, more: bool, chain: &Chain) -> Fit {
        if let Some(reason) = self.refused {
            return Fit::Never(reason);
        }
        let next = self.pieces.partition_point(|piece| piece.end <= start);
        if let Some(piece) = self.pieces.get(next).filter(|piece| piece.start < end) {
            let same_end = more == (self.total != Some(end));
            let same = (piece.start, piece.end) == (start, end) && same_end;
            return if same && same_bytes(&piece.chain, chain) { Fit::Again } else { Fit::Overlap };
        }
        let last = self.pieces.last().map_or(0, |piece| piece.end);
        let beyond = self.total.is_some_and(|total| end > total || !more);
        // The last fragment must not end before one that is there.
        if beyond || !more && end < last { Fit::Overlap } else { Fit::New }
    }
}

/// Whether both have the same bytes. O(n); unreadable ones are not the same.
fn same_bytes(one: &Chain, other: &Chain) -> bool {
    let (mut a, mut b) = ([0; 256], [0; 256]);
    one.len() == other.len()
        && (0..one.len()).step_by(a.len()).all(|offset| {
            let n = a.len().min(one.len() - offset);
            match (a.get_mut(..n), b.get_mut(..n)) {
                (Some(a), Some(b)) => {
                    one.peek(offset, a).is_ok() && other.peek(offset, b).is_ok() && a == b
                }
                _ => false,
            }
        })
}

/// Compacts a chain that is to be held; the first fragment with the header that was stripped.
fn compact(chain: &mut Chain, first: bool) -> bool {
    let meta = chain.meta();
    let header = usize::from(meta.transport_offset().saturating_sub(meta.network_offset()));
    if !first || header == 0 || chain.restore(header).is_err() {
        return chain.compact_to_hold().is_ok();
    }
    let compacted = chain.compact_to_hold().is_ok();
    // What was restored is there to be taken off again.
    chain.trim_front(header).is_ok() && compacted
}

#[cfg(test)]
mod tests;
