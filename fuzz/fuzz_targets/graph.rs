//! Stacks of any graph: plugins, and layers that do anything a layer may do, bound to one another in
//! any way, with any traffic at their ports.
//!
//! A graph that makes no sense is an error, not a panic. One that is built comes to rest after
//! whatever is done to it, with every chain accounted for in every layer, and when it is gone nothing
//! is in use.
#![no_main]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mbuf::{
    Address, Batch, BuildError, Chain, Class, Pool,
    stack::{
        Context, DropReason, Edge, Held, LayerId, LayerInfo, Outcome, PortId, Protocol, Sessions,
        Signal, Stack, Time, Timer, Waker,
    },
    testing::{Starve, assert_all_free},
};
use mbuf_fuzz::{Layout, check_books, settle};
use mbuf_protocols::{Chargen, Discard, Echo, Framing, Prefix};

/// Layers of a graph.
const MOST_LAYERS: usize = 16;
/// What a layer does before it only drops: so every graph, whatever goes round in it, comes to rest.
const MOST_EVENTS: usize = 64;
/// Chains that a layer holds.
const MOST_HELD: usize = 8;

#[derive(Debug, Arbitrary)]
struct Input {
    layers: Vec<Layer>,
    /// Bindings beside those that keep every layer above a port.
    bindings: Vec<Binding>,
    high_water: u16,
    max_chains: u8,
    max_bytes: u16,
    rounds: u8,
    timers: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
struct Layer {
    kind: Kind,
    place: Place,
}

/// What is below a layer.
#[derive(Debug, Arbitrary)]
enum Place {
    Port(AnyEdge),
    /// One of the layers so far, itself among them.
    Layer(u8),
    Key(u8, u8),
    Nothing,
}

#[derive(Debug, Arbitrary)]
struct Binding {
    lower: u8,
    key: Option<u8>,
    upper: u8,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum AnyEdge {
    Bytes,
    Packets,
    Any,
}

#[derive(Debug, Arbitrary)]
enum Kind {
    Echo,
    Discard,
    Chargen,
    Framing {
        prefix: u8,
        max: u8,
    },
    /// Each peer has a stack of its own: such a layer, and an echo above it.
    Sessions {
        inner: Manners,
        prepends: u8,
        max_sessions: u8,
        max_footprint: u16,
    },
    Player(Manners),
}

/// How a [`Player`] plays: what it says of itself, and what it does, by turns.
#[derive(Debug, Clone, Arbitrary)]
struct Manners {
    below: AnyEdge,
    above: AnyEdge,
    prepends: u8,
    min_header: u8,
    half_open: bool,
    slot: bool,
    /// Of several packets at once it leaves the last.
    leaves_one: bool,
    fates: Vec<Fate>,
    moves: Vec<Move>,
}

/// What becomes of a chain.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Fate {
    Up,
    /// To the layer that is bound to the first byte, which is stripped.
    UpByKey,
    Down,
    DownEdge(u8),
    /// Down, with all that was declared before it.
    Prepended,
    Reply,
    Drop,
    Consume,
    Hold,
    /// Joined to the last that is held.
    Join,
    /// The front goes up, the rest down.
    Split(u8),
    /// One goes up, and one back.
    Share,
}

/// What a layer does beside, at any event.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Move {
    Rest,
    /// Makes chains and sends them down as long as there is credit.
    Fill(u8),
    /// The oldest chain that is held goes its way.
    LetGo,
    Wait,
    Pause,
    Resume,
    PauseEdge(u8),
    ResumeEdge(u8),
    Arm(u8),
    Cancel,
    Close,
    CloseEdge(u8),
    Abort,
    Wake,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Input {
        port: u8,
        bytes: Vec<u8>,
        layout: Layout,
        peer: u8,
    },
    /// Several packets at once.
    Batch {
        port: u8,
        chains: u8,
        len: u8,
        peer: u8,
    },
    /// Chains that went out are read.
    Read {
        port: u8,
        chains: u8,
    },
    /// Time passes, and timers fire; or they do not yet.
    Advance(u8),
    SetNow(u8),
    EndOfStream {
        port: u8,
    },
    Abort {
        port: u8,
    },
    Drain,
    Mtu(u16),
    Shutdown,
    /// A layer is woken from elsewhere.
    Wake(u8),
    /// The pool is drained to so many small mbufs and clusters.
    Starve(u8, u8),
    Feed,
}

