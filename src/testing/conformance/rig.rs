//! One session of a protocol under test: a stack with nothing but it, and the hands of a driver.

use crate::{
    chain::Chain,
    meta::Address,
    pool::Pool,
    queue::Batch,
    stack::{Closing, Context, Edge, LayerInfo, Outcome, PortId, Protocol, Stack, Time},
    testing::pools::{bytes_in_use, level},
};

use super::{
    Conformance,
    report::{Check, Failure},
};

/// The session's high water of output, in bytes, where a case does not ask for another.
pub(super) const HIGH_WATER: usize = 4 << 10;

/// Bytes that a sink takes of what a session sends of its own accord, and for each byte of input:
/// an endless sender (RFC 864) is cut off there.
const OUTPUT: usize = 2 << 10;
const OUTPUT_FOR_EACH_BYTE: usize = 8;

/// How many times a driver goes round for nothing before it says that there is no rest.
const ROUNDS: usize = 64;

/// Timers further away than this belong to idle sessions, not to what a case is about.
const HORIZON: std::time::Duration = std::time::Duration::from_secs(3600);

/// A stack of the protocol and, unless it is the top, a probe above it. The probe has a port of
/// its own, through which the test hands messages in and gets messages out.
///
/// ```text
///        probe ---- port `upper`
///          |
///       subject
///          |
///     port `wire`
/// ```
pub(super) struct Rig {
    pub stack: Stack,
    pub wire: PortId,
    pub upper: Option<PortId>,
    pub seen: Seen,
    pub pool: Pool,
    edges: Edges,
    budget: usize,
    now: Time,
    restless: bool,
    max_held: usize,
    /// Whom packets come from.
    pub peer: Address,
    /// The sink takes nothing: for the tests of credit.
    pub blocked: bool,
}

/// The kinds of the edges below and above the subject, `Any` resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edges {
    pub wire: Edge,
    pub upper: Edge,
}

/// What came out of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub wire: Vec<Out>,
    pub upper: Vec<Out>,
    /// By reason, in the layer and at its ports, sorted.
    pub drops: Vec<(&'static str, u64)>,
    pub closing: Option<Closing>,
    /// The sink had had enough: more would have come.
    pub cut_off: bool,
}

/// A chain that came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Out {
    pub bytes: Vec<u8>,
    pub source: Address,
    pub destination: Address,
}

impl Rig {
    pub fn new(
        spec: &Conformance<'_>,
        edges: Edges,
        pool: &Pool,
        high_water: usize,
    ) -> Result<Rig, Failure> {
        let mut builder = Stack::builder(pool);
        let subject = builder.layer((spec.factory)());
        let wire = builder.port(edges.wire, subject);
        let upper = (!spec.top).then(|| {
            let probe = builder.layer(Probe);
            match spec.key {
                Some(key) => builder.bind(subject, key, probe),
                None => builder.stack(subject, probe),
            };
            builder.port(edges.upper, probe)
        });
        builder.egress(high_water, 1 << 16, 16 << 20);
        let stack = builder.build().map_err(|error| {
            Failure::new(Check::Build, format!("the stack is refused: {error}"))
        })?;
        Ok(Rig {
            stack,
            wire,
            upper,
            seen: Seen::default(),
            pool: pool.clone(),
            edges,
            budget: OUTPUT,
            now: Time::ZERO,
            restless: false,
            max_held: spec.max_held,
            peer: peer(),
            blocked: false,
        })
    }

    pub fn open(&mut self) {
        self.stack.open();
        self.pump();
    }

    /// One chain from the wire. Answers whether the stack wanted it: a driver hands in nothing
    /// that is not wanted.
    pub fn receive(&mut self, mut chain: Chain) -> bool {
        if !self.wants_input() {
            return false;
        }
        self.prepare(&mut chain);
        self.stack.input_one(self.wire, chain);
        self.pump();
        true
    }

    /// As one batch.
    pub fn receive_batch(&mut self, batch: &mut Batch) {
        if !self.wants_input() {
            return;
        }
        let mut chains = Batch::new();
        for mut chain in batch.drain() {
            self.prepare(&mut chain);
            chains.push(chain);
        }
        self.stack.input(self.wire, &mut chains);
        self.pump();
    }

    /// One message from above.
    pub fn send(&mut self, mut chain: Chain) {
        let Some(upper) = self.upper else { return };
        self.allow(chain.len());
        chain.meta_mut().set_source(local());
        chain.meta_mut().set_destination(peer());
        self.stack.input_one(upper, chain);
        self.pump();
    }

    /// As a source hands it in.
    fn prepare(&mut self, chain: &mut Chain) {
        self.allow(chain.len());
        if self.edges.wire == Edge::Packets {
            chain.meta_mut().set_source(self.peer);
            chain.meta_mut().set_destination(local());
        }
    }

