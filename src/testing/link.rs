//! A line in memory, as bad as one likes.

use std::{collections::VecDeque, io, time::Duration};

use crate::{
    error::Error,
    io::{Received, Sent, Sink, Source},
    meta::{Address, Meta},
    pool::Receiver,
    queue::{Batch, Queue},
    stack::Time,
};

use super::{Clock, Faults, LinkStats, Rng};

/// One direction of a line in memory: a [`Sink`] at one end, a [`Source`] at the other.
///
/// In **packet** mode it loses, reorders, duplicates, corrupts and delays by a seed. In
/// **stream** mode nothing is lost: bytes are cut at random places, taken in random portions,
/// and refused while the line holds its capacity, as by a peer that does not read.
///
/// What is on the line is held in memory of its own, so the sender's mbufs are free as soon as
/// the line has taken the bytes. Each packet keeps its addresses (or gets those of
/// [`between`](Self::between)); the rest of its metadata does not travel.
///
/// ```
/// use std::time::Duration;
/// use mbuf::{Batch, Queue, io::{Received, Sink, Source}};
/// use mbuf::testing::{Clock, Faults, Link, plain_pool};
///
/// let (pool, clock) = (plain_pool(), Clock::new());
/// let ms = Duration::from_millis(1);
/// let mut link = Link::packets(&clock, 1, Faults::none().delay(ms, ms));
/// let (mut queue, mut batch) = (Queue::new(8, 1000), Batch::new());
/// queue.push(pool.chain_from(b"late")?)?;
/// link.send(&mut queue)?;
/// let receiver = pool.receiver();
/// assert_eq!(link.recv(&receiver, &mut batch)?, Received::WouldBlock);
/// clock.advance(ms);
/// assert_eq!(link.recv(&receiver, &mut batch)?, Received::Chains(1));
/// assert_eq!(batch.pop().unwrap().to_vec()?, b"late");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Link {
    clock: Clock,
    rng: Rng,
    mode: Mode,
    /// In the order of arrival.
    line: VecDeque<Flight>,
    /// Bytes in `line`.
    bytes: usize,
    /// A packet that waits to be overtaken.
    late: Option<Flight>,
    between: Option<(Address, Address)>,
    closed: bool,
    stats: LinkStats,
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    Packets(Faults),
    Stream { capacity: usize },
}

#[derive(Debug, Clone)]
struct Flight {
    due: Time,
    bytes: Vec<u8>,
    source: Address,
    destination: Address,
}

impl Link {
    /// Packets on a line at a time; what is sent beyond is lost.
    pub const MAX_PACKETS: usize = 65_536;

    /// A line for packets.
    pub fn packets(clock: &Clock, seed: u64, faults: Faults) -> Self {
        Self::new(clock, seed, Mode::Packets(faults))
    }

    /// A line for a stream, which holds at most `capacity` bytes (at least 1).
    pub fn stream(clock: &Clock, seed: u64, capacity: usize) -> Self {
        Self::new(clock, seed, Mode::Stream { capacity: capacity.max(1) })
    }

    fn new(clock: &Clock, seed: u64, mode: Mode) -> Self {
        Self {
            clock: clock.clone(),
            rng: Rng::new(seed),
            mode,
            line: VecDeque::new(),
            bytes: 0,
            late: None,
            between: None,
            closed: false,
            stats: LinkStats::default(),
        }
    }

    /// All that arrives comes from `source` and was sent to `destination`, as on a socket.
    pub fn between(mut self, source: Address, destination: Address) -> Self {
        self.between = Some((source, destination));
        self
    }

