//! Character generator (RFC 864): printable characters, for as long as someone reads them.
//!
//! ```text
//!  line 0    !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefg CR LF
//!  line 1   !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefgh CR LF
//!  ...
//!  line 94  ~ !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdef CR LF
//!  line 95  as line 0
//! ```
//!
//! There is no header. The pattern is the "popular" one of the RFC: the 95 printing characters in
//! a ring, 72 of them a line, each line starting one character further on.
//!
//! **Over a stream** ([`Chargen::stream`]) data flow from the moment the connection is there "until
//! the calling user terminates the connection"; what the peer sends is thrown away. The layer
//! makes more than it receives, so it lives by its credit: it sends what the egress will take and
//! goes on when it is writable again. A peer that does not read costs one queue's high water. The
//! characters are a constant of the program, shared and never copied.
//!
//! **Over datagrams** ([`Chargen::datagram`]) each datagram is answered by one of "a random number
//! (between 0 and 512) of characters". Taken by the letter that makes a service which turns a small
//! datagram with a forged source into a large one for a victim, and it was used so for years. Here
//! **the answer is never longer than the question**: the number is drawn between 0 and the smaller
//! of 512 and the question's length, which the RFC's words allow. A question that could start two
//! services answering each other is dropped as [`LOOP`].

use std::time::Duration;

use mbuf::{
    Chain, Result,
    stack::{Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Timer},
};

use crate::{LOOP, would_loop};

/// Characters of a line, its end not counted.
const LINE: usize = 72;
/// Printing characters in ASCII, from the space to the tilde.
const RING: usize = 95;
/// The pattern repeats after so many bytes: 95 lines with their ends.
const PERIOD: usize = RING * (LINE + 2);
/// The longest answer to a datagram, in characters.
const LONGEST: usize = 512;
/// How long to wait for buffers when the pool has none.
const RETRY: Duration = Duration::from_millis(10);

static PATTERN: [u8; PERIOD] = pattern();

/// Generates characters. The top of a stack: a session's own over bytes, one for all over packets.
#[derive(Debug)]
pub struct Chargen {
    edge: Edge,
    /// Over a stream: the pattern as a chain, which all that is sent shares. Made when first needed.
    pattern: Option<Chain>,
    /// Where in the pattern the next character is.
    at: usize,
    /// Over a stream: the connection is there and wants characters.
    sending: bool,
    /// Waiting for the pool.
    retry: Option<Timer>,
    /// State of the generator of lengths, over datagrams.
    random: u64,
}

impl Chargen {
    /// For a stream: sends on its own as long as there is credit, and ignores what comes in.
    pub const fn stream() -> Self {
        Self::over(Edge::Bytes)
    }

    /// For datagrams: answers each with at most 512 characters, and never more than it held.
    pub const fn datagram() -> Self {
        Self::over(Edge::Packets)
    }

    const fn over(edge: Edge) -> Self {
        let random = 0x9e37_79b9_7f4a_7c15;
        Self { edge, pattern: None, at: 0, sending: false, retry: None, random }
    }

    /// Sends as much as there is credit for.
    fn send(&mut self, cx: &mut Context<'_>) {
        while self.sending {
            let credit = cx.credit();
            if credit == 0 {
                // `Signal::Writable` says when to go on.
                return;
            }
            match self.next(credit, cx) {
                Ok(chain) => cx.send_down(chain),
                Err(_) => {
                    self.retry = cx.arm(RETRY);
                    if self.retry.is_none() {
                        self.stop(cx);
                        cx.abort(DropReason::NO_BUFFERS);
                    }
                    return;
                }
            }
        }
    }

    /// The next characters, at most `most`, up to the end of the pattern.
    fn next(&mut self, most: usize, cx: &mut Context<'_>) -> Result<Chain> {
        let pattern = match &mut self.pattern {
            Some(pattern) => pattern,
            none => {
                let chain = cx.pool().attach(&PATTERN, ..)?;
                cx.made(1);
                none.insert(chain)
            }
        };
        let n = most.min(PERIOD - self.at);
        let chain = pattern.share_range(self.at, n)?;
        cx.made(1);
        self.at = (self.at + n) % PERIOD;
        Ok(chain)
    }

    fn stop(&mut self, cx: &mut Context<'_>) {
        self.sending = false;
        if let Some(timer) = self.retry.take() {
            cx.cancel(timer);
        }
        if let Some(pattern) = self.pattern.take() {
            let outcome = cx.consumed(pattern);
            cx.apply(outcome);
        }
    }

    /// Answers a datagram in its own storage.
    fn answer(&mut self, chain: &mut Chain) -> Result<()> {
        let longest = chain.len().min(LONGEST);
        let n = self.draw() as usize % (longest + 1);
        chain.truncate(n)?;
        // At most 512 of the 7,030 characters of the pattern, starting at any line.
        let start = (self.draw() as usize % (RING - LONGEST / (LINE + 2) - 1)) * (LINE + 2);
        chain.copy_back(0, &PATTERN[start..start + n])
    }