impl From<AnyEdge> for Edge {
    fn from(edge: AnyEdge) -> Edge {
        match edge {
            AnyEdge::Bytes => Edge::Bytes,
            AnyEdge::Packets => Edge::Packets,
            AnyEdge::Any => Edge::Any,
        }
    }
}

/// The wakers of a graph's layers, which outlive it.
type Wakers = Arc<Mutex<Vec<Waker>>>;

impl Input {
    fn build(&self, pool: &Pool, wakers: &Wakers) -> Result<Stack, BuildError> {
        let mut builder = Stack::builder(pool);
        let mut ids = Vec::new();
        for layer in self.layers.iter().take(MOST_LAYERS) {
            let id = builder.layer_boxed(layer.kind.layer(wakers));
            ids.push(id);
            let earlier = |n: u8| ids[usize::from(n) % ids.len()];
            match layer.place {
                Place::Port(edge) => _ = builder.port(edge.into(), id),
                Place::Layer(n) => _ = builder.stack(earlier(n), id),
                Place::Key(n, key) => _ = builder.bind(earlier(n), key.into(), id),
                Place::Nothing => {}
            }
        }
        // Nobody knows this one here.
        let stranger = stranger(pool);
        let any = |n: u8| match usize::from(n).checked_rem(ids.len()) {
            Some(place) if n < u8::MAX => ids[place],
            _ => stranger,
        };
        for &Binding { lower, key, upper } in &self.bindings {
            match key {
                Some(key) => builder.bind(any(lower), key.into(), any(upper)),
                None => builder.stack(any(lower), any(upper)),
            };
        }
        builder.egress(self.high_water.into(), self.max_chains.into(), self.max_bytes.into());
        builder.rounds(self.rounds.into()).timers(self.timers.into());
        builder.build()
    }
}

/// A layer of another builder.
fn stranger(pool: &Pool) -> LayerId {
    let mut builder = Stack::builder(pool);
    (0..MOST_LAYERS).for_each(|_| _ = builder.layer(Discard::new()));
    builder.layer(Discard::new())
}

impl Kind {
    fn layer(&self, wakers: &Wakers) -> Box<dyn Protocol> {
        match self {
            Kind::Echo => Box::new(Echo::new()),
            Kind::Discard => Box::new(Discard::new()),
            Kind::Chargen => Box::new(Chargen::datagram()),
            Kind::Framing { prefix, max } => {
                let prefix = Prefix::ALL[usize::from(*prefix) % Prefix::ALL.len()];
                Box::new(Framing::new(prefix, usize::from(*max).max(1)).expect("it can say that"))
            }
            Kind::Sessions { inner, prepends, max_sessions, max_footprint } => {
                let (inner, wakers) = (inner.clone(), Arc::clone(wakers));
                let sessions = Sessions::new(move |_, pool| {
                    let player = Box::new(Player::new(&inner, &wakers));
                    Stack::pile(pool, Edge::Packets, vec![player, Box::new(Echo::new())])
                });
                let sessions = sessions.prepends((*prepends).into());
                let sessions = sessions.idle(Duration::from_millis(50));
                let sessions = sessions.max_sessions((*max_sessions).into());
                Box::new(sessions.max_footprint((*max_footprint).into()))
            }
            Kind::Player(manners) => Box::new(Player::new(manners, wakers)),
        }
    }
}

/// A layer that does what a layer may do, in any order.
struct Player {
    manners: Manners,
    wakers: Wakers,
    /// Events that it has seen.
    events: usize,
    held: Vec<Chain>,
    timers: Vec<Timer>,
}

impl Player {
    fn new(manners: &Manners, wakers: &Wakers) -> Self {
        let (manners, wakers) = (manners.clone(), Arc::clone(wakers));
        Self { manners, wakers, events: 0, held: Vec::new(), timers: Vec::new() }
    }

    /// What it does at an event, before anything else; whether it still does anything.
    fn stir(&mut self, cx: &mut Context<'_>) -> bool {
        if self.events == MOST_EVENTS {
            return false;
        }
        self.events += 1;
        let moves = &self.manners.moves;
        if let Some(place) = self.events.checked_rem(moves.len()) {
            self.make(moves[place], cx);
        }
        true
    }

