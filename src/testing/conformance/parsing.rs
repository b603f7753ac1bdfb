//! Checks of what is made of the bytes: round trip, room, cuts, chunks, truncation, bit flips.

use crate::{
    pool::Pool,
    queue::Batch,
    stack::{Closing, Edge},
    testing::{Rng, Shape, bytewise, cut as cut_at},
};

use super::{
    report::{Check, Failure},
    rig::{HIGH_WATER, Rig, Seen, joined},
    suite::{Checked, Suite, brief, made},
};

/// Bytes up to which every way of dividing a stream is tried, 2^(n-1) ways; and of noise.
const ALL_WAYS: usize = 10;
const ALL_WAYS_OF_NOISE: usize = 6;

/// Bytes up to which a sample is also given with one byte in each segment.
const BYTEWISE: usize = 1500;

/// Every message goes over to the other side, one after the other, and the other way round if
/// both sides are the same.
pub(super) fn round_trip(suite: &Suite<'_, '_>) -> Checked {
    suite.case(&[&suite.pool, &suite.other], "every message in turn, to the peer", || {
        let mut a = suite.rig(&suite.pool)?;
        let mut b = peer_rig(suite)?;
        a.open();
        b.open();
        suite.exchange(&mut a, &mut b)?;
        let mut arrived = 0;
        for message in &suite.messages {
            arrived += usize::from(one_way(suite, &mut a, &mut b, &message.bytes, message.given)?);
        }
        if suite.spec.peer.is_none() {
            for message in &suite.messages {
                one_way(suite, &mut b, &mut a, &message.bytes, message.given)?;
            }
        }
        if arrived == 0 {
            let what = format!("none of {} messages arrives", suite.messages.len());
            return Err(Failure::new(Check::RoundTrip, what));
        }
        a.verify()?;
        b.verify()
    })
}

/// Whether the message arrived; it may be refused (with a count) unless it must arrive.
fn one_way(
    suite: &Suite<'_, '_>,
    a: &mut Rig,
    b: &mut Rig,
    message: &[u8],
    must: bool,
) -> Result<bool, Failure> {
    let before = a.seen().dropped() + b.seen().dropped();
    b.seen.upper.clear();
    a.send(made(a.pool.chain_from(message))?);
    suite.exchange(a, b)?;
    for _ in 0..8 {
        if !b.seen.upper.is_empty() || !(a.fire() | b.fire()) {
            break; // it came, or nothing that was put off is left to wait for
        }
        suite.exchange(a, b)?;
    }
    let got = joined(&b.seen.upper);
    let whole = suite.edges.upper != Edge::Packets || b.seen.upper.len() == 1;
    if got == message && whole {
        return Ok(true);
    }
    let dropped = a.seen().dropped() + b.seen().dropped() - before;
    let closed = [&a.stack, &b.stack].iter().any(|stack| stack.closing(a.wire) != Closing::Open);
    if !must && b.seen.upper.is_empty() && (dropped > 0 || closed) {
        return Ok(false);
    }
    let what = format!(
        "of the message {} there arrived {} in {} chain(s), {dropped} dropped",
        brief(message),
        brief(&got),
        b.seen.upper.len()
    );
    Err(Failure::new(Check::RoundTrip, what))
}

fn peer_rig(suite: &Suite<'_, '_>) -> Result<Rig, Failure> {
    match &suite.spec.peer {
        None => suite.rig(&suite.other),
        Some(peer) => {
            let spec = super::Conformance {
                name: suite.spec.name.clone(),
                factory: Box::new(peer),
                peer: None,
                wire: Vec::new(),
                messages: Vec::new(),
                ..*suite.spec
            };
            Rig::new(&spec, suite.edges, &suite.other, HIGH_WATER)
        }
    }
}

