//! What a tap sees, and that it changes nothing.

use super::*;

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    edge: EdgeId,
    direction: Direction,
    bytes: Vec<u8>,
    dropped: Option<DropReason>,
}

#[derive(Default)]
struct Notes(Vec<Seen>);

impl Tap for Notes {
    fn record(&mut self, tapped: &Tapped<'_>) {
        self.0.push(Seen {
            edge: tapped.edge,
            direction: tapped.direction,
            bytes: tapped.chain.to_vec().unwrap(),
            dropped: tapped.dropped,
        });
    }
}

/// A tap, and what tells afterwards what it saw.
fn notes() -> (Box<dyn Tap>, impl Fn() -> Vec<Seen>) {
    let notes = Arc::new(Mutex::new(Notes::default()));
    (Box::new(notes.clone()), move || std::mem::take(&mut notes.lock().unwrap().0))
}

fn batch(pool: &Pool, packets: &[&[u8]]) -> Batch {
    let mut batch = Batch::new();
    packets.iter().for_each(|bytes| batch.push(pool.chain_from(bytes).unwrap()));
    batch
}

fn sent(stack: &mut Stack) -> Vec<Vec<u8>> {
    let queue = stack.poll_output(PortId(0));
    std::iter::from_fn(|| queue.pop()).map(|chain| chain.to_vec().unwrap()).collect()
}

/// Two headers, and an echo that refuses what begins with `!`.
fn three(pool: &Pool) -> Stack {
    let picky = toy("picky").input(|mut chain, cx| match chain.strip::<u8>() {
        Ok(b'!') => cx.drop(chain, DropReason("rude")),
        Ok(_) => {
            chain.restore(1).unwrap();
            cx.reply(chain)
        }
        Err(_) => cx.drop(chain, DropReason::SHORT),
    });
    let picky = picky.info(LayerInfo::new(Edge::Any, Edge::Any).reasons(&[DropReason("rude")]));
    let layers: Vec<Box<dyn Protocol>> =
        vec![Box::new(header("low", b'l', 2)), Box::new(header("high", b'h', 1)), Box::new(picky)];
    Stack::pile(pool, Edge::Packets, layers).unwrap()
}

const PACKETS: [&[u8]; 6] = [b"llhone", b"llh!two", b"xx", b"llxthree", b"llh", b"llhfour"];

#[test]
fn every_choice_of_edges_sees_what_passes_them_and_changes_nothing() {
    let pool = pool();
    let mut plain = three(&pool);
    plain.input(PortId(0), &mut batch(&pool, &PACKETS));
    let (expected, stats) = (sent(&mut plain), plain.stats());
    assert_eq!(expected, [b"llhone".to_vec(), b"llhfour".to_vec()]);
    for chosen in 0..8_usize {
        for lone in [false, true] {
            let mut stack = three(&pool);
            let edges = stack.edges();
            let edges: Vec<_> = (0..3)
                .filter(|n| chosen >> n & 1 != 0)
                .collect::<Vec<_>>()
                .iter()
                .map(|&n: &usize| edges[n].id)
                .collect();
            let (tap, seen) = notes();
            assert!(stack.tap(&edges, tap).is_none());
            if lone {
                for packet in PACKETS {
                    stack.input_one(PortId(0), pool.chain_from(packet).unwrap());
                }
            } else {
                stack.input(PortId(0), &mut batch(&pool, &PACKETS));
            }
            assert!(!stack.has_work());
            assert_eq!(sent(&mut stack), expected, "edges {edges:?}");
            let now = stack.stats();
            for (layer, before) in now.layers.iter().zip(&stats.layers) {
                assert_eq!(layer.imbalance(), 0, "{}", layer.name);
                assert_eq!((layer.received, layer.sent), (before.received, before.sent));
                assert_eq!((&layer.drops, &layer.undeclared), (&before.drops, &before.undeclared));
            }
            let seen = seen();
            // low-high, high-picky, port-low: up, down and dropped on each.
            for (n, counts) in [(0, [5, 2, 1]), (1, [4, 2, 2]), (2, [6, 2, 1])] {
                let of = |direction, dropped| {
                    let seen = seen.iter().filter(|seen| seen.edge == stack.edges()[n].id);
                    let seen = seen.filter(|seen| seen.dropped.is_some() == dropped);
                    seen.filter(|seen| seen.direction == direction).count()
                };
                let got =
                    [of(Direction::Up, false), of(Direction::Down, false), of(Direction::Up, true)];
                let expected = if chosen >> n & 1 != 0 { counts } else { [0; 3] };
                assert_eq!(got, expected, "edge {n} of {edges:?}");
            }
            assert!(stack.untap().is_some());
            stack.input(PortId(0), &mut batch(&pool, &PACKETS));
            assert_eq!(sent(&mut stack), expected);
            assert_eq!(stack.stats().dropped(DropReason("rude")), 2);
        }
    }
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn a_dropped_chain_is_shown_with_what_the_layer_stripped() {
    let pool = pool();
    let mut stack = three(&pool);
    let edge = stack.edge_between("high", "picky").unwrap();
    let (tap, seen) = notes();
    stack.tap(&[edge], tap);
    stack.input_one(PortId(0), pool.chain_from(b"llh!two").unwrap());
    let passed = Seen { edge, direction: Direction::Up, bytes: b"!two".to_vec(), dropped: None };
    let dropped = Seen { dropped: Some(DropReason("rude")), ..passed.clone() };
    assert_eq!(seen(), [passed, dropped]);
}

#[test]
fn a_chain_that_is_dropped_in_place_of_another_is_shown_as_it_is() {
    let pool = pool();
    let mut kept: Option<Chain> = None;
    let oldest = toy("oldest").input(move |mut chain, cx| {
        chain.strip::<u8>().unwrap();
        match kept.replace(chain) {
            None => cx.held(),
            Some(old) => cx.drop(old, DropReason::LIMIT),
        }
    });
    let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(oldest)]).unwrap();
    let (tap, seen) = notes();
    stack.tap(&[stack.edge_at(PortId(0))], tap);
    stack.input(PortId(0), &mut batch(&pool, &[b"first", b"second"]));
    let seen = seen();
    assert_eq!(seen.len(), 3);
    assert_eq!((&seen[2].bytes[..], seen[2].dropped), (&b"irst"[..], Some(DropReason::LIMIT)));
}