    /// Nothing more will be sent: after what is on the line, the far end sees
    /// [`Received::Closed`].
    pub fn close(&mut self) {
        self.closed = true;
        self.release_late();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Loses what is on the line, and closes it: a connection reset.
    pub fn reset(&mut self) {
        self.stats.lost += self.line.len() as u64 + u64::from(self.late.is_some());
        self.line.clear();
        self.late = None;
        self.bytes = 0;
        self.closed = true;
    }

    /// What has happened so far.
    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    /// Bytes on the line.
    pub fn in_flight(&self) -> usize {
        self.bytes + self.late.as_ref().map_or(0, |flight| flight.bytes.len())
    }

    /// When the next packet or byte arrives; past or present means now. `None`: the line is
    /// empty. (A packet that waits to be overtaken is let go if nothing comes after it.)
    pub fn next_arrival(&self) -> Option<Time> {
        self.line.front().or(self.late.as_ref()).map(|flight| flight.due)
    }

    /// Whether [`Source::recv`] has something to say now.
    pub fn is_ready(&self) -> bool {
        match self.next_arrival() {
            Some(due) => due <= self.clock.now(),
            None => self.closed,
        }
    }

    fn send_packets(&mut self, queue: &mut Queue, faults: Faults) -> io::Result<()> {
        while let Some(chain) = queue.front() {
            let bytes = chain.to_vec()?;
            let meta = chain.meta();
            let (source, destination) = self.between.unwrap_or((meta.source(), meta.destination()));
            queue.pop();
            self.stats.sent += 1;
            if self.rng.chance(faults.loss) {
                self.stats.lost += 1;
                continue;
            }
            let mut flight = Flight { due: self.due(faults), bytes, source, destination };
            if !flight.bytes.is_empty() && self.rng.chance(faults.corrupt) {
                let bit = self.rng.below(flight.bytes.len() * 8);
                flight.bytes[bit / 8] ^= 1 << (bit % 8);
                self.stats.corrupted += 1;
            }
            if self.rng.chance(faults.duplicate) {
                self.stats.duplicated += 1;
                self.put(flight.clone());
            }
            let overtaken = self.late.take();
            if overtaken.is_none() && self.rng.chance(faults.reorder) {
                self.stats.reordered += 1;
                self.late = Some(flight);
                continue;
            }
            self.put(flight);
            if let Some(flight) = overtaken {
                self.put(flight);
            }
        }
        Ok(())
    }

    fn send_bytes(&mut self, queue: &mut Queue, capacity: usize) -> io::Result<Sent> {
        while queue.bytes() > 0 {
            let room = capacity - self.bytes.min(capacity);
            // A refusal now and then though there is room: a sink may block whenever it likes,
            // save on an empty line, where nothing would ever wake the sender again.
            if room == 0 || self.bytes > 0 && self.rng.chance(100) {
                return Ok(Sent::WouldBlock);
            }
            let Some(chain) = queue.front() else { break };
            let n = self.rng.between(1, chain.len().min(room));
            let mut bytes = vec![0; n];
            chain.peek(0, &mut bytes)?;
            let (source, destination) = self.between.unwrap_or_default();
            let due = self.clock.now();
            queue.advance(n)?;
            self.stats.sent += 1;
            self.put(Flight { due, bytes, source, destination });
        }
        queue.clear(); // empty chains, if any: nothing to send
        Ok(Sent::All)
    }

    /// When a packet that is sent now arrives: never before one that was sent earlier.
    fn due(&mut self, faults: Faults) -> Time {
        let (least, most) = faults.delay;
        let spread = usize::try_from((most - least).as_nanos()).unwrap_or(usize::MAX);
        let delay = least + Duration::from_nanos(self.rng.between(0, spread) as u64);
        let due = self.clock.now() + delay;
        self.line.back().map_or(due, |last| last.due.max(due))
    }

    fn put(&mut self, mut flight: Flight) {
        if self.line.len() >= Self::MAX_PACKETS {
            self.stats.overflowed += 1;
            return;
        }
        if let Some(last) = self.line.back() {
            flight.due = flight.due.max(last.due);
        }
        self.bytes += flight.bytes.len();
        self.line.push_back(flight);
    }

    fn release_late(&mut self) {
        if let Some(flight) = self.late.take() {
            self.put(flight);
        }
    }

    /// Of a stream, as much as the chance says; of packets, one.
    fn deliver(&mut self, receiver: &Receiver, batch: &mut Batch) -> Result<bool, Error> {
        let now = self.clock.now();
        if self.line.is_empty() {
            self.release_late();
        }
        let Some(flight) = self.line.front().filter(|flight| flight.due <= now) else {
            return Ok(false);
        };
        let len = flight.bytes.len();
        let n = match self.mode {
            Mode::Packets(_) => len,
            Mode::Stream { .. } => self.rng.between(1, len),
        };
        let mut chain = receiver.chain()?;
        chain.extend_from_slice(&flight.bytes[..n])?;
        if (flight.source, flight.destination) != (Address::None, Address::None) {
            let mut meta = Meta::EMPTY;
            meta.set_source(flight.source);
            meta.set_destination(flight.destination);
            *chain.meta_mut() = meta;
        }
        batch.push(chain);
        self.stats.delivered += 1;
        self.stats.bytes += n as u64;
        self.bytes -= n;
        if n == len {
            self.line.pop_front();
        } else if let Some(flight) = self.line.front_mut() {
            flight.bytes.drain(..n);
        }
        Ok(true)
    }
}

impl Sink for Link {
    /// Takes packets always (what finds the line full is lost), and of a stream what there is
    /// room for.
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent> {
        if self.closed && !queue.is_empty() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "send on a link that is closed"));
        }
        match self.mode {
            Mode::Packets(faults) => self.send_packets(queue, faults).map(|()| Sent::All),
            Mode::Stream { capacity } => self.send_bytes(queue, capacity),
        }
    }
}

