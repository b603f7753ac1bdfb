//! Two stacks, a line between them, and virtual time.

use std::{fmt, io, time::Duration};

use crate::{
    io::{Received, Sink, Source},
    pool::{Pool, Receiver},
    queue::Batch,
    stack::{Closing, PortId, Stack, Time},
};

use super::{Clock, Faults, Link};

const PORT: PortId = PortId(0);

/// Two stacks joined by a line in each direction (port 0 to port 0), and run in virtual time
/// until nothing is left to do.
///
/// It does what a reactor does: hands in what has arrived if the stack wants it, fires timers,
/// sends what is queued, tells the stack when its queue was drained, closes the line when the
/// stack closes. A program's own loop may be written after it.
///
/// ```
/// use mbuf::{stack::{Edge, Stack}, testing::{Faults, Pair, Tap, plain_pool}};
///
/// let pool = plain_pool();
/// // Two stacks of a layer that only looks; a protocol would do more.
/// let stack = |name| {
///     let (tap, _) = Tap::new(name, Edge::Packets, 10, 1500);
///     Stack::pile(&pool, Edge::Packets, vec![Box::new(tap)])
/// };
/// let mut pair = Pair::packets(&pool, stack("a")?, stack("b")?, 42, Faults::bad());
/// let ran = pair.run()?;
/// assert_eq!(ran.undelivered, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pair {
    /// One stack.
    pub a: Stack,
    /// The other.
    pub b: Stack,
    /// What `a` sends.
    pub a_to_b: Link,
    /// What `b` sends.
    pub b_to_a: Link,
    clock: Clock,
    receiver: Receiver,
    batch: Batch,
    max_steps: u64,
    opened: bool,
    ended: [bool; 2],
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    /// Steps: looks at both stacks and both lines.
    pub steps: u64,
    /// The time at the end.
    pub time: Time,
    /// Bytes still on the lines, which their stack does not want.
    pub undelivered: usize,
}

/// A pair that did not come to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unquiet {
    /// Steps it was given.
    pub steps: u64,
    /// The time it had reached.
    pub time: Time,
    /// What was still going on.
    pub pending: String,
}

impl fmt::Display for Unquiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, time, pending } = self;
        write!(f, "not quiet after {steps} steps, at {} ns: {pending}", time.as_nanos())
    }
}

impl std::error::Error for Unquiet {}

impl Pair {
    /// Joins two stacks with packet ports. The faults apply in both directions; the seed gives
    /// each its own chance. What arrives is made of `pool`'s buffers.
    pub fn packets(pool: &Pool, a: Stack, b: Stack, seed: u64, faults: Faults) -> Self {
        let clock = Clock::new();
        let a_to_b = Link::packets(&clock, seed, faults);
        let b_to_a = Link::packets(&clock, !seed, faults);
        Self::over(pool, clock, (a, a_to_b), (b, b_to_a))
    }

    /// Joins two stacks with stream ports by a line that holds `capacity` bytes each way.
    pub fn stream(pool: &Pool, a: Stack, b: Stack, seed: u64, capacity: usize) -> Self {
        let clock = Clock::new();
        let a_to_b = Link::stream(&clock, seed, capacity);
        let b_to_a = Link::stream(&clock, !seed, capacity);
        Self::over(pool, clock, (a, a_to_b), (b, b_to_a))
    }

    /// Joins two stacks by lines made beforehand, each with the stack that sends on it; all by
    /// the same clock.
    pub fn over(pool: &Pool, clock: Clock, a: (Stack, Link), b: (Stack, Link)) -> Self {
        Self {
            a: a.0,
            b: b.0,
            a_to_b: a.1,
            b_to_a: b.1,
            clock,
            receiver: pool.receiver(),
            batch: Batch::new(),
            max_steps: 1_000_000,
            opened: false,
            ended: [false; 2],
        }
    }

    /// At most so many steps in a run (1,000,000 unless told).
    pub fn max_steps(mut self, steps: u64) -> Self {
        self.max_steps = steps;
        self
    }

