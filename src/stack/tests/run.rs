//! The way of a chain through the layers.

use super::*;

#[test]
fn up_and_down_a_pile_one_by_one_and_in_batches() {
    let pool = pool();
    let layers = || [header("a", 1, 3), header("b", 2, 2), header("c", 3, 1), echo()];
    let packet = |n: u8| [1, 1, 1, 2, 2, 3, n, n, n];
    for size in [1, 2, 3, 32, 33, 100] {
        let mut stack = pile(&pool, Edge::Packets, layers());
        let packets: Vec<_> = (0..size).map(packet).collect();
        let slices: Vec<&[u8]> = packets.iter().map(|packet| &packet[..]).collect();
        give(&mut stack, PORT, &slices);
        assert_eq!(sent(&mut stack, PORT), packets, "{size} at once");
        slices.iter().for_each(|packet| give(&mut stack, PORT, &[packet]));
        assert_eq!(sent(&mut stack, PORT), packets, "{size} one by one");
        assert_balanced(&stack);
        let stats = stack.stats();
        for name in ["a", "b", "c"] {
            let layer = stats.layer(name).unwrap();
            assert_eq!(layer.received, 4 * u64::from(size), "{stats}");
        }
        assert_eq!(stats.layer("echo").unwrap().sent, 2 * u64::from(size));
        let port = &stats.ports[0];
        assert_eq!((port.received, port.sent), (2 * u64::from(size), 2 * u64::from(size)));
    }
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn a_key_chooses_on_the_way_up_and_is_found_again_on_the_way_down() {
    let pool = pool();
    for keys in [1, 2, 4, 5, 40_u8] {
        let mut builder = Stack::builder(&pool);
        let low = builder.layer(switch("switch"));
        builder.port(Edge::Packets, low);
        let log = Log::new();
        for key in 0..keys {
            let log = log.clone();
            let high = builder.layer(toy("high").input(move |chain, cx| {
                assert_eq!(cx.key(), Some(u64::from(key) * 5));
                log.add(key);
                cx.reply(chain)
            }));
            builder.bind(low, u64::from(key) * 5, high);
        }
        let mut stack = builder.build().unwrap();
        let packets: Vec<_> = (0..keys).rev().map(|key| vec![key * 5, key, 77]).collect();
        let slices: Vec<&[u8]> = packets.iter().map(|packet| &packet[..]).collect();
        for batched in [true, false] {
            match batched {
                true => give(&mut stack, PORT, &slices),
                false => slices.iter().for_each(|packet| give(&mut stack, PORT, &[packet])),
            }
            assert_eq!(sent(&mut stack, PORT), packets);
            assert!(log.take().iter().eq((0..keys).rev().collect::<Vec<_>>().iter()));
        }
        give(&mut stack, PORT, &[&[251, 1], &[252], &[]]);
        assert_eq!(sent(&mut stack, PORT).len(), 0);
        let stats = stack.stats();
        assert_eq!(stats.layer("switch").unwrap().dropped_for(DropReason::UNBOUND), 2);
        assert_eq!(stats.layer("switch").unwrap().dropped_for(DropReason::SHORT), 1);
        assert_balanced(&stack);
    }
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn without_a_key_there_is_a_layer_for_the_rest() {
    let pool = pool();
    let mut builder = Stack::builder(&pool);
    let low = builder.layer(toy("low").input(|chain, cx| {
        let mut first = [0];
        chain.peek(0, &mut first).unwrap();
        if cx.is_bound(first[0].into()) { cx.up_key(first[0].into(), chain) } else { cx.up(chain) }
    }));
    let (log, rest) = (Log::new(), Log::new());
    let (high, other) = (builder.layer(collector(&log)), builder.layer(collector(&rest)));
    builder.port(Edge::Packets, low);
    builder.bind(low, 7, high).stack(low, other);
    let mut stack = builder.build().unwrap();
    give(&mut stack, PORT, &[&[7, 1], &[8, 1], &[7, 2]]);
    assert_eq!((log.take(), rest.take()), (vec![vec![7, 1], vec![7, 2]], vec![vec![8, 1]]));
}

#[test]
fn a_fixed_header_is_contiguous_on_a_packet_edge_and_short_packets_are_dropped() {
    let pool = pool();
    let log = Log::new();
    let first_slice = {
        let log = log.clone();
        move |chain: Chain, cx: &mut Context<'_>| {
            log.add(chain.slices().unwrap().next().map_or(0, <[u8]>::len));
            cx.consumed(chain)
        }
    };
    let cut_up = |pool: &Pool, n: usize| {
        let mut chain = pool.chain_from(&vec![9; n]).unwrap();
        let mut parts = Vec::new();
        while chain.len() > 1 {
            parts.push(chain.split_off(chain.len() - 1).unwrap());
        }
        parts.into_iter().rev().for_each(|part| chain.concat(part).unwrap());
        assert_eq!(chain.segments(), n);
        chain
    };
    let info = |edge| LayerInfo::new(edge, edge).min_header(8);
    let mut stack =
        pile(&pool, Edge::Packets, [toy("h").info(info(Edge::Packets)).input(first_slice.clone())]);
    for n in [7, 8, 9] {
        stack.input_one(PORT, cut_up(&pool, n));
        let mut batch = Batch::new();
        batch.extend([cut_up(&pool, n), cut_up(&pool, n)]);
        stack.input(PORT, &mut batch);
    }
    let lengths = log.take();
    assert!(lengths.len() == 6 && lengths.iter().all(|&n| n >= 8), "{lengths:?}");
    let stats = stack.stats();
    assert_eq!(stats.layers[0].drops, [(DropReason::SHORT, 3)]);
    assert_eq!(stats.layers[0].received, 9);
    assert_balanced(&stack);
    // On a byte edge nothing is promised and nothing is dropped.
    let mut stack = pile(&pool, Edge::Bytes, [toy("h").info(info(Edge::Bytes)).input(first_slice)]);
    for n in [1, 7, 8] {
        stack.input_one(PORT, cut_up(&pool, n));
    }
    assert_eq!(log.take(), [1, 1, 1]);
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn a_header_that_cannot_be_made_contiguous_is_a_drop_for_want_of_buffers() {
    let pool = Pool::builder().name("tiny").count(Class::Small, 8).build().unwrap();
    let info = LayerInfo::new(Edge::Packets, Edge::Packets).min_header(100);
    let log = Log::new();
    let mut stack = pile(&pool, Edge::Packets, [collector(&log).info(info)]);
    let mut chain = pool.chain_from(&[1; 60]).unwrap();
    chain.concat(pool.chain_from(&[2; 60]).unwrap()).unwrap();
    let hoard: Vec<_> = std::iter::from_fn(|| pool.chain().ok()).collect();
    stack.input_one(PORT, chain);
    assert!(!hoard.is_empty());
    let dropped = stack.stats().layers[0].dropped_for(DropReason::NO_BUFFERS);
    // Where the pullup finds room in the first buffer it needs no other.
    assert_eq!(dropped + log.take().len() as u64, 1);
    assert_balanced(&stack);
}

#[test]
fn a_chain_that_is_split_keeps_its_order_alone_and_in_a_batch() {
    let pool = pool();
    let cutter = || {
        toy("cutter").input(|mut chain, cx| {
            while chain.len() > 2 {
                let rest = chain.split_off(2).unwrap();
                cx.made(1);
                cx.send_up(std::mem::replace(&mut chain, rest));
            }
            cx.up(chain)
        })
    };
    for input in [&[&b"abcdefg"[..]][..], &[b"ab", b"cdefg"], &[b"abcd", b"ef", b"g"]] {
        let mut stack = pile(&pool, Edge::Bytes, [cutter(), toy("through"), echo()]);
        give(&mut stack, PORT, input);
        assert_eq!(sent(&mut stack, PORT).concat(), b"abcdefg");
        assert_balanced(&stack);
    }
}

#[test]
fn replies_leave_by_the_port_that_the_packet_came_in_by() {
    let pool = pool();
    for by_reply in [true, false] {
        let mut builder = Stack::builder(&pool);
        let layer = builder.layer(toy("answer").input(move |chain, cx| {
            assert_eq!(cx.edge(), usize::from(chain.meta().ingress()));
            if by_reply { cx.reply(chain) } else { cx.down(chain) }
        }));
        let ports = [0, 1, 2].map(|_| builder.port(Edge::Packets, layer));
        let mut stack = builder.build().unwrap();
        for port in [ports[2], ports[0], ports[1]] {
            let text = [port.0 as u8];
            give(&mut stack, port, &[&text, &text]);
            assert_eq!(sent(&mut stack, port), [text, text]);
        }
        assert_eq!(stack.ports(), 3);
    }
}

#[test]
fn a_relay_sends_by_the_edge_that_it_names() {
    let pool = pool();
    let mut builder = Stack::builder(&pool);
    let layer = builder.layer(toy("relay").input(|chain, cx| {
        assert_eq!((cx.lower_edges(), cx.upper_edges()), (2, 0));
        cx.down_edge(if chain.is_empty() { 2 } else { 1 - cx.edge() }, chain)
    }));
    let (left, right) = (builder.port(Edge::Packets, layer), builder.port(Edge::Packets, layer));
    let mut stack = builder.build().unwrap();
    give(&mut stack, left, &[b"to the right"]);
    give(&mut stack, right, &[b"to the left", b""]);
    assert_eq!(sent(&mut stack, left), [b"to the left"]);
    assert_eq!(sent(&mut stack, right), [b"to the right"]);
    assert_eq!(stack.stats().dropped(DropReason::UNBOUND), 1);
}

#[test]
fn a_packet_that_goes_round_for_ever_is_bounded_by_the_rounds_of_a_call() {
    let pool = pool();
    for packets in [1, 2] {
        let mut builder = Stack::builder(&pool);
        let low = builder.layer(toy("low").output(|chain, cx| cx.up(chain)));
        let high = builder.layer(toy("high").input(|chain, cx| cx.down(chain)));
        builder.port(Edge::Packets, low);
        builder.stack(low, high).rounds(50);
        let mut stack = builder.build().unwrap();
        give(&mut stack, PORT, &vec![&b"ball"[..]; packets]);
        for call in 1..4 {
            assert!(stack.has_work() && !stack.wants_input(PORT));
            let seen: u64 = stack.stats().layers.iter().map(|layer| layer.received).sum();
            let rounds = 50 * call;
            assert!((rounds..=rounds * packets as u64).contains(&seen), "{seen} in {call} calls");
            assert_balanced(&stack);
            stack.poll();
        }
        assert_eq!(stack.held().chains, packets);
    }
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn what_goes_away_without_a_word_is_missed() {
    let pool = pool();
    let mut stack = pile(&pool, Edge::Packets, [toy("hole").input(|_, cx| cx.held())]);
    give(&mut stack, PORT, &[b"1", b"2", b"3"]);
    assert_eq!(stack.stats().layers[0].imbalance(), 3);
    // An outcome that nobody carries out is no better.
    let mut stack = pile(
        &pool,
        Edge::Packets,
        [toy("careless").input(|chain, cx| {
            drop(cx.down(chain));
            cx.held()
        })],
    );
    give(&mut stack, PORT, &[b"1", b"2"]);
    assert_eq!(stack.stats().layers[0].imbalance(), 2);
}

#[test]
fn undeclared_reasons_are_counted_and_shown() {
    let pool = pool();
    const KNOWN: DropReason = DropReason("known");
    let info = LayerInfo::new(Edge::Any, Edge::Any).reasons(&[KNOWN]);
    let layer = toy("strict").info(info).input(|chain, cx| match chain.len() {
        0 => cx.drop(chain, KNOWN),
        1 => cx.drop(chain, DropReason("unknown")),
        _ => cx.drop(chain, DropReason::MALFORMED),
    });
    let mut stack = pile(&pool, Edge::Packets, [layer]);
    give(&mut stack, PORT, &[b"", b"1", b"22", b"1"]);
    let stats = stack.stats();
    let drops = [(KNOWN, 1), (DropReason("unknown"), 2), (DropReason::MALFORMED, 1)];
    assert_eq!(stats.layers[0].drops, drops);
    assert_eq!(stats.layers[0].undeclared, [DropReason("unknown")]);
    assert!(stats.to_string().contains("unknown 2"));
}

#[test]
fn chains_left_in_a_batch_are_dropped_and_counted() {
    struct Lazy;
    impl Protocol for Lazy {
        fn name(&self) -> &str {
            "lazy"
        }
        fn info(&self) -> LayerInfo {
            LayerInfo::new(Edge::Any, Edge::Any).batched()
        }
        fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            cx.consumed(chain)
        }
        fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            cx.down(chain)
        }
        fn input_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
            let outcome = cx.consumed(batch.pop().unwrap());
            cx.apply(outcome);
        }
    }
    let pool = pool();
    let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(Lazy)]).unwrap();
    give(&mut stack, PORT, &[b"1", b"2", b"3", b"4"]);
    let stats = stack.stats();
    assert_eq!(stats.layers[0].drops, [(DropReason::UNHANDLED, 3)]);
    assert_eq!(stats.layers[0].undeclared, [DropReason::UNHANDLED]);
    assert_balanced(&stack);
}

