//! Toy protocols, a clock, and ways to drive a reactor to a certain point.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mbuf::{
    BuildError, Chain, Pool,
    io::reactor::{Accepted, Reactor, ReactorBuilder},
    stack::{
        Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Stack, Time, Timer,
    },
};

/// Sends back whatever comes.
pub struct Echo;

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

/// Puts frames together, each behind its length in four bytes, and sends whole ones back.
pub struct Frames {
    max: usize,
    held: Option<Chain>,
}

impl Frames {
    pub fn new(max: usize) -> Self {
        Self { max, held: None }
    }

    fn whole_frames(&mut self, cx: &mut Context<'_>) {
        while let Some(mut chain) = self.held.take() {
            let mut length = [0; 4];
            if chain.peek(0, &mut length).is_err() {
                self.held = Some(chain);
                return;
            }
            let length = u32::from_be_bytes(length) as usize;
            if length > self.max {
                cx.abort(DropReason::MALFORMED);
                let dropped = cx.drop(chain, DropReason::MALFORMED);
                return cx.apply(dropped);
            }
            if chain.len() < 4 + length {
                self.held = Some(chain);
                return;
            }
            if chain.len() > 4 + length {
                match chain.split_off(4 + length) {
                    Ok(rest) => {
                        cx.made(1);
                        self.held = Some(rest);
                    }
                    Err(_) => {
                        let dropped = cx.drop(chain, DropReason::NO_BUFFERS);
                        return cx.apply(dropped);
                    }
                }
            }
            cx.send_down(chain);
        }
    }
}

impl Protocol for Frames {
    fn name(&self) -> &str {
        "frames"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Bytes, Edge::Any)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match &mut self.held {
            None => self.held = Some(chain),
            Some(held) => {
                if let Err(rejected) = held.concat(chain) {
                    return cx.drop(rejected.value, DropReason::MALFORMED);
                }
                cx.merged(1);
            }
        }
        self.whole_frames(cx);
        cx.held()
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }

    fn held(&self) -> Held {
        let chains = usize::from(self.held.is_some());
        Held { chains, footprint: self.held.as_ref().map_or(0, Chain::footprint) }
    }
}

/// Says its piece when the connection is there, as fast as credit allows, then closes.
pub struct Speaker {
    left: usize,
}

impl Speaker {
    pub const BYTE: u8 = 0x53;

    pub fn new(bytes: usize) -> Self {
        Self { left: bytes }
    }

    fn speak(&mut self, cx: &mut Context<'_>) {
        while self.left > 0 {
            let len = self.left.min(1000).min(cx.credit());
            if len == 0 {
                return cx.wait();
            }
            let Ok(chain) = cx.pool().chain_from(&[Self::BYTE; 1000][..len]) else {
                return cx.abort(DropReason::NO_BUFFERS);
            };
            cx.made(1);
            cx.send_down(chain);
            self.left -= len;
        }
        cx.close();
    }
}

impl Protocol for Speaker {
    fn name(&self) -> &str {
        "speaker"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any).half_open()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.consumed(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        if let Signal::Opened | Signal::Writable = signal {
            self.speak(cx);
        }
    }
}

/// Counts what a test wants to know of its layers.
#[derive(Debug, Default)]
pub struct Seen {
    pub bytes: AtomicU64,
    pub drains: AtomicU64,
    pub ticks: AtomicU64,
    pub opened: AtomicU64,
    pub ends: AtomicU64,
}

impl Seen {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Keeps all that comes until memory is low; ticks once a second where it is told to.
pub struct Hoarder {
    seen: Arc<Seen>,
    hoard: Vec<Chain>,
    tick: Option<Duration>,
}

impl Hoarder {
    pub fn new(seen: &Arc<Seen>, tick: Option<Duration>) -> Self {
        Self { seen: seen.clone(), hoard: Vec::new(), tick }
    }

    fn arm(&mut self, cx: &mut Context<'_>) {
        if let Some(after) = self.tick {
            assert!(cx.arm(after).is_some());
        }
    }
}

impl Protocol for Hoarder {
    fn name(&self) -> &str {
        "hoarder"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        self.seen.bytes.fetch_add(chain.len() as u64, Ordering::Relaxed);
        self.hoard.push(chain);
        cx.held()
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }

    fn timeout(&mut self, _timer: Timer, cx: &mut Context<'_>) {
        self.seen.ticks.fetch_add(1, Ordering::Relaxed);
        self.arm(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Opened => {
                self.seen.opened.fetch_add(1, Ordering::Relaxed);
                self.arm(cx);
            }
            Signal::EndOfStream => _ = self.seen.ends.fetch_add(1, Ordering::Relaxed),
            Signal::Drain => {
                self.seen.drains.fetch_add(1, Ordering::Relaxed);
                for chain in self.hoard.drain(..) {
                    let consumed = cx.consumed(chain);
                    cx.apply(consumed);
                }
            }
            _ => {}
        }
    }

