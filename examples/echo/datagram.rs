//! The client's protocol over datagrams: numbered ones, some of which may be lost.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                   session (of this run only)                  |
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                            number                             |
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          the pattern, from place `session + number` on      ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::{
    collections::VecDeque,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use mbuf::{
    Batch, Chain, Pool, Result,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol, Signal, Time, Timer},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U64,
};

use crate::{client::Plan, pattern, record::Recorder};

/// What came back is not what was sent.
pub const WRONG: DropReason = DropReason("wrong_bytes");
/// It came back after it was given up, or once more.
const REPEATED: DropReason = DropReason("late_or_duplicate");
/// The server does not answer at all.
pub const SILENT: DropReason = DropReason("silent");
/// How often a session looks for datagrams that are lost.
const TICK: Duration = Duration::from_millis(20);
/// How long a datagram may be under way before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long a server may say nothing at all before it is given up.
const GIVE_UP: Duration = Duration::from_secs(3);
/// Numbers between the oldest datagram that is waited for and the newest, at most.
const SPREAD: usize = 1 << 16;
/// Lost ones that are remembered, to tell late answers from repeated ones.
const REMEMBERED: usize = 1024;

/// In front of each datagram.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    session: U64,
    number: U64,
}

/// When a datagram was sent: by the stack's time, which says what is lost, and by the clock, which
/// measures.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Time,
    clock: Instant,
}

/// Bytes that a datagram has at least.
pub const SMALLEST: usize = size_of::<Header>();
/// The largest payload of a UDP datagram over IPv4.
pub const LARGEST: usize = 65_507;

/// One socket. It keeps `window` datagrams on their way, and gives up those that take too long.
#[derive(Debug)]
pub struct DatagramClient {
    plan: Plan,
    recorder: Recorder,
    name: String,
    session: u64,
    /// The number of the first in `under_way`.
    oldest: u64,
    /// When each was sent; `None` once it is back or given up. The first is never `None`.
    under_way: VecDeque<Option<Sent>>,
    /// How many of them are not back yet.
    missing: usize,
    /// Numbers that were given up lately, oldest first.
    lost: VecDeque<u64>,
    /// Nothing new is sent from then on.
    until: Option<Time>,
    last_heard: Time,
    answered: bool,
    tick: Option<Timer>,
    stopping: bool,
    finished: bool,
}

impl DatagramClient {
    pub fn new(plan: Plan, recorder: Recorder, index: u32) -> Self {
        Self {
            plan,
            recorder,
            name: format!("socket {index}"),
            // The process makes sessions of two runs against one server differ.
            session: u64::from(std::process::id()) << 32 | u64::from(index),
            oldest: 0,
            under_way: VecDeque::with_capacity(plan.window),
            missing: 0,
            lost: VecDeque::with_capacity(REMEMBERED),
            until: None,
            last_heard: Time::ZERO,
            answered: false,
            tick: None,
            stopping: false,
            finished: false,
        }
    }

    /// The number of the next to be sent.
    fn next(&self) -> u64 {
        self.oldest + self.under_way.len() as u64
    }

    fn wants_more(&self, now: Time) -> bool {
        !self.stopping
            && self.plan.count.is_none_or(|count| self.next() < count)
            && self.until.is_none_or(|until| now < until)
    }

    /// Sends what the window and the credit allow.
    fn fill(&mut self, cx: &mut Context<'_>) {
        let sent = Sent { at: cx.now(), clock: Instant::now() };
        while self.missing < self.plan.window
            && self.under_way.len() < SPREAD
            && self.wants_more(cx.now())
            && cx.credit() > 0
        {
            // Without buffers, the next answer or the next tick brings us back.
            let Ok(chain) = self.make(self.next(), cx.pool()) else { break };
            cx.made(1);
            cx.send_down(chain);
            self.under_way.push_back(Some(sent));
            self.missing += 1;
        }
        if !self.finished && self.missing == 0 && !self.wants_more(cx.now()) {
            self.finish(cx);
            cx.close();
        }
    }

    fn make(&self, number: u64, pool: &Pool) -> Result<Chain> {
        let place = self.session.wrapping_add(number);
        let mut chain = pattern::chain(pool, place, self.plan.size - SMALLEST)?;
        chain.push(&Header { session: self.session.into(), number: number.into() })?;
        Ok(chain)
    }

