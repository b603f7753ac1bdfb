//! Small protocols that keep the contract, or break it in one way.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use crate::{
    chain::Chain,
    error::Error,
    meta::Address,
    queue::Batch,
    stack::{Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Timer},
};

/// What is wrong with a toy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    LeaksSilently,
    ForgetsInAnOutcome,
    KeepsStateBetweenSessions,
    LooksAtTheFirstSegmentOnly,
    PrependsMoreThanDeclared,
    AppendsMoreThanDeclared,
    DropsForAnUndeclaredReason,
    LeavesAHeaderByteUnwritten,
    SendsAtOpeningWithoutCredit,
    SendsByTimerWithoutCredit,
    LeavesATimer,
    Panics,
    PanicsOnAnEmptyPool,
    SwallowsOnAnEmptyPool,
    HoardsOpenly,
    HoardsInSecret,
    KeepsBuffersWhenItGoes,
    CutsOffTheLastByte,
    ReversesABatch,
    LeavesChainsInABatch,
    NeverRests,
    TrustsOneChunk,
    PassesUpTooEarly,
    BelievesAnyLength,
    SaysSomethingElseEachTime,
}

const BAD_TAG: DropReason = DropReason("bad tag");
const MAGIC: u8 = 0xb5;

/// A packet protocol: a magic byte, a sequence number, the sum of the two, and a byte of padding.
pub(super) struct Tag {
    bug: Bug,
    sequence: u8,
    shared: Arc<Shared>,
    kept: Vec<Chain>,
}

#[derive(Default)]
pub(super) struct Shared {
    sequence: AtomicU8,
    pub(super) stash: Mutex<Vec<Chain>>,
}

impl Tag {
    pub(super) fn new(bug: Bug, shared: &Arc<Shared>) -> Self {
        Self { bug, sequence: 0, shared: Arc::clone(shared), kept: Vec::new() }
    }

    fn malformed(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match self.bug {
            Bug::LeaksSilently => {
                drop(chain);
                cx.held()
            }
            Bug::DropsForAnUndeclaredReason => cx.drop(chain, DropReason("because")),
            Bug::HoardsOpenly | Bug::HoardsInSecret | Bug::KeepsBuffersWhenItGoes => {
                self.kept.push(chain);
                cx.held()
            }
            _ => cx.drop(chain, BAD_TAG),
        }
    }