/// Each chain on the wire may be longer than what was handed down by what was declared.
pub(super) fn room(suite: &Suite<'_, '_>) -> Checked {
    let (before, behind) = (suite.info.max_prepend(), suite.info.max_append());
    for message in &suite.messages {
        let message = &message.bytes;
        suite.case(&[&suite.pool], format!("message {}", brief(message)), || {
            let mut rig = suite.rig(&suite.pool)?;
            rig.open();
            rig.settle();
            rig.seen.wire.clear();
            rig.send(suite.chain(message)?);
            let chains = rig.seen.wire.len();
            let len = joined(&rig.seen.wire).len();
            let allowed = message.len() + chains * (before + behind);
            if len > allowed {
                let what = format!(
                    "{len} bytes in {chains} chain(s) for a message of {}; declared are {before} \
                     before and {behind} behind each",
                    message.len()
                );
                return Err(Failure::new(Check::Room, what));
            }
            if let [out] = &rig.seen.wire[..] {
                where_it_sits(&out.bytes, message, before, behind)?;
            }
            rig.verify()
        })?;
    }
    Ok(())
}

/// A message that is found in the packet as it is shows what was put on which side. (Short ones
/// might be found by chance.)
fn where_it_sits(out: &[u8], message: &[u8], before: usize, behind: usize) -> Checked {
    if message.len() < 8 {
        return Ok(());
    }
    let found = out.windows(message.len()).position(|window| window == message);
    let Some(offset) = found else { return Ok(()) };
    let rest = out.len() - offset - message.len();
    if offset > before || rest > behind {
        let what = format!(
            "puts {offset} bytes before and {rest} behind a message; declared are {before} and \
             {behind}"
        );
        return Err(Failure::new(Check::Room, what));
    }
    Ok(())
}

/// The same packet, or the same run of a stream, in every shape; and the same message.
pub(super) fn cut(suite: &Suite<'_, '_>) -> Checked {
    for sample in suite.small_wire() {
        let whole = suite.seen_of(sample)?;
        for place in suite.positions(sample.len().max(1)).into_iter().skip(1) {
            let seen = suite.case(&[&suite.pool], at(sample, place), || {
                wire_case(suite, |pool| cut_at(pool, sample, &[place]).map(Some))
            })?;
            same(suite, &whole, &seen, at(sample, place))?;
        }
        for shape in shapes(sample) {
            let scenario = format!("wire {} in shape {shape:?}", brief(sample));
            let seen = suite.case(&[&suite.pool, &suite.other], scenario.as_str(), || {
                shaped(suite, shape, sample, true)
            })?;
            same(suite, &whole, &seen, scenario)?;
        }
    }
    for message in suite.small_messages() {
        let scenario = |shape: Shape| format!("message {} in shape {shape:?}", brief(message));
        let pools = [&suite.pool, &suite.other];
        let whole = suite
            .case(&pools, scenario(Shape::Whole), || shaped(suite, Shape::Whole, message, false))?;
        for shape in shapes(message) {
            let seen =
                suite.case(&pools, scenario(shape), || shaped(suite, shape, message, false))?;
            same(suite, &whole, &seen, scenario(shape))?;
        }
    }
    Ok(())
}

fn shapes(bytes: &[u8]) -> impl Iterator<Item = Shape> {
    let long = bytes.len() > BYTEWISE;
    Shape::ALL.into_iter().filter(move |shape| !(long && *shape == Shape::Bytewise))
}

fn at(sample: &[u8], place: usize) -> String {
    format!("wire {} cut at {place}", brief(sample))
}

fn same(suite: &Suite<'_, '_>, whole: &Seen, seen: &Seen, scenario: String) -> Checked {
    match whole.difference(seen, suite.edges) {
        None => Ok(()),
        Some(detail) => Err(Failure { check: Check::Cut, scenario, detail }),
    }
}

/// A session that gets one chain from the wire, if `make` makes one.
fn wire_case(
    suite: &Suite<'_, '_>,
    make: impl FnOnce(&Pool) -> crate::Result<Option<crate::Chain>>,
) -> Result<Seen, Failure> {
    let mut rig = suite.rig(&suite.pool)?;
    rig.open();
    let chain = make(&suite.pool).map_err(|error| {
        Failure::new(Check::Held, format!("no buffers are left for input: {error}"))
    })?;
    if let Some(chain) = chain {
        rig.receive(chain);
    }
    rig.settle();
    rig.verify()?;
    Ok(rig.seen())
}