    /// The number of a datagram that has the length and the header of one of ours.
    fn identify(&self, chain: &mut Chain) -> Result<u64, String> {
        let len = chain.len();
        if len != self.plan.size {
            return Err(format!("{} bytes sent, {len} came back", self.plan.size));
        }
        let header: Header = chain.strip().map_err(|error| error.to_string())?;
        let (session, number) = (header.session.get(), header.number.get());
        if session != self.session || number >= self.next() {
            return Err(format!("datagram {number} of session {session:#x} is not ours"));
        }
        Ok(number)
    }

    /// Whether what is behind the header is, byte for byte, what was sent.
    fn verify(&self, number: u64, chain: &Chain) -> Result<(), String> {
        match pattern::check(chain, self.session.wrapping_add(number)) {
            Ok(None) => Ok(()),
            Ok(Some(wrong)) => {
                let wrong = wrong.behind(SMALLEST as u64);
                Err(format!("datagram {number}: {wrong}"))
            }
            Err(error) => Err(format!("datagram {number}: {error}")),
        }
    }

    /// Notes that the datagram is back; when it was sent, if it was still waited for.
    fn settle(&mut self, number: u64) -> Option<Sent> {
        let place = usize::try_from(number.checked_sub(self.oldest)?).ok()?;
        let sent = self.under_way.get_mut(place)?.take()?;
        self.missing -= 1;
        self.forget_settled();
        Some(sent)
    }

    fn forget_settled(&mut self) {
        while let Some(None) = self.under_way.front() {
            self.under_way.pop_front();
            self.oldest += 1;
        }
    }

    /// Gives up what has been under way for too long.
    fn give_up(&mut self, now: Time) {
        while let Some(&Some(sent)) = self.under_way.front()
            && now.since(sent.at) >= PATIENCE
        {
            self.recorder.lost.fetch_add(1, Relaxed);
            if self.lost.len() == REMEMBERED {
                self.lost.pop_front();
            }
            self.lost.push_back(self.oldest);
            self.under_way[0] = None;
            self.missing -= 1;
            self.forget_settled();
        }
    }

    /// Takes what has come back.
    fn take(&mut self, mut chain: Chain, now: Instant, cx: &mut Context<'_>) -> Outcome {
        if self.finished {
            return cx.drop(chain, DropReason::CLOSED);
        }
        self.answered = true;
        self.last_heard = cx.now();
        let number = match self.identify(&mut chain) {
            Ok(number) => number,
            Err(what) => return self.wrong(what, chain, cx),
        };
        // One that is wrong is back as well: it is not lost.
        let sent = self.settle(number);
        if let Err(what) = self.verify(number, &chain) {
            return self.wrong(what, chain, cx);
        }
        let Some(sent) = sent else {
            if let Some(place) = self.lost.iter().position(|lost| *lost == number) {
                self.lost.remove(place);
                self.recorder.late.fetch_add(1, Relaxed);
            } else {
                self.recorder.duplicates.fetch_add(1, Relaxed);
            }
            return cx.drop(chain, REPEATED);
        };
        self.recorder.message(self.plan.size, sent.clock, now);
        cx.consumed(chain)
    }

    fn wrong(&mut self, what: String, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        self.recorder.fail(format!("{}: {what}", self.name));
        cx.drop(chain, WRONG)
    }

    fn finish(&mut self, cx: &mut Context<'_>) {
        self.finished = true;
        self.stopping = true;
        self.recorder.flush();
        if !self.answered && self.next() > 0 {
            self.recorder.fail(format!("{}: nothing came back", self.name));
        }
        if let Some(timer) = self.tick.take() {
            cx.cancel(timer);
        }
    }
}

