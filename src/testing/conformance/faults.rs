//! Checks with a hand on the pool and with more than one session.

use std::fmt;

use crate::{
    chain::Chain,
    meta::Address,
    pool::Pool,
    stack::{Closing, Edge},
    testing::{Shape, Starve, dirty},
};

use super::{
    report::{Check, Failure},
    rig::{Rig, Seen, other_peers, peer},
    suite::{Checked, Suite, brief, made},
};

/// Bytes stripped before each message, which a layer that restores instead of writing brings
/// back to light.
const STRIPPED: usize = 64;

/// Two runs in pools with different old contents, and behind different stripped bytes, must give
/// the same bytes.
pub(super) fn old_bytes(suite: &Suite<'_, '_>) -> Checked {
    for (n, sample) in suite.small_wire().enumerate() {
        let scenario = format!("wire {} (sample {n}) in dirty memory", brief(sample));
        compare(suite, &scenario, |rig, pool, _| {
            rig.receive(made(pool.chain_from(sample))?);
            Ok(())
        })?;
    }
    for message in suite.messages.iter().filter(|message| message.bytes.len() <= 2048) {
        let message = &message.bytes;
        let scenario = format!("message {} in dirty memory", brief(message));
        compare(suite, &scenario, |rig, pool, pattern| {
            let mut dirtied = vec![pattern; STRIPPED];
            dirtied.extend_from_slice(message);
            let mut chain = made(pool.chain_from(&dirtied))?;
            made(chain.trim_front(STRIPPED))?;
            rig.send(chain);
            // Once more, with room before it that nobody has touched since it was dirtied.
            rig.send(made(pool.chain_from(message))?);
            Ok(())
        })?;
    }
    Ok(())
}

fn compare(
    suite: &Suite<'_, '_>,
    scenario: &str,
    run: impl Fn(&mut Rig, &Pool, u8) -> Checked,
) -> Checked {
    let mut seen: Vec<Seen> = Vec::new();
    for (pool, pattern) in suite.little.iter().zip([0xaa, 0x55]) {
        seen.push(suite.case(&[pool], scenario, || {
            dirty(pool, pattern);
            let mut rig = suite.rig(pool)?;
            rig.open();
            run(&mut rig, pool, pattern)?;
            rig.settle();
            rig.verify()?;
            Ok(rig.seen())
        })?);
    }
    match seen[0].difference(&seen[1], suite.edges) {
        None => Ok(()),
        Some(detail) => Err(Failure {
            check: Check::OldBytes,
            scenario: scenario.to_owned(),
            detail: format!("depends on the old contents of memory: {detail}"),
        }),
    }
}

/// What a session of its own makes of its input must not depend on what another session, fed in
/// turn with it, was given.
pub(super) fn sessions(suite: &Suite<'_, '_>) -> Checked {
    let scripts = [script(suite, false), script(suite, true)];
    let mut alone = Vec::new();
    for (n, script) in scripts.iter().enumerate() {
        alone.push(suite.case(&[&suite.pool], format!("session {n} alone"), || {
            let mut rig = suite.rig(&suite.pool)?;
            rig.open();
            for step in script {
                step.apply(&mut rig, &suite.pool)?;
            }
            rig.settle();
            rig.verify()?;
            Ok(rig.seen())
        })?);
    }
    let pools = [&suite.pool, &suite.other];
    let scenario = "two sessions in turn, step by step";
    let together = suite.case(&pools, scenario, || {
        let mut rigs = [suite.rig(pools[0])?, suite.rig(pools[1])?];
        rigs.iter_mut().for_each(Rig::open);
        for step in 0..scripts[0].len().max(scripts[1].len()) {
            for ((rig, script), pool) in rigs.iter_mut().zip(&scripts).zip(pools) {
                if let Some(step) = script.get(step) {
                    step.apply(rig, pool)?;
                }
            }
        }
        rigs.iter_mut().for_each(Rig::settle);
        let [a, b] = &mut rigs;
        a.verify()?;
        b.verify()?;
        Ok([a.seen(), b.seen()])
    })?;
    for (n, (alone, together)) in alone.iter().zip(&together).enumerate() {
        if let Some(detail) = alone.difference(together, suite.edges) {
            let detail = format!("session {n} differs from the same session alone: {detail}");
            return Err(Failure { check: Check::Sessions, scenario: scenario.into(), detail });
        }
    }
    match suite.info.is_stateless() && suite.edges.wire == Edge::Packets {
        true => one_value_two_peers(suite),
        false => Ok(()),
    }
}