    fn allow(&mut self, input: usize) {
        self.budget = self.budget.saturating_add(64 + OUTPUT_FOR_EACH_BYTE * input);
    }

    pub fn wants_input(&mut self) -> bool {
        if !self.stack.wants_input(self.wire) {
            self.pump();
        }
        self.stack.wants_input(self.wire)
    }

    /// Does what is to be done until nothing is, taking all output (unless blocked).
    pub fn pump(&mut self) {
        let mut idle = 0;
        while idle < ROUNDS {
            let work = self.stack.has_work();
            if work {
                self.stack.poll();
            }
            let mut output = self.take_upper();
            output |= !self.blocked && self.take_wire(usize::MAX) > 0;
            idle = if output { 0 } else { idle + 1 };
            if !work && !output {
                return;
            }
        }
        self.restless = true;
    }

    /// Takes up to about `bytes` bytes from the wire's queue, whole chains; answers how many
    /// chains that were. Empty chains count as a byte, so that nothing is endless.
    pub fn take_wire(&mut self, bytes: usize) -> usize {
        let (mut taken, mut chains) = (0, 0);
        while taken < bytes {
            if self.budget == 0 {
                self.seen.cut_off |= !self.stack.poll_output(self.wire).is_empty();
                break;
            }
            let Some(chain) = self.stack.poll_output(self.wire).pop() else { break };
            let len = chain.len().max(1);
            self.budget = self.budget.saturating_sub(len);
            taken += len;
            chains += 1;
            self.seen.wire.push(Out::new(&chain));
        }
        if chains > 0 {
            self.stack.flushed(self.wire);
        }
        chains
    }

    fn take_upper(&mut self) -> bool {
        let Some(upper) = self.upper else { return false };
        let mut any = false;
        while let Some(chain) = self.stack.poll_output(upper).pop() {
            self.seen.upper.push(Out::new(&chain));
            any = true;
        }
        if any {
            self.stack.flushed(upper);
        }
        any
    }

    /// Fires the next timer, if there is one within reach; answers whether there was.
    pub fn fire(&mut self) -> bool {
        match self.stack.next_timeout() {
            Some(due) if due <= self.now + HORIZON => {
                self.now = self.now.max(due);
                self.stack.advance(self.now);
                self.pump();
                true
            }
            _ => false,
        }
    }

    /// Lets time pass until the next few timers have fired, for what a layer puts off.
    pub fn settle(&mut self) {
        self.pump();
        for _ in 0..8 {
            if !self.fire() {
                break;
            }
        }
    }

    pub fn now(&self) -> Time {
        self.now
    }

    /// What came out so far, with the counts.
    pub fn seen(&mut self) -> Seen {
        let stats = self.stack.stats();
        let mut drops: Vec<(&'static str, u64)> = Vec::new();
        let rows = stats.layers.iter().take(1).flat_map(|layer| &layer.drops);
        let ports = stats.ports.iter().flat_map(|port| &port.drops);
        for (reason, n) in rows.chain(ports) {
            match drops.iter_mut().find(|(its, _)| *its == reason.0) {
                Some((_, count)) => *count += n,
                None => drops.push((reason.0, *n)),
            }
        }
        drops.sort_unstable();
        Seen { drops, closing: Some(self.stack.closing(self.wire)), ..self.seen.clone() }
    }

    /// The laws that hold at any moment when nothing is going on.
    pub fn verify(&mut self) -> Result<(), Failure> {
        if self.restless {
            let what = format!(
                "still busy after {ROUNDS} rounds: has_work {}, {} chains in the output queue",
                self.stack.has_work(),
                self.stack.poll_output(self.wire).len()
            );
            return Err(Failure::new(Check::Rest, what));
        }
        let stats = self.stack.stats();
        let Some(layer) = stats.layers.first() else {
            return Err(Failure::new(Check::Build, "the stack has no layers"));
        };
        let imbalance = layer.imbalance();
        if imbalance != 0 {
            let what = format!(
                "{} chain(s) {}: received {} + made {} against sent {} + consumed {} + merged {} \
                 + dropped {} + held {}",
                imbalance.unsigned_abs(),
                if imbalance > 0 { "went away without a word" } else { "came from nowhere" },
                layer.received,
                layer.made,
                layer.sent,
                layer.consumed,
                layer.merged,
                layer.dropped(),
                layer.held.chains
            );
            return Err(Failure::new(Check::Balance, what));
        }
        if let Some(reason) = layer.undeclared.first() {
            let what = format!("drops for the reason `{reason}`, which `info` does not declare");
            return Err(Failure::new(Check::Reasons, what));
        }
        self.verify_held(layer.held.chains, layer.held.footprint)
    }

    fn verify_held(&mut self, chains: usize, footprint: usize) -> Result<(), Failure> {
        let max = self.max_held;
        if footprint > max {
            let what =
                format!("holds {footprint} bytes of storage in {chains} chains, allowed {max}");
            return Err(Failure::new(Check::Held, what));
        }
        if !self.stack.poll_output(self.wire).is_empty() || self.stack.has_work() {
            return Ok(()); // the queue's storage cannot be told from the layer's
        }
        let in_use = bytes_in_use(&self.pool);
        if chains == 0 && in_use > 0 {
            let what = format!(
                "says that it holds nothing, and has buffers of the pool (by class {:?})",
                level(&self.pool)
            );
            return Err(Failure::new(Check::Held, what));
        }
        if in_use > max {
            let what = format!("pins {in_use} bytes of the pool, allowed {max}; says {footprint}");
            return Err(Failure::new(Check::Held, what));
        }
        Ok(())
    }
}

impl Seen {
    /// The first difference that matters between edges of that kind; on a byte edge, how a
    /// stream is divided does not.
    pub fn difference(&self, other: &Seen, edges: Edges) -> Option<String> {
        let endless = self.cut_off || other.cut_off;
        differ("to the wire", &self.wire, &other.wire, edges.wire, endless)
            .or_else(|| differ("up", &self.upper, &other.upper, edges.upper, endless))
            .or_else(|| {
                // How many chains a refused stream was made of is no property of the protocol.
                let packets = edges.wire == Edge::Packets && edges.upper == Edge::Packets;
                (packets && !endless && self.drops != other.drops)
                    .then(|| format!("drops {:?} instead of {:?}", other.drops, self.drops))
            })
            .or_else(|| {
                (self.closing != other.closing)
                    .then(|| format!("port {:?} instead of {:?}", other.closing, self.closing))
            })
    }

    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, n)| n).sum()
    }
}