impl Protocol for DatagramClient {
    fn name(&self) -> &str {
        "echo client"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Any)
            .half_open()
            .batched()
            .reasons(&[WRONG, REPEATED, SILENT])
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let outcome = self.take(chain, Instant::now(), cx);
        self.fill(cx);
        outcome
    }

    /// All that is there first, then all that may be sent: so they leave together (UDP_SEGMENT).
    fn input_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        let now = Instant::now();
        while let Some(chain) = batch.pop() {
            let outcome = self.take(chain, now, cx);
            cx.apply(outcome);
        }
        self.fill(cx);
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }

    fn timeout(&mut self, _: Timer, cx: &mut Context<'_>) {
        self.recorder.flush();
        self.give_up(cx.now());
        if cx.now().since(self.last_heard) >= GIVE_UP && self.wants_more(cx.now()) {
            self.recorder.fail(format!("{}: silent for {GIVE_UP:?}", self.name));
            self.finish(cx);
            cx.abort(SILENT);
            return;
        }
        self.tick = cx.arm(TICK);
        self.fill(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        if self.finished {
            return;
        }
        match signal {
            Signal::Opened => {
                self.last_heard = cx.now();
                self.until = self.plan.seconds.map(|seconds| cx.now() + seconds);
                self.tick = cx.arm(TICK);
                self.fill(cx);
            }
            Signal::Writable => self.fill(cx),
            Signal::Shutdown => {
                self.stopping = true;
                self.fill(cx);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicU64};

    use mbuf::{
        stack::Stack,
        testing::{Faults, Pair, assert_all_free, plain_pool},
    };
    use mbuf_protocols::{Discard, Echo};

    use super::*;
    use crate::record::Record;

    const COUNT: u64 = 3000;

    /// Runs a client against a server over a line with these faults.
    fn run(server: impl Protocol + 'static, faults: Faults) -> Arc<Record> {
        let pool = plain_pool();
        let record = Record::new().unwrap();
        let plan = Plan { size: 100, window: 32, count: Some(COUNT), seconds: None };
        let client = DatagramClient::new(plan, Recorder::new(&record), 7);
        let client = Stack::pile(&pool, Edge::Packets, vec![Box::new(client)]).unwrap();
        let server = Stack::pile(&pool, Edge::Packets, vec![Box::new(server)]).unwrap();
        let mut pair = Pair::packets(&pool, client, server, 1, faults);
        pair.run().unwrap();
        drop(pair);
        assert_all_free(&pool);
        assert_eq!(read(&record.ended), 1);
        record
    }

    fn read(counter: &AtomicU64) -> u64 {
        counter.load(Relaxed)
    }

    #[test]
    fn a_good_line_brings_everything_back_once() {
        let record = run(Echo::new(), Faults::none());
        assert_eq!(read(&record.messages), COUNT);
        assert_eq!(read(&record.bytes), 100 * COUNT);
        assert_eq!(record.latency().len(), COUNT);
        assert_eq!([&record.lost, &record.late, &record.duplicates].map(read), [0; 3]);
        assert_eq!(record.failures().0, 0);
    }

    #[test]
    fn what_a_bad_line_loses_and_repeats_is_counted_and_the_rest_verified() {
        let faults = Faults::none().loss(50).duplicate(50).reorder(50);
        let record = run(Echo::new(), faults);
        assert_eq!(read(&record.messages) + read(&record.lost), COUNT);
        assert!(read(&record.lost) > COUNT / 20, "{record:?}");
        assert!(read(&record.duplicates) > COUNT / 20, "{record:?}");
        assert_eq!(record.failures().0, 0, "{record:?}");
    }

    #[test]
    fn what_comes_after_it_was_given_up_is_late() {
        let slow = PATIENCE * 2;
        let record = run(Echo::new(), Faults::none().delay(Duration::ZERO, slow));
        assert_eq!(read(&record.messages) + read(&record.lost), COUNT);
        assert!(read(&record.late) > 0, "{record:?}");
        assert_eq!(read(&record.duplicates), 0, "{record:?}");
    }

    #[test]
    fn a_changed_bit_is_a_failure() {
        let record = run(Echo::new(), Faults::none().corrupt(10));
        assert!(record.failures().0 > 0);
        assert!(read(&record.messages) < COUNT);
    }

    #[test]
    fn a_wrong_byte_is_a_failure_and_named_and_nothing_is_lost() {
        /// Echoes, with the last byte of what comes changed.
        struct Liar;
        impl Protocol for Liar {
            fn name(&self) -> &str {
                "liar"
            }
            fn info(&self) -> LayerInfo {
                LayerInfo::new(Edge::Packets, Edge::Any)
            }
            fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
                let (last, mut byte) = (chain.len() - 1, [0]);
                chain.peek(last, &mut byte).unwrap();
                chain.copy_back(last, &[byte[0] ^ 1]).unwrap();
                cx.reply(chain)
            }
            fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
                cx.down(chain)
            }
        }
        let record = run(Liar, Faults::none());
        let (count, words) = record.failures();
        assert_eq!(count, COUNT, "{words:?}");
        assert!(words[0].starts_with("socket 7: datagram 0: byte 99 is 0x"), "{words:?}");
        assert_eq!([&record.messages, &record.lost, &record.late].map(read), [0; 3]);
    }

    #[test]
    fn a_silent_server_is_a_failure() {
        let record = run(Discard::new(), Faults::none());
        assert_eq!(read(&record.messages), 0);
        assert!(record.failures().1[0].contains("silent"), "{record:?}");
    }
}
