//! Checks of what is bounded: output by credit, storage by its limit, timers by the session's end.

use crate::{
    stack::{Closing, DropReason, Edge, Signal},
    testing::Rng,
};

use super::{
    report::{Check, Failure},
    rig::Rig,
    suite::{Checked, Suite, made},
};

/// A sink that blocks, and one that takes a little now and then: what the protocol sends without
/// input must fit the credit that there was.
pub(super) fn credit(suite: &Suite<'_, '_>) -> Checked {
    for high_water in [512, 4096, 64 << 10] {
        let scenario = format!("a blocked sink, high water at {high_water} bytes");
        suite.case(&[&suite.pool], scenario, || {
            let mut rig = Rig::new(suite.spec, suite.edges, &suite.pool, high_water)?;
            rig.blocked = true;
            within(&mut rig, high_water, "at the opening", Rig::open)?;
            let mut rng = Rng::new(suite.spec.seed ^ high_water as u64);
            for _ in 0..32 {
                within(&mut rig, high_water, "when a timer fires", |rig| _ = rig.fire())?;
                let bytes = rng.between(1, high_water);
                within(&mut rig, high_water, "when the sink takes some", |rig| {
                    rig.take_wire(bytes);
                    rig.pump();
                })?;
                within(&mut rig, high_water, "when memory is low", |rig| {
                    rig.stack.signal(Signal::Drain);
                    rig.pump();
                })?;
            }
            // Now with input, as long as the stack wants any.
            for sample in suite.all_wire().into_iter().cycle().take(400) {
                if !rig.receive(suite.chain(sample)?) {
                    break;
                }
            }
            within(&mut rig, high_water, "when a timer fires", |rig| _ = rig.fire())?;
            full_queues(&rig)?;
            rig.blocked = false;
            rig.pump();
            rig.verify()
        })?;
    }
    Ok(())
}

/// Runs one event that is not input and compares what it added with the credit before it.
/// What the event itself takes from the queue is credit, too.
fn within(rig: &mut Rig, high_water: usize, when: &str, event: impl FnOnce(&mut Rig)) -> Checked {
    let taken_before: usize = rig.seen.wire.iter().map(|out| out.bytes.len()).sum();
    let before = rig.stack.poll_output(rig.wire).bytes();
    event(rig);
    let taken: usize = rig.seen.wire.iter().map(|out| out.bytes.len()).sum();
    let taken = taken - taken_before;
    let after = rig.stack.poll_output(rig.wire).bytes();
    let added = (after + taken).saturating_sub(before);
    let credit = high_water.saturating_sub(before.saturating_sub(taken));
    if added > credit {
        let what = format!("sends {added} bytes {when}, with a credit of {credit}");
        return Err(Failure::new(Check::Credit, what));
    }
    full_queues(rig)
}

/// A layer that keeps to its credit never meets the hard limit.
fn full_queues(rig: &Rig) -> Checked {
    let stats = rig.stack.stats();
    for reason in [DropReason::EGRESS_FULL, DropReason::OVERRUN] {
        let aborts = stats.ports.iter().flat_map(|port| &port.aborts);
        let aborted = aborts.filter(|(its, _)| *its == reason).count();
        if stats.dropped(reason) > 0 || aborted > 0 {
            let what = format!("met the hard limit of the output queue: {reason}");
            return Err(Failure::new(Check::Credit, what));
        }
    }
    Ok(())
}

/// Long input of the kinds that make parsers hoard: byte by byte, then in large pieces.
pub(super) fn held(suite: &Suite<'_, '_>) -> Checked {
    let mut rng = Rng::new(suite.spec.seed ^ 0x4e1d);
    match suite.edges.wire {
        Edge::Bytes => {
            let mut heads: Vec<Vec<u8>> = vec![Vec::new()];
            for sample in suite.small_wire().take(2) {
                heads.extend([1, 4].map(|len| sample[..len.min(sample.len())].to_vec()));
            }
            heads.sort();
            heads.dedup();
            for head in heads {
                for fill in [Some(0x00), Some(0xff), Some(0x80), Some(b'a'), None] {
                    endless(suite, &head, fill, &mut rng)?;
                }
            }
            Ok(())
        }
        _ => flood(suite, &mut rng),
    }
}