impl Out {
    fn new(chain: &Chain) -> Out {
        if let Err(broken) = chain.check() {
            panic!("a chain came out broken: {broken}");
        }
        let bytes = chain.to_vec().expect("a chain that can be read");
        let meta = chain.meta();
        Out { bytes, source: meta.source(), destination: meta.destination() }
    }
}

/// All bytes of what came out, as a stream.
pub(super) fn joined(outs: &[Out]) -> Vec<u8> {
    outs.iter().flat_map(|out| &out.bytes).copied().collect()
}

/// Whom packets come from, unless a case has it otherwise.
pub(super) fn peer() -> Address {
    Address::Ip(([192, 0, 2, 1], 40_001).into())
}

/// Two more.
pub(super) fn other_peers() -> [Address; 2] {
    [3, 4].map(|host| Address::Ip(([192, 0, 2, host], 40_003).into()))
}

/// Whom all packets were sent to.
pub(super) fn local() -> Address {
    Address::Ip(([192, 0, 2, 2], 7).into())
}

/// Hands on what comes by one of its two lower edges by the other.
struct Probe;

impl Probe {
    const SUBJECT: usize = 0;
    const PORT: usize = 1;
}

impl Protocol for Probe {
    fn name(&self) -> &str {
        "probe"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let other = if cx.edge() == Self::SUBJECT { Self::PORT } else { Self::SUBJECT };
        cx.down_edge(other, chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down_edge(Self::SUBJECT, chain)
    }
}

fn differ(way: &str, a: &[Out], b: &[Out], edge: Edge, endless: bool) -> Option<String> {
    if edge == Edge::Bytes {
        let (mut a, mut b) = (joined(a), joined(b));
        if endless {
            let len = a.len().min(b.len());
            a.truncate(len);
            b.truncate(len);
        }
        return (a != b).then(|| format!("{} sent {way}", compare(&a, &b)));
    }
    if let Some((n, (a, b))) = a.iter().zip(b).enumerate().find(|(_, (a, b))| a != b) {
        if a.bytes == b.bytes {
            return Some(format!(
                "chain {n} sent {way} goes from {} to {} instead of from {} to {}",
                b.source, b.destination, a.source, a.destination
            ));
        }
        return Some(format!("in chain {n}, {} sent {way}", compare(&a.bytes, &b.bytes)));
    }
    (a.len() != b.len() && !endless)
        .then(|| format!("{} chains instead of {} sent {way}", b.len(), a.len()))
}

fn compare(a: &[u8], b: &[u8]) -> String {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let byte = |bytes: &[u8]| bytes.get(same).map_or("nothing".into(), |b| format!("{b:#04x}"));
    format!(
        "{} bytes instead of {} (byte {same}: {} instead of {})",
        b.len(),
        a.len(),
        byte(b),
        byte(a)
    )
}