#[test]
fn what_is_too_short_for_the_layer_or_too_much_for_the_port_is_shown_as_dropped() {
    let pool = pool();
    let mut builder = Stack::builder(&pool);
    let low = builder.layer(switch("low"));
    let high = builder.layer(echo());
    builder.egress(1 << 10, 1, 1 << 20).bind(low, 7, high);
    let port = builder.port(Edge::Packets, low);
    let mut stack = builder.build().unwrap();
    let (tap, seen) = notes();
    stack.tap(&[stack.edge_at(port)], tap);
    stack.input(port, &mut batch(&pool, &[b"", b"\x07one", b"\x07two", b"\x08three"]));
    let reasons = |seen: &[Seen]| {
        let dropped = seen.iter().filter_map(|seen| Some((seen.direction, seen.dropped?)));
        dropped.collect::<Vec<_>>()
    };
    let first = seen();
    assert_eq!(
        reasons(&first),
        [
            (Direction::Up, DropReason::SHORT),
            (Direction::Up, DropReason::UNBOUND),
            (Direction::Down, DropReason::EGRESS_FULL),
        ]
    );
    // The key had been stripped.
    let unbound = first.iter().find(|seen| seen.dropped == Some(DropReason::UNBOUND)).unwrap();
    assert_eq!(unbound.bytes, b"\x08three");
    let stats = stack.stats();
    assert_eq!(stats.layers[0].imbalance(), 0);
    assert_eq!(stats.dropped(DropReason::EGRESS_FULL), 1);
    stack.abort(port, DropReason::IO);
    stack.input_one(port, pool.chain_from(b"\x07late").unwrap());
    assert!(seen().is_empty(), "a closed port lets nothing in that could pass");
}

#[test]
fn a_tap_may_come_and_go_while_chains_are_pending() {
    let pool = pool();
    for rounds in 1..12 {
        let mut builder = Stack::builder(&pool);
        let low = builder.layer(header("low", b'l', 2));
        let high = builder.layer(echo());
        builder.rounds(rounds).stack(low, high);
        let port = builder.port(Edge::Packets, low);
        let mut stack = builder.build().unwrap();
        let edges: Vec<_> = stack.edges().iter().map(|edge| edge.id).collect();
        let (tap, seen) = notes();
        stack.tap(&edges, tap);
        stack.input(port, &mut batch(&pool, &[b"ll1", b"ll2", b"ll3"]));
        let tap = stack.untap().unwrap();
        stack.poll();
        stack.tap(&edges, tap);
        while stack.has_work() {
            stack.poll();
        }
        assert_eq!(sent(&mut stack), [b"ll1", b"ll2", b"ll3"], "{rounds} rounds");
        assert!(stack.stats().layers.iter().all(|layer| layer.imbalance() == 0));
        assert!(seen().len() >= 3);
        assert_eq!(stack.held().chains, 0);
        assert_eq!(stack.core.transit_bytes + stack.core.transit_chains, 0);
    }
}

#[test]
fn a_layer_that_batches_sees_no_difference_in_order() {
    let pool = pool();
    let info = || LayerInfo::new(Edge::Packets, Edge::Packets).batched();
    let layers: Vec<Box<dyn Protocol>> =
        vec![Box::new(toy("low").info(info())), Box::new(echo().info(info()))];
    let mut stack = Stack::pile(&pool, Edge::Packets, layers).unwrap();
    let (tap, seen) = notes();
    stack.tap(&[stack.edge_between("low", "echo").unwrap()], tap);
    let packets: Vec<[u8; 1]> = (0..100).map(|n| [n]).collect();
    let packets: Vec<&[u8]> = packets.iter().map(|packet| &packet[..]).collect();
    stack.input(PortId(0), &mut batch(&pool, &packets));
    assert_eq!(sent(&mut stack), packets);
    let up = seen().into_iter().filter(|seen| seen.direction == Direction::Up);
    assert!(up.map(|seen| seen.bytes).eq(packets.iter().map(|packet| packet.to_vec())));
}

#[test]
#[should_panic(expected = "no edge 1: the stack has 1")]
fn an_edge_of_another_stack_is_refused() {
    let pool = pool();
    let other = three(&pool);
    let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(echo())]).unwrap();
    let (tap, _) = notes();
    stack.tap(&[other.edges()[1].id], tap);
}