    fn held(&self) -> Held {
        let footprint = self.hoard.iter().map(Chain::footprint).sum();
        Held { chains: self.hoard.len(), footprint }
    }
}

/// Hands what comes by one of its two ports to the other.
pub struct Relay;

impl Protocol for Relay {
    fn name(&self) -> &str {
        "relay"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Bytes, Edge::Bytes)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let other = 1 - cx.edge();
        cx.down_edge(other, chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }
}

/// A factory of piles of one layer over a stream.
pub fn serving<P: Protocol + 'static>(
    mut layer: impl FnMut() -> P + Send + 'static,
) -> impl FnMut(&Accepted, &Pool) -> Result<Stack, BuildError> + Send + 'static {
    move |_, pool| one(pool, Edge::Bytes, layer())
}

/// A pile of one layer.
pub fn one(pool: &Pool, edge: Edge, layer: impl Protocol + 'static) -> Result<Stack, BuildError> {
    Stack::pile(pool, edge, vec![Box::new(layer)])
}

/// A clock that stands still unless it is told otherwise.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }

    pub fn run(&self, builder: ReactorBuilder) -> ReactorBuilder {
        let clock = self.0.clone();
        builder.clock(move || Time::from_nanos(clock.load(Ordering::SeqCst)))
    }
}

pub fn pool(bytes: usize) -> Pool {
    Pool::with_memory(bytes).expect("a pool")
}

pub fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// A connection that does not block.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nonblocking(true).expect("non-blocking");
    stream
}

/// Turns the reactor until the condition holds. Fails after half a minute of nothing, which is no
/// measure of speed: only of whether it comes at all.
#[track_caller]
pub fn until(reactor: &mut Reactor, what: &str, mut holds: impl FnMut(&mut Reactor) -> bool) {
    let began = Instant::now();
    while !holds(reactor) {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "waiting for: {what}\n{}\n{}",
            reactor.stats(),
            reactor.pool().stats()
        );
        if !reactor.poll(Some(Duration::from_millis(1))).expect("a turn") {
            assert!(holds(reactor), "the reactor has ended before: {what}\n{}", reactor.stats());
            return;
        }
    }
}

/// Turns until nothing is left to be done at once.
pub fn settle(reactor: &mut Reactor) {
    loop {
        let before = work(reactor);
        for _ in 0..3 {
            assert!(reactor.poll(Some(Duration::from_millis(1))).expect("a turn"));
        }
        if work(reactor) == before {
            return;
        }
    }
}

fn work(reactor: &Reactor) -> (u64, u64, usize, u64) {
    let stats = reactor.stats();
    (stats.bytes_in, stats.bytes_out, stats.open, stats.closed.total() + stats.accepted)
}

/// Ends the reactor and checks that nothing is left in use.
#[track_caller]
pub fn end(reactor: Reactor, pool: &Pool) {
    drop(reactor);
    assert_eq!(pool.stats().in_use(), 0, "left in use:\n{}", pool.stats());
}

/// What a non-blocking read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    Bytes(usize),
    Nothing,
    End,
    Error(io::ErrorKind),
}

pub fn read(mut from: impl Read, into: &mut Vec<u8>) -> Got {
    let mut bytes = [0; 65536];
    match from.read(&mut bytes) {
        Ok(0) => Got::End,
        Ok(n) => {
            into.extend_from_slice(&bytes[..n]);
            Got::Bytes(n)
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Got::Nothing,
        Err(e) => Got::Error(e.kind()),
    }
}

/// Writes what can be written; how much that was.
pub fn write(mut to: impl Write, bytes: &[u8]) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        match to.write(&bytes[done..]) {
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => panic!("write: {e}"),
        }
    }
    done
}

/// Bytes that are different at every place, by a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A test cannot run for want of something that the machine could have: says so, or fails it where
/// nothing may be left out (as in `.ci/run`).
#[track_caller]
pub fn skip(test: &str, why: impl fmt::Display) {
    let required = std::env::var_os("MBUF_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "{test} cannot run, and MBUF_REQUIRE_PEERS is set: {why}");
    leave_out(test, why);
}

/// A test does not apply to this machine: says so.
pub fn leave_out(test: &str, why: impl fmt::Display) {
    // Not `eprintln`, which the harness captures; at once, because it writes meanwhile.
    let line = format!("SKIPPED {test}: {why}\n");
    io::stderr().write_all(line.as_bytes()).expect("standard error");
}

/// Raises the limit of open files. Whether so many can be open then; if not, the test is skipped.
#[track_caller]
pub fn can_open(test: &str, files: usize) -> bool {
    let limit = mbuf::io::raise_file_limit().expect("the limit of open files") as usize;
    if limit < files {
        skip(test, format_args!("RLIMIT_NOFILE allows {limit} open files, it needs {files}"));
    }
    limit >= files
}

/// Runs one test of this program again, alone, in a process that `prepare` has set up; the test
/// finds `variable` in its environment. `None`: it could not be started.
pub fn again(
    test: &str,
    variable: &str,
    prepare: impl FnOnce(&mut Command),
    shell: Option<&str>,
) -> io::Result<Output> {
    // By this name it is found even where its directory may not be entered.
    let program = "/proc/self/exe";
    let arguments = [test, "--exact", "--nocapture", "--test-threads=1"];
    let mut command = match shell {
        None => Command::new(program),
        Some(before) => {
            let mut command = Command::new("sh");
            let program = std::env::current_exe()?;
            command.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(program);
            command
        }
    };
    command.args(arguments).env(variable, "1");
    prepare(&mut command);
    command.output()
}

#[track_caller]
pub fn assert_success(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