/// A stateless layer serves all peers itself: what it sends because of a packet must be the same
/// whoever the packets before came from, and go to this packet's peer if it goes to a peer at all.
fn one_value_two_peers(suite: &Suite<'_, '_>) -> Checked {
    let run = |peers: [Address; 2]| {
        let scenario = format!("one value, packets from {} and {} in turn", peers[0], peers[1]);
        suite.case(&[&suite.pool], scenario, || {
            let mut rig = suite.rig(&suite.pool)?;
            rig.open();
            let mut sent = Vec::new();
            for (n, sample) in suite.small_wire().flat_map(|sample| [sample; 2]).enumerate() {
                rig.peer = peers[n % 2];
                rig.receive(suite.chain(sample)?);
                for mut out in std::mem::take(&mut rig.seen.wire) {
                    for address in [&mut out.source, &mut out.destination] {
                        if *address == rig.peer {
                            *address = peer(); // the same for all, if it is the right one
                        }
                    }
                    sent.push((n, out));
                }
            }
            rig.verify()?;
            Ok(sent)
        })
    };
    let (one, two) = (run([peer(); 2])?, run(other_peers())?);
    let different = one.iter().zip(&two).find(|(a, b)| a != b);
    let detail = match different {
        Some(((_, a), (n, b))) if a.bytes == b.bytes => format!(
            "what it sends because of packet {n} goes from {} to {} instead of from {} to {}",
            b.source, b.destination, a.source, a.destination
        ),
        Some((_, (n, _))) => format!("what it sends because of packet {n} depends on the others"),
        None if one.len() != two.len() => format!("sends {} instead of {}", two.len(), one.len()),
        None => return Ok(()),
    };
    let scenario = "one value, packets from two peers in turn".to_owned();
    Err(Failure { check: Check::Sessions, scenario, detail })
}

enum Step<'a> {
    Wire(&'a [u8]),
    Message(&'a [u8]),
}

impl Step<'_> {
    fn apply(&self, rig: &mut Rig, pool: &Pool) -> Checked {
        match self {
            Step::Wire(bytes) => _ = rig.receive(made(pool.chain_from(bytes))?),
            Step::Message(bytes) => rig.send(made(pool.chain_from(bytes))?),
        }
        Ok(())
    }
}

/// What a session is given: a piece of the wire and a message in turn. The second one has it all
/// in another order, so that the two are never at the same place.
fn script<'a>(suite: &'a Suite<'_, '_>, second: bool) -> Vec<Step<'a>> {
    let mut wire: Vec<Step<'_>> = Vec::new();
    let mut samples: Vec<&[u8]> =
        suite.small_wire().filter(|sample| sample.len() <= 2048).collect();
    let mut messages: Vec<&[u8]> = suite.small_messages().collect();
    if second {
        let by = 1.min(samples.len());
        samples.rotate_left(by);
        messages.reverse();
    }
    for sample in samples {
        match suite.edges.wire {
            Edge::Bytes => wire.extend(sample.chunks(7).map(Step::Wire)),
            _ => wire.push(Step::Wire(sample)),
        }
    }
    let mut messages = messages.into_iter().map(Step::Message);
    let mut steps = Vec::new();
    for step in wire {
        steps.push(step);
        steps.extend(messages.next());
    }
    steps.extend(messages);
    steps
}

