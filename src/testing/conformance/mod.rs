//! The contract of [`Protocol`], as one function to be run over every protocol.

mod faults;
mod limits;
mod parsing;
mod report;
mod rig;
mod suite;

#[cfg(test)]
mod broken;
#[cfg(test)]
mod toys;

use std::{fmt, time::Duration};

pub use report::{Check, Failure, Report, Verdict};

use crate::stack::{Edge, Protocol};

use suite::Suite;

type Factory<'a> = Box<dyn Fn() -> Box<dyn Protocol> + 'a>;

/// Finds out whether a [`Protocol`] keeps its contract.
///
/// Given a factory of the protocol and, if there are any worth giving, sample messages and sample
/// packets, it runs some thousands of sessions, each with a value of its own, and looks for what
/// has gone wrong in other people's stacks. What each [`Check`] means stands there. A protocol in
/// the middle (that has something above it) needs no samples: messages are made by chance and
/// packets by sending them. One at the top (a server) wants [`wire`](Self::wire) samples to get
/// past its parser.
///
/// The protocol must be deterministic: the same input, by the same virtual time, gives the same
/// output. One that wants randomness takes a seed.
///
/// ```
/// use mbuf::{Chain, stack::{Context, Edge, LayerInfo, Outcome, Protocol}, testing::Conformance};
///
/// /// Sends back whatever comes (RFC 862).
/// struct Echo;
///
/// impl Protocol for Echo {
///     fn name(&self) -> &str {
///         "echo"
///     }
///     fn info(&self) -> LayerInfo {
///         LayerInfo::new(Edge::Any, Edge::Any).stateless()
///     }
///     fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
///         cx.reply(chain)
///     }
///     fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
///         cx.down(chain)
///     }
/// }
///
/// for edge in [Edge::Bytes, Edge::Packets] {
///     let report = Conformance::new("echo", || Box::new(Echo)).edge(edge).top().run();
///     assert!(report.cases() > 1000);
/// }
/// ```
pub struct Conformance<'a> {
    name: String,
    factory: Factory<'a>,
    peer: Option<Factory<'a>>,
    edge: Option<Edge>,
    top: bool,
    key: Option<u64>,
    wire: Vec<Vec<u8>>,
    messages: Vec<Vec<u8>>,
    max_message: usize,
    max_held: usize,
    linger: Duration,
    seed: u64,
}

impl<'a> Conformance<'a> {
    /// For the protocol that `factory` makes, called `name` in reports. Each value that the
    /// factory makes is a session of its own.
    pub fn new(name: &str, factory: impl Fn() -> Box<dyn Protocol> + 'a) -> Self {
        Self {
            name: name.to_owned(),
            factory: Box::new(factory),
            peer: None,
            edge: None,
            top: false,
            key: None,
            wire: Vec::new(),
            messages: Vec::new(),
            max_message: 1024,
            max_held: 64 << 10,
            linger: Duration::ZERO,
            seed: 1,
        }
    }

    /// The kind of port below it. Needed for a protocol that takes both ([`Edge::Any`]), which
    /// is run once with each; without it that one is run over packets.
    pub fn edge(mut self, edge: Edge) -> Self {
        self.edge = Some(edge);
        self
    }

    /// It is the top of its stack (echo, a server): nothing comes from above.
    pub fn top(mut self) -> Self {
        self.top = true;
        self
    }

    /// The layer above it is bound by this key.
    pub fn key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Packets as they come from the wire; on a byte edge, streams.
    pub fn wire(mut self, samples: impl Into<Vec<Vec<u8>>>) -> Self {
        self.wire = samples.into();
        self
    }

    /// Messages as they come from above. These must arrive at the other side; the ones made by
    /// chance, which are tried as well, may be refused.
    pub fn messages(mut self, samples: impl Into<Vec<Vec<u8>>>) -> Self {
        self.messages = samples.into();
        self
    }

    /// The longest message that is made by chance, in bytes (1,024 unless told).
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// The most storage that a session may hold, in bytes of footprint (64 KiB unless told),
    /// whatever comes in.
    pub fn max_held(mut self, bytes: usize) -> Self {
        self.max_held = bytes;
        self
    }

    /// Timers may run on for so long after the end of the session (unless told, not at all).
    pub fn linger(mut self, duration: Duration) -> Self {
        self.linger = duration;
        self
    }

    /// What stands at the other end of a round trip, if that is not the same protocol.
    pub fn peer(mut self, factory: impl Fn() -> Box<dyn Protocol> + 'a) -> Self {
        self.peer = Some(Box::new(factory));
        self
    }

    /// Another seed for what is left to chance (1 unless told).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Runs all checks.
    ///
    /// # Panics
    /// If a law was broken: with the law, the scenario and the numbers of every failure.
    #[track_caller]
    pub fn run(&self) -> Report {
        let report = self.report();
        assert!(report.passed(), "{report}");
        report
    }

    /// Runs all checks and answers how they ended. Each check ends at its first failure; the
    /// others are run all the same. A protocol that panics is caught (so not where panics abort);
    /// what the panic hook prints is printed all the same.
    pub fn report(&self) -> Report {
        Suite::run(self)
    }
}

impl fmt::Debug for Conformance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conformance")
            .field("name", &self.name)
            .field("edge", &self.edge)
            .field("top", &self.top)
            .field("key", &self.key)
            .field("max_message", &self.max_message)
            .field("max_held", &self.max_held)
            .field("linger", &self.linger)
            .finish_non_exhaustive()
    }
}
