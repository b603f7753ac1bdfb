//! Parsing: mbuf's chains and its stack, beside C by hand (`c/parsing.c`) and the crates that parse
//! packets. Every side adds up both ports and the bytes of payload of all packets; what that must
//! come to is known from when they were made.

use std::{cell::RefCell, hint::black_box, path::PathBuf, process::Command, rc::Rc, time::Instant};

use anyhow::ensure;

use super::{
    case::{Case, Side},
    chains,
    layers::{self, Layers},
    packets::{Packets, Traffic},
    program::{self, Program},
    readers,
};

/// How many packets there are, and where they are then.
const COUNTS: [(usize, &str); 2] = [(500, "500 in cache"), (100_000, "100,000 out of cache")];

/// All cases, with the program in C where there is a compiler.
pub fn cases(c: &Option<PathBuf>) -> Vec<Case> {
    let mut cases = Vec::new();
    for (traffic, title) in
        [(Traffic::Mixed, "mixed packets"), (Traffic::Udp, "UDP over verified IPv4")]
    {
        for (count, place) in COUNTS {
            let c = c.clone();
            cases.push(Case::new(format!("{title}, {place}"), move || {
                let packets = Rc::new(Packets::make(traffic, count)?);
                let mut sides = match traffic {
                    Traffic::Mixed => rust_sides::<false>(&packets)?,
                    Traffic::Udp => rust_sides::<true>(&packets)?,
                };
                if traffic == Traffic::Udp {
                    sides.push(layers::side(Layers::Bare, &packets)?);
                    sides.push(layers::side(Layers::Host, &packets)?);
                }
                if let Some(c) = &c {
                    sides.extend(c_sides(c, traffic, &packets)?);
                }
                Ok(sides)
            }));
        }
    }
    cases
}

fn rust_sides<const VERIFY: bool>(packets: &Rc<Packets>) -> anyhow::Result<Vec<Side>> {
    Ok(vec![
        chains::side::<VERIFY>(packets)?,
        reader("pnet", packets, readers::pnet::<VERIFY>),
        reader("smoltcp", packets, readers::smoltcp::<VERIFY>),
        reader("etherparse", packets, readers::etherparse::<VERIFY>),
    ])
}

/// A parser of slices.
fn reader(
    who: &'static str,
    packets: &Rc<Packets>,
    parse: impl Fn(&[u8]) -> u64 + 'static,
) -> Side {
    let packets = packets.clone();
    Side::new(who, packets.len(), move |times| {
        let start = Instant::now();
        let mut sum = 0;
        for _ in 0..times {
            sum += black_box(&packets).iter().map(&parse).sum::<u64>();
        }
        let taken = start.elapsed();
        check(who, &packets, times, sum)?;
        Ok(taken)
    })
}

/// C without and with prefetching.
fn c_sides(path: &PathBuf, traffic: Traffic, packets: &Rc<Packets>) -> anyhow::Result<[Side; 2]> {
    let program = Program::start("C", Command::new(path), &packets.for_c())?;
    let program = Rc::new(RefCell::new(program));
    let side = |who, case| {
        let expected = packets.clone();
        program::side(who, packets.len(), &program, case, move |times, sum| {
            check(who, &expected, times, sum)
        })
    };
    let cases = match traffic {
        Traffic::Mixed => ["plain", "prefetching"],
        Traffic::Udp => ["verified", "verified, prefetching"],
    };
    Ok([side("C by hand", cases[0]), side("C by hand, prefetching", cases[1])])
}

fn check(who: &str, packets: &Packets, times: u64, sum: u64) -> anyhow::Result<()> {
    let expected = packets.sum * times;
    ensure!(sum == expected, "{who}: a sum of {sum} in {times} passes, not of {expected}");
    Ok(())
}