    /// Marsaglia's xorshift: the lengths shall vary, they need not be hard to guess.
    fn draw(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }
}

impl Protocol for Chargen {
    fn name(&self) -> &str {
        "chargen"
    }

    fn info(&self) -> LayerInfo {
        let info = LayerInfo::new(self.edge, Edge::Any).reasons(&[LOOP]);
        if self.edge == Edge::Bytes { info.half_open() } else { info.stateless() }
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if self.edge == Edge::Bytes {
            // "Any data received is thrown away."
            return cx.drop(chain, DropReason::DISCARDED);
        }
        if would_loop(chain.meta()) {
            return cx.drop(chain, LOOP);
        }
        match self.answer(&mut chain) {
            Ok(()) => cx.reply(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }

    /// Nothing belongs above a character generator, so what comes from there has nowhere to go.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }

    fn timeout(&mut self, timer: Timer, cx: &mut Context<'_>) {
        if self.retry == Some(timer) {
            self.retry = None;
            self.send(cx);
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        if self.edge != Edge::Bytes {
            return;
        }
        match signal {
            Signal::Opened => {
                self.sending = true;
                self.send(cx);
            }
            // While it waits for the pool, the timer says when to go on.
            Signal::Writable if self.retry.is_none() => self.send(cx),
            Signal::Shutdown => {
                self.stop(cx);
                cx.close();
            }
            _ => {}
        }
    }

    fn held(&self) -> Held {
        match &self.pattern {
            Some(pattern) => Held { chains: 1, footprint: pattern.footprint() },
            None => Held::default(),
        }
    }
}

const fn pattern() -> [u8; PERIOD] {
    let mut bytes = [0; PERIOD];
    let mut at = 0;
    while at < PERIOD {
        let (line, column) = (at / (LINE + 2), at % (LINE + 2));
        bytes[at] = match column {
            0..LINE => b' ' + ((line + column) % RING) as u8,
            LINE => b'\r',
            _ => b'\n',
        };
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use mbuf::{
        Address,
        stack::{Closing, Stack},
        testing::{self, Conformance, Starve},
    };

    use super::*;
    use crate::rig::{PORT, Rig};

    /// The first two lines and the last before the pattern starts again, as RFC 864 prints them.
    const LINE_0: &[u8] =
        b" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefg\r\n";
    const LINE_1: &[u8] =
        b"!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefgh\r\n";
    const LINE_94: &[u8] =
        b"~ !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdef\r\n";

    const HIGH_WATER: usize = 10_000;

    /// A stream whose egress holds `HIGH_WATER` bytes.
    fn stream() -> Rig {
        let pool = testing::plain_pool();
        let mut builder = Stack::builder(&pool);
        let top = builder.layer(Chargen::stream());
        builder.port(Edge::Bytes, top);
        builder.egress(HIGH_WATER, 64, 2 * HIGH_WATER);
        let mut stack = builder.build().unwrap();
        stack.open();
        Rig { pool, stack }
    }

    fn take(rig: &mut Rig) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(chain) = rig.stack.poll_output(PORT).pop() {
            bytes.extend(chain.to_vec().unwrap());
        }
        rig.stack.flushed(PORT);
        rig.run();
        bytes
    }

    fn ask(rig: &mut Rig, from: &str, question: &[u8]) -> Option<Vec<u8>> {
        let mut chain = rig.pool.chain_from(question).unwrap();
        chain.meta_mut().set_source(Address::Ip(from.parse().unwrap()));
        chain.meta_mut().set_destination(Address::Ip("192.0.2.1:7019".parse().unwrap()));
        rig.feed_chain(chain);
        let answer = rig.stack.poll_output(PORT).pop()?;
        assert_eq!(answer.meta().destination(), Address::Ip(from.parse().unwrap()));
        Some(answer.to_vec().unwrap())
    }

    #[test]
    fn the_pattern_is_the_one_in_the_rfc() {
        assert_eq!(&PATTERN[..74], LINE_0);
        assert_eq!(&PATTERN[74..148], LINE_1);
        assert_eq!(&PATTERN[94 * 74..], LINE_94);
        assert_eq!(
            PATTERN.iter().filter(|byte| byte.is_ascii_graphic() || **byte == b' ').count(),
            RING * LINE
        );
    }

    #[test]
    fn a_stream_gets_the_pattern_as_fast_as_it_reads_and_no_faster() {
        let mut rig = stream();
        let mut received = Vec::new();
        while received.len() < 100_000 {
            assert!(rig.stack.poll_output(PORT).bytes() <= HIGH_WATER);
            let bytes = take(&mut rig);
            assert!(!bytes.is_empty(), "a stream that is read goes on");
            received.extend(bytes);
        }
        assert!(received.iter().eq(PATTERN.iter().cycle().take(received.len())));
        // One that is not read costs what is queued, however often it is asked.
        let queued = rig.stack.poll_output(PORT).bytes();
        rig.settle_without_reading();
        assert_eq!(rig.stack.poll_output(PORT).bytes(), queued);
        take(&mut rig);
        rig.stack.signal(Signal::Shutdown);
        assert_eq!(rig.closing(), Closing::Graceful);
        rig.finish();
    }

    #[test]
    fn a_stream_takes_no_notice_of_what_it_is_sent() {
        let mut rig = stream();
        rig.feed(b"stop");
        rig.feed_chain(testing::bytewise(&rig.pool, &[b'x'; 100]).unwrap());
        rig.end();
        assert_eq!(rig.drops("chargen", DropReason::DISCARDED), 2);
        assert_eq!(rig.closing(), Closing::Open, "half a connection is enough to send");
        let mut received = take(&mut rig);
        received.extend(take(&mut rig));
        assert!(received.len() > HIGH_WATER);
        assert!(received.iter().eq(PATTERN.iter().cycle().take(received.len())));
        rig.stack.signal(Signal::Shutdown);
        rig.finish();
    }

    #[test]
    fn a_stream_waits_for_buffers_and_skips_nothing() {
        let mut rig = stream();
        let mut sent = Vec::new();
        while let Some(chain) = rig.stack.poll_output(PORT).pop() {
            sent.push(chain);
        }
        let starve = Starve::leave(&rig.pool, 0, 0);
        rig.stack.flushed(PORT);
        rig.run();
        assert!(rig.stack.poll_output(PORT).is_empty());
        drop(starve);
        let next = rig.stack.next_timeout().expect("it tries again by itself");
        rig.stack.advance(next);
        let mut received: Vec<u8> =
            sent.drain(..).flat_map(|chain| chain.to_vec().unwrap()).collect();
        let before = received.len();
        received.extend(take(&mut rig));
        assert!(received.len() > before);
        assert!(received.iter().eq(PATTERN.iter().cycle().take(received.len())));

        // With nobody to fetch what is due, the end of the program does not wait for it.
        let starve = Starve::leave(&rig.pool, 0, 0);
        take(&mut rig);
        rig.stack.signal(Signal::Shutdown);
        assert_eq!(rig.stack.next_timeout(), None);
        drop(starve);
        rig.finish();
    }

    #[test]
    fn an_answer_is_never_longer_than_its_question_nor_than_512() {
        let pool = testing::pool();
        let mut rig = Rig::new(&pool, Edge::Packets, vec![Box::new(Chargen::datagram())]);
        let mut lengths = std::collections::BTreeSet::new();
        for len in [0, 1, 2, 100, 511, 512, 513, 1472, 65_507] {
            for _ in 0..50 {
                let answer = ask(&mut rig, "198.51.100.2:49152", &vec![0xee; len]).unwrap();
                assert!(answer.len() <= len.min(LONGEST), "{} for {len}", answer.len());
                assert!(PATTERN.windows(answer.len().max(1)).any(|part| part.starts_with(&answer)));
                lengths.insert(answer.len());
            }
        }
        assert!(lengths.len() > 50, "the lengths vary: {lengths:?}");
        rig.finish();
    }

    #[test]
    fn a_question_from_another_service_is_not_answered() {
        let pool = testing::pool();
        let mut rig = Rig::new(&pool, Edge::Packets, vec![Box::new(Chargen::datagram())]);
        for from in ["203.0.113.9:7", "203.0.113.9:19", "203.0.113.9:7019"] {
            assert_eq!(ask(&mut rig, from, b"a question of some length"), None);
        }
        assert_eq!(rig.drops("chargen", LOOP), 3);
        rig.finish();
    }

    #[test]
    fn one_byte_segments_make_no_difference() {
        let pool = testing::pool();
        let mut whole = Rig::new(&pool, Edge::Packets, vec![Box::new(Chargen::datagram())]);
        let mut cut = Rig::new(&pool, Edge::Packets, vec![Box::new(Chargen::datagram())]);
        for len in [1, 2, 300, 600] {
            whole.feed(&vec![1; len]);
            cut.feed_chain(testing::bytewise(&pool, &vec![1; len]).unwrap());
            assert_eq!(whole.sent(), cut.sent());
        }
        drop(whole);
        cut.finish();
    }

    #[test]
    fn conforms() {
        Conformance::new("chargen over a stream", || Box::new(Chargen::stream()) as _)
            .top()
            // What comes in is thrown away, so short samples say as much as long ones.
            .wire(vec![b"hello".to_vec(), vec![9; 20]])
            .max_held(PERIOD + 4096)
            .run();
        Conformance::new("chargen over datagrams", || Box::new(Chargen::datagram()) as _)
            .top()
            .wire(vec![b"hello".to_vec(), vec![], vec![9; 1400]])
            .run();
    }
}
