//! The reference: what chains should be, as plain `Vec<u8>`s.
//!
//! It knows nothing of buffers. A step that needs some may find none, and then leaves everything
//! as it was; whoever runs the step against real chains says so ([`Turn::refuse`]), and the
//! reference takes it back.

use std::{cell::Cell, mem};

use mbuf::Class;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use crate::{
    common::{
        ops::{Data, Op, Out, Refusal},
        pattern,
    },
    step::{self, MOST_BYTES, Step, Verb, place},
};

/// Chains at once, above which none is made, and above which one is dropped instead of another
/// being split off or shared.
const MOST_CHAINS: usize = 8;
const TOO_MANY: usize = 12;

/// What one chain should be.
#[derive(Debug, Clone, Default)]
pub struct Flat {
    pub bytes: Vec<u8>,
    /// In the metadata: whose copy it is.
    pub tag: u16,
    /// Bytes that were stripped from the front and may still come back; where they do, it is
    /// with these values.
    pub stripped: Vec<u8>,
    /// How many of them must come back.
    pub fresh: usize,
}

/// A way to make a chain.
#[derive(Debug, Clone)]
pub enum Make {
    Empty,
    Headroom(usize),
    In(Class, usize),
    Zeroed(usize),
    From(Data),
    /// So many segments or more: pieces of so many bytes.
    Pieces(Data, usize),
    Attach(Data),
    AttachMut(Data),
    AttachOpaque(Data),
    /// From a receiver, which leaves the reserve alone.
    Receive,
    ReceiveIn(Class, usize),
    /// Several empty ones.
    Batch(usize),
}

/// A step with its arguments worked out.
#[derive(Debug, Clone)]
pub enum Action {
    Nothing,
    Make {
        how: Make,
        roomy: bool,
    },
    Drop(usize),
    Discard(usize),
    /// Given to a consumer as `bytes::Bytes`.
    Lend(usize),
    Restore(usize, usize),
    /// So many bytes are sent; then a copy goes through a queue, in pieces of so many bytes.
    Queue(usize, usize, usize),
    SetKind(usize, u8),
    /// `other` is taken out of the chains first; `at` counts what is left. `broken`: no file can be
    /// read meanwhile.
    Operate {
        at: usize,
        other: Option<usize>,
        op: Op,
        broken: bool,
    },
}

/// The last step, and what should have come of it.
#[derive(Debug, Clone)]
pub struct Turn {
    pub action: Action,
    /// Of an operation: what it should answer.
    pub expected: Result<Out<Vec<u8>>, Refusal>,
    pub before: Vec<Flat>,
    refused: Cell<bool>,
}

impl Turn {
    /// The real chains were not changed, for a reason that the reference knows nothing of.
    pub fn refuse(&self) {
        self.refused.set(true);
    }
}

/// All chains.
#[derive(Debug, Clone)]
pub struct State {
    /// Which tight pool there is.
    pub tight: usize,
    pub turn: Turn,
    chains: Vec<Flat>,
    tags: u16,
}

impl State {
    fn new(tight: usize) -> Self {
        let turn = Turn {
            action: Action::Nothing,
            expected: Ok(Out::Nothing),
            before: Vec::new(),
            refused: Cell::new(false),
        };
        Self { tight, turn, chains: Vec::new(), tags: 0 }
    }

    /// What the chains should be now.
    pub fn chains(&self) -> &[Flat] {
        if self.turn.refused.get() { &self.turn.before } else { &self.chains }
    }

    /// Gives a step its meaning.
    fn resolve(&self, step: &Step) -> Action {
        let chains = self.chains();
        if step.verb == Verb::Make {
            return match chains.len() {
                MOST_CHAINS.. => Action::Nothing,
                there => Action::Make {
                    how: making(step, MOST_CHAINS - there),
                    roomy: step.seed.is_multiple_of(3),
                },
            };
        }
        if chains.is_empty() {
            return Action::Nothing;
        }
        let at = usize::from(step.which) % chains.len();
        let len = chains[at].bytes.len();
        match step.verb {
            Verb::Make => unreachable!("done above"),
            Verb::Drop => Action::Drop(at),
            Verb::Discard => Action::Discard(at),
            Verb::Lend => Action::Lend(at),
            Verb::Restore => Action::Restore(at, step.size % (chains[at].stripped.len() + 2)),
            Verb::Queue => Action::Queue(at, place(step.from, len), step.size + 1),
            Verb::SetKind => Action::SetKind(at, step.seed % 8),
            Verb::Operate(_) if chains.len() >= TOO_MANY => Action::Drop(at),
            Verb::Operate(number) => {
                let op = step::operation(number, step, len);
                let broken = step.other.is_multiple_of(3) && op.fails_by_reading();
                if !op.takes_other() {
                    return Action::Operate { at, other: None, op, broken };
                }
                if chains.len() < 2 {
                    return Action::Nothing;
                }
                // Any chain but this one.
                let other = (at + 1 + usize::from(step.other) % (chains.len() - 1)) % chains.len();
                if chains[other].bytes.len() + len > MOST_BYTES {
                    return Action::Nothing;
                }
                let at = at - usize::from(other < at);
                Action::Operate { at, other: Some(other), op, broken }
            }
        }
    }

    fn enter(&mut self, bytes: Vec<u8>) {
        self.tags += 1;
        self.chains.push(Flat { bytes, tag: self.tags, ..Flat::default() });
    }

