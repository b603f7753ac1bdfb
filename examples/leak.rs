//! A layer that forgets a chain now and then, and how the census finds it.
//!
//! `cargo run --example leak --features census` sends a hundred packets through two layers. The
//! upper one answers each, save those that begin with a zero, which it keeps for later; and there
//! is no later. The listing names the line where the packets were allocated, and that the last
//! thing that happened to them was to be given to the second layer.

use anyhow::{Result, ensure};
use mbuf::{
    Chain, Class, Pool,
    pool::Mark,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
};

/// Takes off one byte, and puts it on again.
struct Number;

impl Protocol for Number {
    fn name(&self) -> &str {
        "number"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).prepends(1).stateless()
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.strip::<u8>() {
            Ok(_) => cx.up(chain),
            Err(_) => cx.drop(chain, DropReason::MALFORMED),
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.push(&1_u8) {
            Ok(()) => cx.down(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }
}

// ANCHOR: forgetful
/// Answers what comes; what begins with a zero it keeps for later, and forgets.
#[derive(Default)]
struct Forgetful {
    later: Vec<Chain>,
}

impl Protocol for Forgetful {
    fn name(&self) -> &str {
        "forgetful"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).stateless()
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.pullup(1) {
            Ok([0]) => {
                chain.mark(Mark::A);
                self.later.push(chain);
                cx.held()
            }
            _ => cx.reply(chain),
        }
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }
}
// ANCHOR_END: forgetful

fn main() -> Result<()> {
    let pool = Pool::builder()
        .name("packets")
        .count(Class::K2, 128)
        .on_close(|census| println!("closed with\n{census}"))
        .build()?;
    let layers: Vec<Box<dyn Protocol>> = vec![Box::new(Number), Box::new(Forgetful::default())];
    let mut stack = Stack::pile(&pool, Edge::Packets, layers)?;
    for n in 0..100 {
        let packet = pool.chain_from(&[n, n % 10, 7, 7])?;
        stack.input_one(PortId(0), packet);
        while stack.poll_output(PortId(0)).pop().is_some() {}
    }

    let census = pool.census();
    println!("{census}");
    ensure!(census.buffers() == 10, "every tenth packet is kept");

    // What is still out when the last handle goes is listed by itself: here a chain that somebody
    // keeps for longer than the pool, which is not forbidden.
    let longer = pool.chain_from(&[7; 1000])?;
    drop((stack, pool));
    drop(longer);
    Ok(())
}