    /// The clock that both stacks and both lines go by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Runs until nothing is on the lines, in the queues or pending, and no timer is armed. Opens
    /// the stacks at the first run.
    ///
    /// # Errors
    /// [`Unquiet`] after the bound on steps, saying what was still going on: stacks with
    /// timers that never end are run by [`run_for`](Self::run_for).
    pub fn run(&mut self) -> Result<Ran, Unquiet> {
        self.run_until(Time::from_nanos(u64::MAX))
    }

    /// Runs for so much virtual time, or until nothing is left to do; the clock then shows the
    /// end of that time in either case.
    ///
    /// # Errors
    /// [`Unquiet`] after the bound on steps.
    pub fn run_for(&mut self, duration: Duration) -> Result<Ran, Unquiet> {
        let end = self.clock.now() + duration;
        let ran = self.run_until(end)?;
        self.clock.set(end);
        self.a.advance(end);
        self.b.advance(end);
        Ok(Ran { time: end, ..ran })
    }

    fn run_until(&mut self, end: Time) -> Result<Ran, Unquiet> {
        if !self.opened {
            self.opened = true;
            self.a.open();
            self.b.open();
        }
        for steps in 1..=self.max_steps {
            if self.step() {
                continue;
            }
            match self.next_event() {
                Some(time) if time <= end => self.clock.set(time),
                _ => return Ok(self.ran(steps)),
            }
        }
        let pending = format!(
            "work {:?}, timers {:?}, on the lines {:?} bytes, in the queues {:?} bytes",
            [self.a.has_work(), self.b.has_work()],
            [self.a.next_timeout(), self.b.next_timeout()],
            [self.a_to_b.in_flight(), self.b_to_a.in_flight()],
            [self.a.poll_output(PORT).bytes(), self.b.poll_output(PORT).bytes()],
        );
        Err(Unquiet { steps: self.max_steps, time: self.clock.now(), pending })
    }

    fn ran(&self, steps: u64) -> Ran {
        let undelivered = self.a_to_b.in_flight() + self.b_to_a.in_flight();
        Ran { steps, time: self.clock.now(), undelivered }
    }

    /// One turn of both; whether anything happened.
    fn step(&mut self) -> bool {
        let Self { a, b, a_to_b, b_to_a, receiver, batch, ended, .. } = self;
        let now = self.clock.now();
        let [a_ended, b_ended] = ended;
        let one = turn(now, a, (b_to_a, a_to_b), (receiver, batch), a_ended);
        let other = turn(now, b, (a_to_b, b_to_a), (receiver, batch), b_ended);
        one || other
    }

    /// The earliest thing that is still to come. What has arrived already and is not wanted does
    /// not count: only another event can change that.
    fn next_event(&self) -> Option<Time> {
        let now = self.clock.now();
        let timers = [self.a.next_timeout(), self.b.next_timeout()];
        let lines = [(&self.a, &self.b_to_a), (&self.b, &self.a_to_b)].map(|(stack, line)| {
            let due = line.next_arrival().filter(|&due| due > now);
            due.filter(|_| stack.closing(PORT) == Closing::Open)
        });
        timers.into_iter().chain(lines).flatten().min()
    }
}

/// One turn of one stack: input, then timers, then output.
fn turn(
    now: Time,
    stack: &mut Stack,
    (from, to): (&mut Link, &mut Link),
    (receiver, batch): (&Receiver, &mut Batch),
    ended: &mut bool,
) -> bool {
    let mut busy = receive(stack, from, receiver, batch, ended);
    let due = stack.next_timeout().is_some_and(|due| due <= now);
    if due || stack.now() < now {
        stack.advance(now);
        busy |= due;
    }
    if stack.has_work() {
        stack.poll();
        busy = true;
    }
    send(stack, to, from) || busy
}