    fn make(&mut self, a_move: Move, cx: &mut Context<'_>) {
        match a_move {
            Move::Rest => {}
            Move::Fill(len) => {
                while self.events < MOST_EVENTS && cx.credit() > 0 {
                    let Ok(chain) = cx.pool().chain_zeroed(len.into()) else { return };
                    self.events += 1;
                    cx.made(1);
                    cx.send_down(chain);
                }
            }
            Move::LetGo => {
                if !self.held.is_empty() {
                    let chain = self.held.remove(0);
                    let outcome = self.decide(chain, cx);
                    cx.apply(outcome);
                }
            }
            Move::Wait => cx.wait(),
            Move::Pause => cx.pause(),
            Move::Resume => cx.resume(),
            Move::PauseEdge(edge) => cx.pause_edge(edge.into()),
            Move::ResumeEdge(edge) => cx.resume_edge(edge.into()),
            Move::Arm(ms) => self.timers.extend(cx.arm(Duration::from_millis(ms.into()))),
            Move::Cancel => {
                if let Some(timer) = self.timers.pop() {
                    cx.cancel(timer);
                }
            }
            Move::Close => cx.close(),
            Move::CloseEdge(edge) => cx.close_edge(edge.into()),
            Move::Abort => cx.abort(DropReason::LIMIT),
            Move::Wake => {
                cx.waker().wake();
                self.wakers.lock().expect("the first panic ends the run").push(cx.waker());
            }
        }
    }

    fn decide(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if self.manners.slot {
            let seen: [u8; 4] = cx.slot(&chain);
            cx.set_slot(&mut chain, seen.map(|byte| byte.wrapping_add(1)));
        }
        let fates = &self.manners.fates;
        let Some(place) = self.events.checked_rem(fates.len()) else { return cx.up(chain) };
        match fates[place] {
            Fate::Up => cx.up(chain),
            Fate::UpByKey => match chain.strip::<u8>() {
                Ok(key) => cx.up_key(key.into(), chain),
                Err(_) => cx.drop(chain, DropReason::SHORT),
            },
            Fate::Down => cx.down(chain),
            Fate::DownEdge(edge) => cx.down_edge(edge.into(), chain),
            Fate::Prepended => match chain.prepend(self.manners.prepends.into()) {
                Ok(_) => cx.down(chain),
                Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
            },
            Fate::Reply => cx.reply(chain),
            Fate::Drop => cx.drop(chain, DropReason::MALFORMED),
            Fate::Consume => cx.consumed(chain),
            Fate::Hold if self.held.len() < MOST_HELD => {
                self.held.push(chain);
                cx.held()
            }
            Fate::Hold => cx.drop(chain, DropReason::LIMIT),
            Fate::Join => {
                let Some(last) = self.held.last_mut() else { return cx.up(chain) };
                match last.concat(chain) {
                    Ok(()) => {
                        cx.merged(1);
                        cx.held()
                    }
                    Err(rejected) => cx.drop(rejected.value, DropReason::LIMIT),
                }
            }
            Fate::Split(n) => match chain.split_off(chain.len().min(n.into())) {
                Ok(rest) => {
                    cx.made(1);
                    cx.send_up(chain);
                    cx.down(rest)
                }
                Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
            },
            Fate::Share => match chain.share() {
                Ok(other) => {
                    cx.made(1);
                    cx.send_up(other);
                    cx.reply(chain)
                }
                Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
            },
        }
    }

    /// A chain has come, whichever way.
    fn take(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if self.stir(cx) { self.decide(chain, cx) } else { cx.drop(chain, DropReason::LIMIT) }
    }

    /// All of a batch has come, or all but one.
    fn take_all(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        let left = usize::from(self.manners.leaves_one);
        while batch.len() > left
            && let Some(chain) = batch.pop()
        {
            let outcome = self.take(chain, cx);
            cx.apply(outcome);
        }
    }
}

impl Protocol for Player {
    fn name(&self) -> &str {
        "player"
    }

    fn info(&self) -> LayerInfo {
        let Manners { below, above, prepends, min_header, half_open, slot, leaves_one, .. } =
            self.manners;
        let info = LayerInfo::new(below.into(), above.into())
            .prepends(prepends.into())
            .min_header(min_header.into())
            .reasons(&[DropReason::UNHANDLED]);
        let info = if slot { info.slot::<[u8; 4]>() } else { info };
        let info = if leaves_one { info.batched() } else { info };
        if half_open { info.half_open() } else { info }
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        self.take(chain, cx)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        self.take(chain, cx)
    }