/// What is done while the pool is empty.
enum Deed<'a> {
    Open,
    Wire(&'a [u8], Shape),
    Message(&'a [u8], Shape),
}

impl fmt::Display for Deed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deed::Open => f.write_str("opening"),
            Deed::Wire(bytes, shape) => write!(f, "wire {} in shape {shape:?}", brief(bytes)),
            Deed::Message(bytes, shape) => write!(f, "message {} in shape {shape:?}", brief(bytes)),
        }
    }
}

/// For every input: with 0, 1, 2, ... small mbufs left, then clusters, until nothing was refused
/// (or the protocol, which sends without end, takes more than anyone should for a packet).
pub(super) fn empty_pool(suite: &Suite<'_, '_>) -> Checked {
    // In pieces, so that what looks at a header must gather it; and without room, so that what
    // puts one before it must find some.
    let mut deeds = vec![Deed::Open];
    for shape in [Shape::Whole, Shape::Growing, Shape::External] {
        deeds.extend(suite.small_wire().map(|bytes| Deed::Wire(bytes, shape)));
        deeds.extend(suite.small_messages().map(|bytes| Deed::Message(bytes, shape)));
    }
    for deed in &deeds {
        let what = deed.to_string();
        let pools = [&suite.little[0]];
        let full = suite.case(&pools, what.as_str(), || {
            starved(suite, deed, |_| None).map(|(seen, ..)| seen)
        })?;
        for small in [true, false] {
            let kind = if small { "small mbufs" } else { "clusters of each class" };
            for n in 0..=MOST {
                let scenario = format!("{what} with {n} {kind} left");
                let (seen, refused, held) = suite.case(&pools, scenario.as_str(), || {
                    starved(suite, deed, |pool| {
                        Some(if small { Starve::small(pool, n) } else { Starve::clusters(pool, n) })
                    })
                })?;
                if let Some(detail) = lost(suite, &full, &seen, held) {
                    return Err(Failure { check: Check::EmptyPool, scenario, detail });
                }
                if !refused {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// More buffers than one packet should ever take.
const MOST: usize = 400;

/// One deed in a starved pool, then the pool is given back and time passes. Also answers whether
/// a request was refused, and whether something is held.
fn starved(
    suite: &Suite<'_, '_>,
    deed: &Deed<'_>,
    starve: impl FnOnce(&Pool) -> Option<Starve>,
) -> Result<(Seen, bool, bool), Failure> {
    let pool = &suite.little[0];
    // Made while there still are buffers. It is of the same pool, since a chain grows from there.
    let chain: Option<Chain> = match deed {
        Deed::Open => None,
        Deed::Wire(bytes, shape) | Deed::Message(bytes, shape) => {
            Some(made(shape.make(pool, pool, bytes))?.into_parts().0)
        }
    };
    let mut rig = suite.rig(pool)?;
    if chain.is_some() {
        rig.open();
    }
    let starve = starve(pool);
    let before = denied(pool);
    match (deed, chain) {
        (Deed::Wire(..), Some(chain)) => _ = rig.receive(chain),
        (Deed::Message(..), Some(chain)) => rig.send(chain),
        _ => rig.open(),
    }
    let refused = denied(pool) > before;
    drop(starve);
    rig.settle();
    rig.verify()?;
    let held = rig.stack.held().chains > 0;
    Ok((rig.seen(), refused, held))
}

fn denied(pool: &Pool) -> u64 {
    pool.stats().classes.iter().map(|class| class.denied).sum()
}

/// What did not come out must have been dropped for a reason, or be held, or the session is over.
fn lost(suite: &Suite<'_, '_>, full: &Seen, seen: &Seen, held: bool) -> Option<String> {
    let open = seen.closing == Some(Closing::Open);
    if full.cut_off && !seen.cut_off && open {
        return Some("does not go on when the pool has buffers again".into());
    }
    let difference = full.difference(seen, suite.edges)?;
    let counted = seen.dropped() > full.dropped();
    (!counted && !held && open)
        .then(|| format!("lost without a reason being counted: {difference}"))
}