/// Hands in what has arrived, if it is wanted, and the end of the stream once.
fn receive(
    stack: &mut Stack,
    from: &mut Link,
    receiver: &Receiver,
    batch: &mut Batch,
    ended: &mut bool,
) -> bool {
    if *ended || !from.is_ready() || !stack.wants_input(PORT) {
        return false;
    }
    match from.recv(receiver, batch) {
        Ok(Received::Chains(_)) => {
            stack.input(PORT, batch);
            true
        }
        Ok(Received::Closed) => {
            *ended = true;
            stack.end_of_stream(PORT);
            true
        }
        Ok(Received::WouldBlock | Received::NoBuffers) | Err(_) => false,
    }
}

/// Sends what is queued, and closes the line when the stack has closed its port.
fn send(stack: &mut Stack, to: &mut Link, from: &mut Link) -> bool {
    let mut busy = false;
    let closing = stack.closing(PORT);
    let queue = stack.poll_output(PORT);
    if to.is_closed() {
        queue.clear();
        return false;
    }
    if !queue.is_empty() {
        let before = (queue.len(), queue.bytes());
        let result: io::Result<_> = to.send(queue);
        debug_assert!(result.is_ok(), "an open line takes what is not opaque: {result:?}");
        if (queue.len(), queue.bytes()) != before {
            busy = true;
            stack.flushed(PORT);
        }
    }
    match closing {
        Closing::Open => {}
        Closing::Graceful => {
            if stack.poll_output(PORT).is_empty() {
                to.close();
                busy = true;
            }
        }
        Closing::Abort(_) => {
            to.reset();
            from.reset();
            busy = true;
        }
    }
    busy
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{
        chain::Chain,
        stack::{Context, Edge, LayerInfo, Outcome, Protocol, Signal, Timer},
        testing::{Direction, Rng, Tap, assert_all_free, plain_pool},
    };

    struct Echo;

    impl Protocol for Echo {
        fn name(&self) -> &str {
            "echo"
        }

        fn info(&self) -> LayerInfo {
            LayerInfo::new(Edge::Any, Edge::Any)
        }

        fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            cx.reply(chain)
        }

        fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            cx.down(chain)
        }
    }

    /// Sends bytes in pieces of 100 as credit allows, keeps what comes back, and closes when that
    /// is as much.
    struct Client {
        to_send: Vec<u8>,
        expected: usize,
        back: Arc<Mutex<Vec<u8>>>,
    }

    impl Client {
        fn new(bytes: &[u8]) -> (Self, Arc<Mutex<Vec<u8>>>) {
            let back = Arc::new(Mutex::new(Vec::new()));
            let (to_send, expected) = (bytes.to_vec(), bytes.len());
            (Self { to_send, expected, back: Arc::clone(&back) }, back)
        }

        fn send(&mut self, cx: &mut Context<'_>) {
            while !self.to_send.is_empty() && cx.credit() > 0 {
                let n = self.to_send.len().min(100);
                let Ok(chain) = cx.pool().chain_from(&self.to_send[..n]) else { return };
                self.to_send.drain(..n);
                cx.made(1);
                cx.send_down(chain);
            }
        }
    }

    impl Protocol for Client {
        fn name(&self) -> &str {
            "client"
        }

        fn info(&self) -> LayerInfo {
            LayerInfo::new(Edge::Any, Edge::Any)
        }

        fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            let mut back = self.back.lock().unwrap();
            back.extend(chain.to_vec().unwrap());
            if back.len() == self.expected {
                cx.close();
            }
            cx.consumed(chain)
        }

        fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            cx.down(chain)
        }

        fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
            if matches!(signal, Signal::Opened | Signal::Writable) {
                self.send(cx);
            }
        }
    }

    /// Sends a byte a second, for ever.
    struct Ticker;

    impl Protocol for Ticker {
        fn name(&self) -> &str {
            "ticker"
        }

        fn info(&self) -> LayerInfo {
            LayerInfo::new(Edge::Packets, Edge::Packets)
        }

        fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            cx.consumed(chain)
        }

        fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            cx.down(chain)
        }

        fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
            if signal == Signal::Opened {
                cx.arm(Duration::from_secs(1));
            }
        }

        fn timeout(&mut self, _timer: Timer, cx: &mut Context<'_>) {
            if let Ok(chain) = cx.pool().chain_from(b"t") {
                cx.made(1);
                cx.send_down(chain);
            }
            cx.arm(Duration::from_secs(1));
        }
    }

    fn stack(pool: &Pool, edge: Edge, layers: Vec<Box<dyn Protocol>>) -> Stack {
        Stack::pile(pool, edge, layers).unwrap()
    }

    #[test]
    fn a_stream_echoes_over_a_narrow_line_and_both_sides_close() {
        let pool = plain_pool();
        for seed in 0..10 {
            let bytes = Rng::new(seed).bytes(100_000);
            let (client, back) = Client::new(&bytes);
            let a = stack(&pool, Edge::Bytes, vec![Box::new(client)]);
            let b = stack(&pool, Edge::Bytes, vec![Box::new(Echo)]);
            let mut pair = Pair::stream(&pool, a, b, seed, 1000);
            let ran = pair.run().unwrap();
            assert!(*back.lock().unwrap() == bytes, "seed {seed}: {ran:?}");
            assert_eq!(ran.undelivered, 0);
            assert!(pair.a_to_b.is_closed() && pair.b_to_a.is_closed());
            assert_eq!([&pair.a, &pair.b].map(|stack| stack.closing(PORT)), [Closing::Graceful; 2]);
            drop(pair);
            assert_all_free(&pool);
        }
    }

    #[test]
    fn packets_echo_over_a_bad_line_as_far_as_they_arrive() {
        let pool = plain_pool();
        let bytes = vec![7; 20_000];
        let (client, back) = Client::new(&bytes);
        let (tap, record) = Tap::new("tap", Edge::Packets, 1000, 1000);
        let a = stack(&pool, Edge::Packets, vec![Box::new(tap), Box::new(client)]);
        let b = stack(&pool, Edge::Packets, vec![Box::new(Echo)]);
        let faults = Faults::none().loss(100).delay(Duration::ZERO, Duration::from_millis(9));
        let mut pair = Pair::packets(&pool, a, b, 5, faults);
        let ran = pair.run().unwrap();
        let lost = pair.a_to_b.stats().lost + pair.b_to_a.stats().lost;
        assert!(lost > 0 && ran.time > Time::ZERO);
        assert_eq!(back.lock().unwrap().len() as u64, 20_000 - 100 * lost);
        assert_eq!(record.bytes(Direction::Down).len(), 200);
        assert_eq!(record.bytes(Direction::Up).len() as u64, 200 - lost);
        let stats = pair.a.stats();
        assert!(stats.layers.iter().all(|layer| layer.imbalance() == 0), "{stats}");
        drop(pair);
        assert_all_free(&pool);
    }

    #[test]
    fn stacks_that_never_rest_are_told_from_those_that_do() {
        let pool = plain_pool();
        let pair = || {
            let a = stack(&pool, Edge::Packets, vec![Box::new(Ticker)]);
            let b = stack(&pool, Edge::Packets, vec![Box::new(Echo)]);
            Pair::packets(&pool, a, b, 0, Faults::none()).max_steps(1000)
        };
        let unquiet = pair().run().unwrap_err();
        assert_eq!(unquiet.steps, 1000);
        assert!(unquiet.to_string().contains("not quiet after 1000 steps"), "{unquiet}");
        let mut pair = pair();
        let ran = pair.run_for(Duration::from_millis(10_500)).unwrap();
        assert_eq!(ran.time, Time::ZERO + Duration::from_millis(10_500));
        assert_eq!(pair.a_to_b.stats().delivered, 10);
        assert_eq!(pair.clock().now(), pair.a.now());
        pair.run_for(Duration::from_secs(1)).unwrap();
        assert_eq!(pair.a_to_b.stats().delivered, 11);
    }
}