    fn make(&mut self, how: &Make) {
        match how {
            Make::Batch(n) => (0..*n).for_each(|_| self.enter(Vec::new())),
            Make::Zeroed(len) => self.enter(vec![0; *len]),
            Make::From(bytes)
            | Make::Pieces(bytes, _)
            | Make::Attach(bytes)
            | Make::AttachMut(bytes)
            | Make::AttachOpaque(bytes) => self.enter(bytes.to_vec()),
            Make::Empty
            | Make::Headroom(_)
            | Make::In(..)
            | Make::Receive
            | Make::ReceiveIn(..) => self.enter(Vec::new()),
        }
    }

    fn operate(
        &mut self,
        at: usize,
        other: Option<usize>,
        op: &Op,
    ) -> Result<Out<Vec<u8>>, Refusal> {
        let given = other.map(|other| self.chains.remove(other)).unwrap_or_default();
        let flat = &mut self.chains[at];
        let old = flat.bytes.clone();
        let answer = op.model(&mut flat.bytes, &given.bytes);
        match &answer {
            Ok(out) => {
                flat.remember(op, &old, &given.bytes);
                let Flat { tag, stripped, .. } = flat;
                // Sharers may restore what was stripped; tails and copies may not.
                let stripped = match op {
                    Op::Share | Op::ShareN(_) => stripped.clone(),
                    _ => Vec::new(),
                };
                let tag = *tag;
                for bytes in out.chains().to_vec() {
                    let stripped = stripped.clone();
                    self.chains.push(Flat { bytes, tag, stripped, fresh: 0 });
                }
            }
            // It comes back.
            Err(_) => {
                if let Some(other) = other {
                    self.chains.insert(other, given);
                }
            }
        }
        answer
    }
}

impl Flat {
    /// What an operation that was done means for the bytes that were stripped.
    fn remember(&mut self, op: &Op, old: &[u8], other: &[u8]) {
        let forgets = match op {
            Op::TrimFront(_) | Op::Strip => {
                let n = old.len() - self.bytes.len();
                self.stripped.extend(&old[..n]);
                self.fresh += n;
                return;
            }
            Op::Adj(n) => {
                let gone = if *n > 0 { old.len() - self.bytes.len() } else { 0 };
                self.stripped.extend(&old[..gone]);
                false
            }
            Op::Prepend(n) | Op::Advance(n) => *n > 0,
            Op::PrependSlice(slice) => !slice.is_empty(),
            Op::Push(_) => true,
            // Into an empty chain it is a concat.
            Op::Insert(0) => !other.is_empty() && !old.is_empty(),
            // These move no byte.
            Op::Peek(..) | Op::Checksum(..) | Op::IoSlices | Op::Hexdump => return,
            Op::Read(_) | Op::Seek(..) | Op::Reserve(_) => return,
            Op::TrimBack(_) | Op::Truncate(_) => return,
            Op::Append(_) | Op::Extend(_) | Op::Write(_) | Op::Writer(..) => return,
            Op::Commit(..) | Op::CommitFrom(..) => return,
            _ => false,
        };
        self.fresh = 0;
        if forgets {
            self.stripped.clear();
        }
    }
}

impl ReferenceStateMachine for State {
    type State = State;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<State> {
        (0_usize..3).prop_map(State::new).boxed()
    }

    fn transitions(state: &State) -> BoxedStrategy<Step> {
        step::steps(state.chains().len(), MOST_CHAINS)
    }

    fn apply(mut state: State, step: &Step) -> State {
        if state.turn.refused.take() {
            state.chains = mem::take(&mut state.turn.before);
        }
        let action = state.resolve(step);
        state.turn.before = state.chains.clone();
        state.turn.expected = Ok(Out::Nothing);
        match &action {
            Action::Nothing | Action::SetKind(..) => {}
            Action::Make { how, .. } => state.make(how),
            Action::Drop(at) | Action::Discard(at) | Action::Lend(at) => {
                state.chains.remove(*at);
            }
            Action::Restore(at, n) => {
                let flat = &mut state.chains[*at];
                if let Some(left) = flat.stripped.len().checked_sub(*n) {
                    let back = flat.stripped.split_off(left);
                    flat.bytes.splice(..0, back);
                    flat.fresh = flat.fresh.saturating_sub(*n);
                }
            }
            Action::Queue(at, n, _) => {
                let flat = &mut state.chains[*at];
                flat.bytes.drain(..*n);
                flat.fresh = 0;
                if *n > 0 {
                    flat.stripped.clear();
                }
            }
            Action::Operate { at, other, op, .. } => {
                state.turn.expected = state.operate(*at, *other, op);
            }
        }
        state.turn.action = action;
        state
    }

    /// Shrinking takes steps away; those that have lost their chain go as well.
    fn preconditions(state: &State, step: &Step) -> bool {
        step.verb == Verb::Make || !state.chains().is_empty()
    }
}

/// One of all ways to make a chain.
fn making(step: &Step, most: usize) -> Make {
    let class = Class::ALL[step.size % 5];
    let data = || Data::from(pattern(usize::from(step.seed), step.size));
    match step.from % 14 {
        0 => Make::Empty,
        1 => Make::Headroom(step.size.min(60_000)),
        2 => Make::In(class, step.size),
        3 => Make::Zeroed(step.size),
        4 | 5 => Make::From(data()),
        6 | 7 => {
            let piece = usize::from(step.to) % 9 + 1;
            Make::Pieces(pattern(usize::from(step.seed), step.size % 60).into(), piece)
        }
        8 => Make::Attach(data()),
        9 => Make::AttachMut(data()),
        10 => Make::AttachOpaque(data()),
        11 => Make::Receive,
        12 => Make::ReceiveIn(class, step.size % 100),
        _ => Make::Batch((usize::from(step.to) % 4).min(most)),
    }
}