    fn input_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        self.take_all(batch, cx);
    }

    fn output_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        self.take_all(batch, cx);
    }

    fn timeout(&mut self, _: Timer, cx: &mut Context<'_>) {
        self.stir(cx);
    }

    fn signal(&mut self, _: Signal, cx: &mut Context<'_>) {
        self.stir(cx);
    }

    fn held(&self) -> Held {
        self.held.iter().sum()
    }
}

/// A graph at work.
struct Rig {
    pool: Pool,
    stack: Stack,
    wakers: Wakers,
    starve: Option<Starve>,
}

impl Rig {
    fn port(&self, n: u8) -> PortId {
        PortId(u16::from(n) % self.stack.ports() as u16)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Input { port, bytes, layout, peer } => {
                if let Ok(mut chain) = layout.chain(&self.pool, bytes) {
                    chain.meta_mut().set_source(address(*peer));
                    self.stack.input_one(self.port(*port), chain);
                }
            }
            Step::Batch { port, chains, len, peer } => {
                let mut batch = Batch::new();
                for n in 0..chains % 64 {
                    if let Ok(mut chain) = self.pool.chain_from(&vec![n; usize::from(*len)]) {
                        chain.meta_mut().set_source(address(peer.wrapping_add(n)));
                        batch.push(chain);
                    }
                }
                self.stack.input(self.port(*port), &mut batch);
                assert!(batch.is_empty());
            }
            Step::Read { port, chains } => self.read(self.port(*port), (*chains).into()),
            Step::Advance(ms) => self.stack.advance(self.later(*ms)),
            Step::SetNow(ms) => self.stack.set_now(self.later(*ms)),
            Step::EndOfStream { port } => self.stack.end_of_stream(self.port(*port)),
            Step::Abort { port } => self.stack.abort(self.port(*port), DropReason::IO),
            Step::Drain => self.stack.signal(Signal::Drain),
            Step::Mtu(bytes) => self.stack.signal(Signal::Mtu((*bytes).into())),
            Step::Shutdown => self.stack.signal(Signal::Shutdown),
            Step::Wake(n) => {
                let wakers = self.wakers.lock().expect("the first panic ends the run");
                if let Some(place) = usize::from(*n).checked_rem(wakers.len()) {
                    wakers[place].wake();
                }
            }
            Step::Starve(small, clusters) => {
                self.starve = None;
                self.starve = Some(Starve::leave(&self.pool, (*small).into(), (*clusters).into()));
            }
            Step::Feed => self.starve = None,
        }
        settle(&mut self.stack);
        self.check();
    }

    fn later(&self, ms: u8) -> Time {
        self.stack.now() + Duration::from_millis(ms.into())
    }

    fn read(&mut self, port: PortId, chains: usize) {
        let queue = self.stack.poll_output(port);
        for chain in (0..chains).map_while(|_| queue.pop()) {
            chain.check().expect("every invariant");
        }
        self.stack.flushed(port);
    }

    fn check(&mut self) {
        check_books(&self.stack);
        for (place, port) in self.stack.stats().ports.iter().enumerate() {
            let queue = self.stack.poll_output(PortId(place as u16));
            assert_eq!(queue.len(), port.queued);
            assert!(queue.iter().all(|chain| chain.check().is_ok()));
        }
    }
}

fn address(n: u8) -> Address {
    Address::Ip(SocketAddr::from(([192, 0, 2, n % 8], 7000)))
}

fuzz_target!(|input: Input| {
    let pool = Pool::builder().count(Class::Small, 256).count(Class::K2, 64).headroom(64);
    let pool = pool.move_on_pullup(true).build().expect("memory for a tiny pool");
    let wakers = Wakers::default();
    match input.build(&pool, &wakers) {
        Err(error) => assert!(matches!(error, BuildError::Stack(_)), "{error}"),
        Ok(stack) => {
            let mut rig =
                Rig { pool: pool.clone(), stack, wakers: Arc::clone(&wakers), starve: None };
            rig.stack.open();
            input.steps.iter().for_each(|step| rig.step(step));
        }
    }
    // The stack is gone.
    wakers.lock().expect("nothing has panicked").iter().for_each(Waker::wake);
    assert_all_free(&pool);
});