impl Source for Link {
    /// Brings what has arrived by the clock's time.
    fn recv(&mut self, receiver: &Receiver, batch: &mut Batch) -> io::Result<Received> {
        let mut chains = 0;
        // At least one, however full the batch is: so the contract has it.
        while chains == 0 || batch.room() > 0 {
            match self.deliver(receiver, batch) {
                Ok(true) => chains += 1,
                Ok(false) => break,
                Err(Error::NoBuffers { .. }) if chains == 0 => return Ok(Received::NoBuffers),
                Err(Error::NoBuffers { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(match chains {
            0 if self.closed && self.line.is_empty() => Received::Closed,
            0 => Received::WouldBlock,
            n => Received::Chains(n),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pool::Pool,
        testing::{Starve, assert_all_free, plain_pool},
    };

    fn send(link: &mut Link, pool: &Pool, packets: &[Vec<u8>]) {
        let mut queue = Queue::new(packets.len(), usize::MAX);
        for packet in packets {
            queue.push(pool.chain_from(packet).unwrap()).unwrap();
        }
        assert_eq!(link.send(&mut queue).unwrap(), Sent::All);
    }

    fn receive(link: &mut Link, pool: &Pool) -> Vec<Vec<u8>> {
        let (receiver, mut batch, mut all) = (pool.receiver(), Batch::new(), Vec::new());
        while let Received::Chains(n) = link.recv(&receiver, &mut batch).unwrap() {
            assert_eq!(n, batch.len());
            all.extend(batch.drain().map(|chain| chain.to_vec().unwrap()));
        }
        all
    }

    fn numbered(n: u16) -> Vec<Vec<u8>> {
        (0..n).map(|i| i.to_be_bytes().to_vec()).collect()
    }

    #[test]
    fn a_perfect_line_brings_everything_in_order() {
        let (pool, clock) = (plain_pool(), Clock::new());
        let mut link = Link::packets(&clock, 0, Faults::none());
        let mut packets = numbered(500);
        packets.push(Vec::new());
        packets.push(vec![7; 5000]);
        send(&mut link, &pool, &packets);
        assert_all_free(&pool);
        assert_eq!(receive(&mut link, &pool), packets);
        assert_eq!(link.in_flight(), 0);
        assert_all_free(&pool);
    }

    #[test]
    fn each_fault_happens_about_as_often_as_asked_for_and_the_same_each_time() {
        let pool = plain_pool();
        let packets = numbered(2000);
        let run = |seed, faults| {
            let clock = Clock::new();
            let mut link = Link::packets(&clock, seed, faults);
            send(&mut link, &pool, &packets);
            clock.advance(Duration::from_secs(3600));
            let out = receive(&mut link, &pool);
            (out, link.stats())
        };
        let near = |n: u64| (150..250).contains(&n);
        let (out, stats) = run(1, Faults::none().loss(100));
        assert!(near(stats.lost), "{stats:?}");
        assert_eq!(out.len() as u64, 2000 - stats.lost);
        let (out, stats) = run(2, Faults::none().duplicate(100));
        assert!(near(stats.duplicated), "{stats:?}");
        assert_eq!(out.len() as u64, 2000 + stats.duplicated);
        let (out, stats) = run(3, Faults::none().corrupt(100));
        let wrong = out.iter().zip(&packets).filter(|(a, b)| a != b).count() as u64;
        assert!(near(stats.corrupted), "{stats:?}");
        assert_eq!(wrong, stats.corrupted);
        let (out, stats) = run(4, Faults::none().reorder(100));
        let swaps = out.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
        assert!(near(stats.reordered), "{stats:?}");
        assert!(swaps.abs_diff(stats.reordered) <= 1, "{swaps} {stats:?}");
        let mut sorted = out;
        sorted.sort();
        assert_eq!(sorted, packets);
        assert_eq!(run(5, Faults::bad()), run(5, Faults::bad()));
        assert_ne!(run(5, Faults::bad()), run(6, Faults::bad()));
        assert_all_free(&pool);
    }

    #[test]
    fn nothing_arrives_before_its_time() {
        let (pool, clock) = (plain_pool(), Clock::new());
        let (least, most) = (Duration::from_millis(5), Duration::from_millis(9));
        let mut link = Link::packets(&clock, 7, Faults::none().delay(least, most));
        send(&mut link, &pool, &numbered(100));
        clock.advance(least - Duration::from_nanos(1));
        assert!(receive(&mut link, &pool).is_empty() && !link.is_ready());
        let mut out = Vec::new();
        while let Some(due) = link.next_arrival() {
            clock.set(due);
            out.extend(receive(&mut link, &pool));
        }
        assert_eq!(out, numbered(100));
        assert!(clock.now() <= Time::ZERO + most);
    }

    #[test]
    fn a_stream_is_cut_and_held_up_but_nothing_is_lost() {
        let (pool, clock) = (plain_pool(), Clock::new());
        for seed in 0..20 {
            let mut link = Link::stream(&clock, seed, 100);
            let bytes = Rng::new(seed).bytes(5000);
            let mut queue = Queue::new(10, 10_000);
            for piece in bytes.chunks(700) {
                queue.push(pool.chain_from(piece).unwrap()).unwrap();
            }
            let (mut out, mut blocked, mut pieces) = (Vec::new(), 0, 0);
            loop {
                let sent = link.send(&mut queue).unwrap();
                assert!(link.in_flight() <= 100);
                blocked += u32::from(sent == Sent::WouldBlock);
                if sent == Sent::All && !link.is_closed() {
                    link.close();
                }
                let arrived = receive(&mut link, &pool);
                pieces += arrived.len();
                out.extend(arrived.concat());
                if link.is_closed() && link.in_flight() == 0 {
                    break;
                }
            }
            assert_eq!(out, bytes, "seed {seed}");
            assert!(blocked > 10 && pieces > 50, "{blocked} {pieces}");
            let closed = link.recv(&pool.receiver(), &mut Batch::new()).unwrap();
            assert_eq!(closed, Received::Closed);
        }
        assert_all_free(&pool);
    }

    #[test]
    fn an_empty_pool_delays_and_loses_nothing() {
        let (pool, clock) = (plain_pool(), Clock::new());
        let mut link = Link::packets(&clock, 0, Faults::none());
        send(&mut link, &pool, &numbered(3));
        let (receiver, mut batch) = (pool.receiver(), Batch::new());
        let starve = Starve::leave(&pool, 0, 0);
        assert_eq!(link.recv(&receiver, &mut batch).unwrap(), Received::NoBuffers);
        drop(starve);
        assert_eq!(link.recv(&receiver, &mut batch).unwrap(), Received::Chains(3));
    }

    #[test]
    fn addresses_travel_or_are_the_lines_own() {
        let (pool, clock) = (plain_pool(), Clock::new());
        let (a, b) = (Address::Mac([1; 6]), Address::Ip("192.0.2.1:7".parse().unwrap()));
        let mut chain = pool.chain_from(b"x").unwrap();
        chain.meta_mut().set_source(a);
        chain.meta_mut().set_destination(b);
        let mut links = [
            Link::packets(&clock, 0, Faults::none()),
            Link::packets(&clock, 0, Faults::none()).between(b, a),
        ];
        let mut seen = Vec::new();
        for link in &mut links {
            let (mut queue, mut batch) = (Queue::new(1, 1), Batch::new());
            let mut copy = chain.dup().unwrap();
            *copy.meta_mut() = *chain.meta();
            queue.push(copy).unwrap();
            link.send(&mut queue).unwrap();
            link.recv(&pool.receiver(), &mut batch).unwrap();
            let chain = batch.pop().unwrap();
            seen.push((chain.meta().source(), chain.meta().destination()));
        }
        assert_eq!(seen, [(a, b), (b, a)]);
    }

    #[test]
    fn a_reset_loses_what_was_on_the_line_and_refuses_more() {
        let (pool, clock) = (plain_pool(), Clock::new());
        let mut link = Link::packets(&clock, 0, Faults::none());
        send(&mut link, &pool, &numbered(3));
        link.reset();
        assert_eq!((link.in_flight(), link.stats().lost), (0, 3));
        let mut queue = Queue::new(1, 1);
        queue.push(pool.chain_from(b"x").unwrap()).unwrap();
        assert_eq!(link.send(&mut queue).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(queue.len(), 1);
    }
}
