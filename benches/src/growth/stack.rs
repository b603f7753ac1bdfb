//! Packets through layers of the simplest kind, over the real stack.

use mbuf::{
    Batch, Chain, Class, Pool,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
};

use super::{Pace, Point, nanoseconds};
use crate::row::Row;

/// Bytes of each layer's header.
const HEADER: usize = 4;
const PAYLOAD: usize = 64;
const LAYERS: [usize; 7] = [0, 1, 2, 4, 8, 16, 32];
const BATCH: usize = 32;
const BATCHES: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const FIVE: usize = 5;

/// Against layers: a packet, and what each layer adds to a stack of none.
pub fn layers(pace: Pace) -> anyhow::Result<Vec<Row>> {
    let counts = if pace.quick { vec![0, 1, 4] } else { LAYERS.to_vec() };
    let mut rows = Vec::new();
    for way in [Way::Up, Way::UpAndDown] {
        let mut points = Vec::new();
        for &layers in &counts {
            points.push(point(format!("layers: {}", way.name()), way, layers, BATCH, layers)?);
        }
        let mut measured = nanoseconds(&mut points, pace)?;
        let none = measured.remove(0);
        let added: Vec<_> = measured.iter().map(|row| each(row, &none)).collect();
        rows.extend(measured.into_iter().chain(added));
    }
    Ok(rows)
}

/// Against the number of packets that go through five layers together.
pub fn batch(pace: Pace) -> anyhow::Result<Vec<Row>> {
    let mut points = Vec::new();
    for way in [Way::Up, Way::UpAndDown] {
        for batch in pace.points(&BATCHES) {
            points.push(point(
                format!("batch: five layers {}", way.name()),
                way,
                FIVE,
                batch,
                batch,
            )?);
        }
    }
    nanoseconds(&mut points, pace)
}

/// What each layer adds: the rounds are those of the same time.
fn each(row: &Row, none: &Row) -> Row {
    let x = row.x.unwrap_or(1.0);
    let pairs = row.rounds.iter().zip(&none.rounds);
    let rounds = pairs.map(|(with, without)| (with - without) / x).collect();
    Row::new(&format!("{}, each layer", row.case), &row.who, row.measure, rounds).at(x)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Headers are stripped; what is left leaves by a second port.
    Up,
    /// Headers are stripped and pushed again.
    UpAndDown,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Up => "up",
            Way::UpAndDown => "up and down",
        }
    }
}

/// Packets that go round and round.
fn point(
    case: String,
    way: Way,
    layers: usize,
    batch: usize,
    x: usize,
) -> anyhow::Result<Point<'static>> {
    let headroom = HEADER * LAYERS[LAYERS.len() - 1];
    let pool = Pool::builder().count(Class::Small, 1024).count(Class::K2, 1024);
    let pool = pool.headroom(headroom).build()?;
    let (mut stack, port_in, port_out) = build(&pool, way, layers)?;
    let mut packets = Batch::with_limit(batch);
    for _ in 0..batch {
        let mut packet = pool.chain_in(Class::K2, HEADER * layers)?;
        packet.append(HEADER * layers + PAYLOAD)?;
        packets.push(packet);
    }
    let step = move || {
        stack.input(port_in, &mut packets);
        while let Some(mut packet) = stack.poll_output(port_out).pop() {
            if way == Way::Up {
                packet.restore(HEADER * layers)?;
            }
            packets.push(packet);
        }
        stack.flushed(port_out);
        anyhow::ensure!(packets.len() == batch, "{} packets of {batch}", packets.len());
        Ok(batch)
    };
    Ok(Point { case, who: "mbuf", x, step: Box::new(step) })
}

/// The stack, and the ports by which packets come and go.
fn build(pool: &Pool, way: Way, layers: usize) -> anyhow::Result<(Stack, PortId, PortId)> {
    let mut builder = Stack::builder(pool);
    let top = builder.layer(Turn(way));
    let mut lowest = top;
    for _ in 0..layers {
        let layer = builder.layer(Header);
        builder.stack(layer, lowest);
        lowest = layer;
    }
    let port_in = builder.port(Edge::Packets, lowest);
    let port_out = match way {
        Way::Up => builder.port(Edge::Packets, top),
        Way::UpAndDown => port_in,
    };
    Ok((builder.build()?, port_in, port_out))
}

/// Strips four bytes, pushes four bytes.
struct Header;

impl Protocol for Header {
    fn name(&self) -> &str {
        "header"
    }

    fn info(&self) -> LayerInfo {
        let edge = Edge::Packets;
        LayerInfo::new(edge, edge).prepends(HEADER).min_header(HEADER).stateless()
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.strip::<[u8; HEADER]>() {
            Ok(_) => cx.up(chain),
            Err(_) => cx.drop(chain, DropReason::SHORT),
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.push(&[0u8; HEADER]) {
            Ok(()) => cx.down(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }
}

/// The top: out by the second port, or back the way it came.
struct Turn(Way);

impl Protocol for Turn {
    fn name(&self) -> &str {
        "turn"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).stateless()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match self.0 {
            Way::Up => cx.down_edge(1, chain),
            Way::UpAndDown => cx.reply(chain),
        }
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}