#[test]
fn slots_keep_what_their_layer_wrote_and_others_may_read_it() {
    let pool = pool();
    let info = LayerInfo::new(Edge::Any, Edge::Any);
    let low = toy("low").info(info.clone().slot::<u32>()).input(|mut chain, cx| {
        assert_eq!(cx.slot::<u32>(&chain), 0);
        cx.set_slot::<u32>(&mut chain, 0xdead_beef);
        cx.up(chain)
    });
    let high = toy("high").info(info.slot::<[u8; 8]>()).input(|mut chain, cx| {
        cx.set_slot(&mut chain, [7_u8; 8]);
        assert_eq!(cx.slot::<u32>(&chain), 0xdead_beef);
        assert_eq!(cx.slot::<[u8; 8]>(&chain), [7; 8]);
        cx.consumed(chain)
    });
    let mut stack = pile(&pool, Edge::Packets, [low, high]);
    give(&mut stack, PORT, &[b"1"]);
    give(&mut stack, PORT, &[b"1", b"2"]);
    assert_eq!(stack.stats().layers[1].consumed, 3);
}

#[test]
fn a_shared_slot_is_one_for_all_that_claim_it() {
    let pool = pool();
    let info = LayerInfo::new(Edge::Any, Edge::Any).shared_slot::<[u8; 8]>();
    let low = toy("low").info(info.clone()).input(|mut chain, cx| {
        cx.set_slot(&mut chain, [7_u8; 8]);
        cx.up(chain)
    });
    let high = toy("high").info(info).input(|mut chain, cx| {
        assert_eq!(cx.slot::<[u8; 8]>(&chain), [7; 8]);
        cx.set_slot(&mut chain, [8_u8; 8]);
        cx.consumed(chain)
    });
    let mut stack = pile(&pool, Edge::Packets, [low, high]);
    give(&mut stack, PORT, &[b"1"]);
    assert_eq!(stack.stats().layers[1].consumed, 1);
}

#[test]
#[should_panic(expected = "no slot of type u32 was claimed")]
fn a_slot_that_nobody_claimed() {
    let pool = pool();
    let mut stack = pile(
        &pool,
        Edge::Packets,
        [toy("bold").input(|chain, cx| {
            cx.slot::<u32>(&chain);
            cx.consumed(chain)
        })],
    );
    give(&mut stack, PORT, &[b"1"]);
}

#[test]
#[should_panic(expected = "no port 1: the stack has 1")]
fn a_port_that_is_not_there() {
    let pool = pool();
    pile(&pool, Edge::Packets, [echo()]).end_of_stream(PortId(1));
}