fn shaped(
    suite: &Suite<'_, '_>,
    shape: Shape,
    bytes: &[u8],
    from_wire: bool,
) -> Result<Seen, Failure> {
    let mut rig = suite.rig(&suite.pool)?;
    rig.open();
    let shaped = shape.make(&suite.pool, &suite.other, bytes).map_err(|error| {
        Failure::new(Check::Held, format!("no buffers are left for input: {error}"))
    })?;
    let companions: Vec<Vec<u8>> = shaped.companions().iter().filter_map(read).collect();
    let (chain, others) = shaped.into_parts();
    match from_wire {
        true => _ = rig.receive(chain),
        false => rig.send(chain),
    }
    rig.settle();
    let after: Vec<Vec<u8>> = others.iter().filter_map(read).collect();
    if companions != after {
        let what = "changed bytes that another chain shares";
        return Err(Failure::new(Check::Cut, what));
    }
    drop(others);
    rig.verify()?;
    Ok(rig.seen())
}

fn read(chain: &crate::Chain) -> Option<Vec<u8>> {
    chain.to_vec().ok()
}

/// A stream in every division; packets in one batch instead of one by one.
pub(super) fn chunks(suite: &Suite<'_, '_>) -> Checked {
    match suite.edges.wire {
        Edge::Bytes => stream_chunks(suite),
        _ => packet_batch(suite),
    }
}

fn stream_chunks(suite: &Suite<'_, '_>) -> Checked {
    for (n, sample) in suite.small_wire().enumerate() {
        let ways = if n < suite.wire.len() { ALL_WAYS } else { ALL_WAYS_OF_NOISE };
        let little = &sample[..sample.len().min(ways)];
        let whole = suite.seen_of(little)?;
        for way in 0..1_u32 << (little.len() - 1) {
            let places: Vec<usize> =
                (1..little.len()).filter(|place| way >> (place - 1) & 1 == 1).collect();
            divided(suite, little, &places, &whole)?;
        }
        let whole = suite.seen_of(sample)?;
        for place in suite.positions(sample.len()).into_iter().skip(1) {
            divided(suite, sample, &[place], &whole)?;
        }
        let every: Vec<usize> = (1..sample.len().min(BYTEWISE)).collect();
        divided(suite, sample, &every, &whole)?;
        let mut rng = Rng::new(suite.spec.seed ^ sample.len() as u64);
        for _ in 0..20 {
            let mut places: Vec<usize> =
                (0..rng.between(1, 12)).map(|_| rng.between(1, sample.len())).collect();
            places.sort_unstable();
            divided(suite, sample, &places, &whole)?;
        }
    }
    Ok(())
}

/// The stream in these portions, one after the other, and all in one batch.
fn divided(suite: &Suite<'_, '_>, sample: &[u8], places: &[usize], whole: &Seen) -> Checked {
    for batched in [false, true] {
        let how = if batched { "in one batch" } else { "one by one" };
        let list: Vec<_> = places.iter().take(12).collect();
        let scenario = format!("wire {} in portions cut at {list:?}, {how}", brief(sample));
        let seen = suite.case(&[&suite.pool], scenario.as_str(), || {
            let mut rig = suite.rig(&suite.pool)?;
            rig.open();
            let mut batch = Batch::new();
            let mut from = 0;
            for &place in places.iter().chain([&sample.len()]).filter(|&&at| at <= sample.len()) {
                if place <= from {
                    continue;
                }
                let chain = suite.chain(&sample[from..place])?;
                from = place;
                if batched {
                    batch.push(chain);
                } else if !rig.receive(chain) {
                    break;
                }
            }
            rig.receive_batch(&mut batch);
            batch.clear();
            rig.settle();
            rig.verify()?;
            Ok(rig.seen())
        })?;
        if let Some(detail) = whole.difference(&seen, suite.edges) {
            return Err(Failure { check: Check::Chunks, scenario, detail });
        }
    }
    Ok(())
}