    fn header(&self, chain: &mut Chain) -> Result<[u8; 4], Error> {
        if self.bug == Bug::LooksAtTheFirstSegmentOnly {
            let first = chain.slices()?.next().unwrap_or(&[]);
            let mut header = [0; 4];
            let len = first.len().min(4);
            header[..len].copy_from_slice(&first[..len]);
            return Ok(header);
        }
        let bytes = chain.pullup(4)?;
        Ok([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn push(&mut self, chain: &mut Chain) -> Result<(), Error> {
        let sequence = match self.bug {
            Bug::KeepsStateBetweenSessions => self.shared.sequence.fetch_add(1, Ordering::Relaxed),
            _ => self.sequence,
        };
        let header = [MAGIC, sequence, MAGIC.wrapping_add(sequence), 0];
        if self.bug == Bug::LeavesAHeaderByteUnwritten && chain.restore(1).is_ok() {
            chain.prepend_slice(&header[..3])?;
        } else {
            chain.prepend_slice(&header)?;
        }
        match self.bug {
            Bug::PrependsMoreThanDeclared => chain.prepend_slice(&[MAGIC])?,
            Bug::AppendsMoreThanDeclared => chain.extend_from_slice(&[0])?,
            _ => {}
        }
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    fn greet(&self, cx: &mut Context<'_>) {
        for _ in 0..50 {
            if let Ok(chain) = cx.pool().chain_from(&[MAGIC; 100]) {
                cx.made(1);
                cx.send_down(chain);
            }
        }
    }
}

impl Protocol for Tag {
    fn name(&self) -> &str {
        "tag"
    }

    fn info(&self) -> LayerInfo {
        let more = match self.bug {
            Bug::SaysSomethingElseEachTime => {
                usize::from(self.shared.sequence.fetch_add(1, Ordering::Relaxed))
            }
            _ => 0,
        };
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(4 + more)
            .batched()
            .reasons(&[BAD_TAG])
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok([magic, sequence, sum, pad]) = self.header(&mut chain) else {
            return match self.bug {
                Bug::Panics => panic!("a tag of {} bytes", chain.len()),
                _ => self.malformed(chain, cx),
            };
        };
        if magic != MAGIC || sum != MAGIC.wrapping_add(sequence) || pad != 0 {
            return self.malformed(chain, cx);
        }
        if chain.trim_front(4).is_err() {
            return self.malformed(chain, cx);
        }
        if self.bug == Bug::CutsOffTheLastByte {
            chain.adj(-1);
        }
        if self.bug == Bug::ForgetsInAnOutcome && chain.len() == 7 {
            let _ = cx.up(chain);
            return cx.held();
        }
        cx.up(chain)
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match self.push(&mut chain) {
            Ok(()) => cx.down(chain),
            Err(error) => match self.bug {
                Bug::PanicsOnAnEmptyPool => panic!("{error}"),
                Bug::SwallowsOnAnEmptyPool => cx.consumed(chain),
                _ => cx.drop(chain, DropReason::NO_BUFFERS),
            },
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match (signal, self.bug) {
            (Signal::Opened, Bug::SendsAtOpeningWithoutCredit) => self.greet(cx),
            (Signal::Opened, Bug::SendsByTimerWithoutCredit | Bug::LeavesATimer) => {
                cx.arm(Duration::from_secs(60));
            }
            (Signal::Opened | Signal::Writable, Bug::NeverRests) => cx.wait(),
            _ => {}
        }
    }

    fn timeout(&mut self, _timer: Timer, cx: &mut Context<'_>) {
        if self.bug == Bug::SendsByTimerWithoutCredit {
            self.greet(cx);
        }
    }

    fn held(&self) -> Held {
        match self.bug {
            Bug::HoardsInSecret => Held::default(),
            _ => self.kept.iter().sum(),
        }
    }

    fn input_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        let mut chains: Vec<Chain> = batch.drain().collect();
        match self.bug {
            Bug::ReversesABatch => chains.reverse(),
            Bug::LeavesChainsInABatch => batch.extend(chains.pop()),
            _ => {}
        }
        for chain in chains {
            let outcome = self.input(chain, cx);
            cx.apply(outcome);
        }
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        if self.bug == Bug::KeepsBuffersWhenItGoes
            && let Ok(mut stash) = self.shared.stash.lock()
        {
            stash.append(&mut self.kept);
        }
    }
}

/// A stream protocol: a byte of length before each message.
pub(super) struct Frame {
    bug: Bug,
    /// What has come of the next frame.
    partial: Option<Chain>,
}

impl Frame {
    const MAX: usize = 200;

    pub(super) fn new(bug: Bug) -> Self {
        Self { bug, partial: None }
    }

    /// The next whole message, if it is there.
    fn next(&mut self) -> Result<Option<Chain>, Error> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        let mut len = [0];
        if partial.peek(0, &mut len).is_err() {
            return Ok(None);
        }
        let max = if self.bug == Bug::BelievesAnyLength { 255 } else { Self::MAX };
        let len = usize::from(len[0]);
        if len == 0 || len > max {
            return Err(Error::TooLong { wanted: len, max });
        }
        let wanted = match self.bug {
            Bug::BelievesAnyLength => len * 1000,
            _ => len,
        };
        if partial.len() < 1 + wanted {
            let early = self.bug == Bug::PassesUpTooEarly && partial.len() > 4;
            if !early {
                return Ok(None);
            }
        }
        let len = len.min(partial.len() - 1);
        let rest = partial.split_off(1 + len)?;
        let whole = if rest.is_empty() { self.partial.take() } else { self.partial.replace(rest) };
        let Some(mut message) = whole else { return Ok(None) };
        message.trim_front(1)?;
        Ok(Some(message))
    }

    fn join(&mut self, chain: Chain, cx: &mut Context<'_>) -> Result<(), Chain> {
        match &mut self.partial {
            None => self.partial = Some(chain),
            Some(partial) => {
                partial.concat(chain).map_err(|rejected| rejected.value)?;
                cx.merged(1);
            }
        }
        Ok(())
    }

    fn give_up(&mut self, reason: DropReason, cx: &mut Context<'_>) {
        if let Some(chain) = self.partial.take() {
            let outcome = cx.drop(chain, reason);
            cx.apply(outcome);
        }
        cx.abort(reason);
    }
}

impl Protocol for Frame {
    fn name(&self) -> &str {
        "frame"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Bytes, Edge::Packets).prepends(1)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if self.bug == Bug::TrustsOneChunk {
            self.partial = None;
            let mut len = [0];
            if chain.peek(0, &mut len).is_err() || chain.len() <= usize::from(len[0]) {
                return cx.drop(chain, DropReason::MALFORMED);
            }
        }
        if let Err(chain) = self.join(chain, cx) {
            return cx.drop(chain, DropReason::LIMIT);
        }
        loop {
            match self.next() {
                Ok(None) => break,
                Ok(Some(message)) => {
                    if self.partial.is_some() {
                        cx.made(1); // the frame was split off what follows it
                    }
                    cx.send_up(message);
                }
                Err(Error::NoBuffers { .. }) => {
                    self.give_up(DropReason::NO_BUFFERS, cx);
                    break;
                }
                Err(_) => {
                    self.give_up(DropReason::MALFORMED, cx);
                    break;
                }
            }
        }
        let failed =
            self.partial.as_mut().is_some_and(|partial| partial.compact_to_hold().is_err());
        if failed {
            self.give_up(DropReason::NO_BUFFERS, cx);
        }
        cx.held()
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if chain.is_empty() || chain.len() > Self::MAX {
            return cx.drop(chain, DropReason::LIMIT);
        }
        let len = chain.len() as u8;
        match chain.prepend_slice(&[len]) {
            Ok(()) => cx.down(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }

    fn held(&self) -> Held {
        self.partial.iter().sum()
    }
}

/// At the top: sends without end as long as there is credit.
pub(super) struct Endless {
    pub(super) retries: bool,
    pub(super) greedy: bool,
}

impl Endless {
    fn send(&self, cx: &mut Context<'_>) {
        while self.greedy && cx.credit() > 0 || cx.credit() >= 100 {
            match cx.pool().chain_from(&[b'x'; 100]) {
                Ok(chain) => {
                    cx.made(1);
                    cx.send_down(chain);
                }
                Err(_) if self.retries => {
                    cx.arm(Duration::from_millis(10));
                    return;
                }
                Err(_) => return,
            }
        }
        if cx.credit() > 0 {
            cx.wait();
        }
    }
}

impl Protocol for Endless {
    fn name(&self) -> &str {
        "endless"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Bytes, Edge::Bytes)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.consumed(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }

    fn timeout(&mut self, _timer: Timer, cx: &mut Context<'_>) {
        self.send(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        if matches!(signal, Signal::Opened | Signal::Writable) {
            self.send(cx);
        }
    }
}

/// At the top: answers packets; a broken one answers the first peer for ever.
pub(super) struct Answer {
    pub(super) broken: bool,
    pub(super) first: Option<Address>,
}

impl Protocol for Answer {
    fn name(&self) -> &str {
        "answer"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Any).stateless()
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let first = *self.first.get_or_insert(chain.meta().source());
        if self.broken {
            chain.meta_mut().set_source(first);
        }
        cx.reply(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }
}