/// A stream that begins like a sample and never ends.
fn endless(suite: &Suite<'_, '_>, head: &[u8], fill: Option<u8>, rng: &mut Rng) -> Checked {
    let what = fill.map_or("noise".into(), |byte| format!("{byte:#04x}"));
    let scenario = format!("a stream of {} sample bytes, then {what} without end", head.len());
    suite.case(&[&suite.pool], scenario, || {
        let mut rig = suite.rig(&suite.pool)?;
        rig.open();
        let next = |len: usize, rng: &mut Rng| match fill {
            Some(byte) => vec![byte; len],
            None => rng.bytes(len),
        };
        let mut pieces = vec![head.to_vec()];
        pieces.extend((0..1200).map(|_| next(1, rng)));
        pieces.extend((0..64).map(|_| next(2000, rng)));
        for (n, piece) in pieces.iter().filter(|piece| !piece.is_empty()).enumerate() {
            if !rig.receive(suite.chain(piece)?) {
                break;
            }
            if n % 8 == 0 {
                rig.verify()?;
            }
        }
        rig.settle();
        rig.verify()
    })
}

/// Packets without end: samples, beginnings of samples, samples with something changed, noise.
fn flood(suite: &Suite<'_, '_>, rng: &mut Rng) -> Checked {
    suite.case(&[&suite.pool], "3,000 packets, most of them damaged", || {
        let mut rig = suite.rig(&suite.pool)?;
        rig.open();
        let samples = suite.all_wire();
        for n in 0..3000 {
            let mut packet = samples[rng.below(samples.len())].to_vec();
            match n % 4 {
                0 => packet.truncate(rng.between(0, packet.len())),
                1 | 2 if !packet.is_empty() => {
                    let place = rng.below(packet.len().min(24));
                    packet[place] = rng.next_u64() as u8;
                }
                _ => {}
            }
            if !rig.receive(made(suite.pool.chain_from(&packet))?) {
                break;
            }
            rig.verify()?;
        }
        rig.settle();
        rig.verify()
    })
}

/// How a session ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Shutdown,
    Stream,
    Both,
}

/// After the end of a session (and the time that it may linger) no timer is armed, whatever it was
/// in the middle of.
pub(super) fn timers(suite: &Suite<'_, '_>) -> Checked {
    let samples: Vec<&[u8]> = suite.small_wire().collect();
    for end in [End::Shutdown, End::Stream, End::Both] {
        for (n, half) in (0..=samples.len()).flat_map(|n| [(n, false), (n, true)]) {
            let scenario = match samples.get(n) {
                None => format!("{end:?} after opening"),
                Some(_) if half => format!("{end:?} in the middle of sample {n}"),
                Some(_) => format!("{end:?} after sample {n}"),
            };
            suite.case(&[&suite.pool], scenario, || {
                let mut rig = suite.rig(&suite.pool)?;
                rig.open();
                if let Some(sample) = samples.get(n) {
                    let len = if half { sample.len() / 2 } else { sample.len() };
                    if len > 0 {
                        rig.receive(suite.chain(&sample[..len])?);
                    }
                }
                if let Some(message) = suite.small_messages().next() {
                    rig.send(suite.chain(message)?);
                }
                finish(suite, &mut rig, end)
            })?;
        }
    }
    Ok(())
}

fn finish(suite: &Suite<'_, '_>, rig: &mut Rig, end: End) -> Checked {
    if matches!(end, End::Stream | End::Both) {
        rig.stack.end_of_stream(rig.wire);
        rig.pump();
    }
    if matches!(end, End::Shutdown | End::Both) {
        rig.stack.signal(Signal::Shutdown);
        rig.pump();
    }
    rig.verify()?;
    let until = rig.now() + suite.spec.linger;
    for _ in 0..10_000 {
        match rig.stack.next_timeout() {
            Some(due) if due <= until => _ = rig.fire(),
            _ => break,
        }
    }
    // Half a connection goes on living after the end of one direction.
    let over = rig.stack.closing(rig.wire) != Closing::Open || matches!(end, End::Shutdown);
    match rig.stack.next_timeout() {
        Some(due) if over => {
            let what = format!(
                "a timer is left {:?} after the end, allowed {:?}",
                due.since(rig.now()),
                suite.spec.linger
            );
            Err(Failure::new(Check::Timers, what))
        }
        _ => rig.verify(),
    }
}