fn packet_batch(suite: &Suite<'_, '_>) -> Checked {
    let samples: Vec<&[u8]> = suite.small_wire().collect();
    let run = |batched: bool| {
        let how = if batched { "in one batch" } else { "one by one" };
        suite.case(&[&suite.pool], format!("{} packets {how}", samples.len()), || {
            let mut rig = suite.rig(&suite.pool)?;
            rig.open();
            let mut batch = Batch::new();
            for sample in &samples {
                batch.push(suite.chain(sample)?);
            }
            match batched {
                true => rig.receive_batch(&mut batch),
                false => batch.drain().for_each(|chain| _ = rig.receive(chain)),
            }
            rig.settle();
            rig.verify()?;
            Ok(rig.seen())
        })
    };
    let (single, batched) = (run(false)?, run(true)?);
    // Where a session ends in the middle, how much of a batch came before that is not its doing.
    if single.closing != Some(Closing::Open) {
        return Ok(());
    }
    let scenario = format!("{} packets in one batch", samples.len());
    match single.difference(&batched, suite.edges) {
        None => Ok(()),
        Some(detail) => Err(Failure { check: Check::Chunks, scenario, detail }),
    }
}

/// Every beginning of every sample. On a byte edge, what was passed up by then must be the
/// beginning of what the whole passes up; and then the stream ends.
pub(super) fn truncation(suite: &Suite<'_, '_>) -> Checked {
    for sample in suite.small_wire() {
        let whole = suite.seen_of(sample)?;
        for len in suite.positions(sample.len()) {
            let scenario = format!("wire {} ends after {len} bytes", brief(sample));
            suite.case(&[&suite.pool], scenario, || {
                let mut rig = suite.rig(&suite.pool)?;
                rig.open();
                if suite.edges.wire == Edge::Packets || len > 0 {
                    rig.receive(suite.chain(&sample[..len])?);
                }
                rig.verify()?;
                if suite.edges.wire == Edge::Bytes {
                    begins(suite.edges.upper, &whole, &rig.seen())?;
                    rig.stack.end_of_stream(rig.wire);
                    rig.pump();
                }
                rig.settle();
                rig.verify()
            })?;
        }
    }
    Ok(())
}

fn begins(upper: Edge, whole: &Seen, part: &Seen) -> Checked {
    let as_sent = match upper {
        Edge::Packets => whole.upper.iter().zip(&part.upper).all(|(a, b)| a.bytes == b.bytes),
        _ => joined(&whole.upper).starts_with(&joined(&part.upper)),
    };
    if as_sent && (upper == Edge::Bytes || part.upper.len() <= whole.upper.len()) {
        return Ok(());
    }
    let (whole, part) = (joined(&whole.upper), joined(&part.upper));
    let what = format!("passes up {}, the whole passes up {}", brief(&part), brief(&whole));
    Err(Failure::new(Check::Truncation, what))
}

/// Every bit of the header region, and some beyond; whole, and with one byte in each segment.
pub(super) fn bit_flips(suite: &Suite<'_, '_>) -> Checked {
    let header = suite.info.max_prepend().max(suite.info.header_len()).clamp(8, 64);
    let mut rng = Rng::new(suite.spec.seed ^ 0xf11b);
    for sample in suite.small_wire().filter(|sample| !sample.is_empty()) {
        let region = header.min(sample.len()) * 8;
        let beyond = (0..32).map(|_| rng.below(sample.len() * 8));
        for bit in (0..region).chain(beyond.collect::<Vec<_>>()) {
            let mut flipped = sample.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let scenario = format!("wire {} with bit {bit} flipped", brief(sample));
            let whole = suite.case(&[&suite.pool], scenario.as_str(), || {
                wire_case(suite, |pool| pool.chain_from(&flipped).map(Some))
            })?;
            if flipped.len() <= BYTEWISE {
                let scenario = format!("{scenario}, one byte a segment");
                let seen = suite.case(&[&suite.pool], scenario.as_str(), || {
                    wire_case(suite, |pool| bytewise(pool, &flipped).map(Some))
                })?;
                same(suite, &whole, &seen, scenario)?;
            }
            // And what comes after it: a session must survive, or say that it is over.
            suite.case(&[&suite.pool], format!("{scenario}, then the sample"), || {
                let mut rig = suite.rig(&suite.pool)?;
                rig.open();
                if rig.receive(made(suite.pool.chain_from(&flipped))?) {
                    rig.receive(suite.chain(sample)?);
                }
                rig.settle();
                rig.verify()
            })?;
        }
    }
    Ok(())
}
