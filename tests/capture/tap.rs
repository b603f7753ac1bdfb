//! A tap that writes a capture.

use std::sync::{Arc, Mutex};

use mbuf::{
    Chain, Pool,
    io::capture::{CaptureTap, CaptureWriter, Interface, LinkType},
    stack::{
        Context, Direction, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Stack, Time,
    },
};
use mbuf_protocols::Echo;

use crate::{pool, read};

/// One byte in front, which must be 1.
struct One;

impl Protocol for One {
    fn name(&self) -> &str {
        "one"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).prepends(1).min_header(1).stateless()
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.strip::<u8>() {
            Ok(1) => cx.up(chain),
            _ => cx.drop(chain, DropReason::MALFORMED),
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.push(&1_u8) {
            Ok(()) => cx.down(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }
}

fn stack(pool: &Pool) -> Stack {
    Stack::pile(pool, Edge::Packets, vec![Box::new(One), Box::new(Echo::new())]).unwrap()
}

/// What a capture of both edges of the stack says.
pub fn capture(pool: &Pool) -> Vec<u8> {
    let mut stack = stack(pool);
    let edges = [stack.edge_at(PortId(0)), stack.edge_between("one", "echo").unwrap()];
    let writer = CaptureWriter::pcapng(Vec::new()).unwrap();
    let mut tap = CaptureTap::new(writer, 1_700_000_000_000_000_000);
    tap.edge(edges[0], Interface::new(LinkType::USER0, "port 0")).unwrap();
    tap.edge(edges[1], Interface::new(LinkType(148), "one-echo")).unwrap();
    let tap = Arc::new(Mutex::new(tap));
    stack.tap(&edges, Box::new(tap.clone()));
    stack.set_now(Time::from_nanos(7));
    for packet in [&b"\x01hello"[..], b"\x02bad", b""] {
        stack.input_one(PortId(0), pool.chain_from(packet).unwrap());
    }
    assert_eq!(stack.poll_output(PortId(0)).len(), 1);
    stack.untap();
    let tap = Arc::into_inner(tap).unwrap().into_inner().unwrap();
    tap.into_writer().unwrap().into_inner()
}

#[test]
fn the_edges_are_interfaces_and_drops_say_why() {
    let pool = pool();
    let got = read(&pool, &capture(&pool)[..]);
    assert_eq!(got.error, None);
    let time = Some(1_700_000_000_000_000_007);
    assert!(got.packets.iter().all(|(record, _)| record.time == time));
    let got = got.packets.iter().map(|(record, bytes)| {
        (record.interface, record.direction.unwrap(), record.comment.as_deref(), &bytes[..])
    });
    let (up, down) = (Direction::Up, Direction::Down);
    assert!(got.eq([
        (0, up, None, &b"\x01hello"[..]),
        (1, up, None, b"hello"),
        (1, down, None, b"hello"),
        (0, down, None, b"\x01hello"),
        (0, up, None, b"\x02bad"),
        (0, up, Some("dropped: malformed"), b"\x02bad"),
        (0, up, None, b""),
        (0, up, Some("dropped: short"), b""),
    ]));
}

#[test]
fn an_output_that_fails_is_told_and_does_not_disturb_the_stack() {
    let pool = pool();
    let mut stack = stack(&pool);
    let edge = stack.edge_at(PortId(0));
    // A file of 100 bytes, which are used up by the first packet.
    let file: &'static mut [u8] = Box::leak(Box::new([0; 100]));
    let mut tap = CaptureTap::new(CaptureWriter::pcapng(file).unwrap(), 0);
    tap.edge(edge, Interface::new(LinkType::USER0, "")).unwrap();
    let tap = Arc::new(Mutex::new(tap));
    stack.tap(&[edge], Box::new(tap.clone()));
    for _ in 0..3 {
        stack.input_one(PortId(0), pool.chain_from(b"\x01hello").unwrap());
    }
    assert_eq!(stack.poll_output(PortId(0)).len(), 3);
    let error = tap.lock().unwrap().check().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WriteZero);
}
