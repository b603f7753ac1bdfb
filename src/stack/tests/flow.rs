//! Credit, pauses, and the ways in which a stream ends.

use super::*;

/// Sends chains of `size` bytes while there is credit, from the beginning on.
fn sender(size: usize, credits: &Log<usize>) -> Toy {
    let credits = credits.clone();
    toy("sender").signal(move |signal, cx| {
        if !matches!(signal, Signal::Opened | Signal::Writable) {
            return;
        }
        loop {
            let credit = cx.credit();
            credits.add(credit);
            if credit == 0 {
                return;
            }
            let chain = cx.pool().chain_zeroed(size.min(credit)).unwrap();
            cx.made(1);
            cx.send_down(chain);
        }
    })
}

fn bounded(pool: &Pool, edge: Edge, bounds: (usize, usize, usize), layers: Vec<Toy>) -> Stack {
    let mut builder = Stack::builder(pool);
    builder.egress(bounds.0, bounds.1, bounds.2);
    let mut below = None;
    for layer in layers {
        let layer = builder.layer(layer);
        match below {
            None => _ = builder.port(edge, layer),
            Some(below) => _ = builder.stack(below, layer),
        }
        below = Some(layer);
    }
    builder.build().unwrap()
}

#[test]
fn a_layer_that_keeps_to_its_credit_never_goes_above_high_water() {
    let pool = pool();
    for below in [0, 1, 3] {
        let credits = Log::new();
        let mut layers: Vec<_> = (0..below).map(|_| toy("through")).collect();
        layers.push(sender(300, &credits));
        let mut stack = bounded(&pool, Edge::Bytes, (1000, 100, 3000), layers);
        assert!(stack.wants_input(PORT));
        stack.open();
        assert_eq!(credits.take(), [1000, 700, 400, 100, 0], "what is on its way counts");
        assert_eq!(stack.poll_output(PORT).bytes(), 1000);
        assert!(stack.wants_input(PORT), "whoever keeps to the credit may still be answered");
        assert!(!stack.has_work());
        // It is woken only when half of the room is free again.
        stack.poll_output(PORT).advance(499).unwrap();
        stack.flushed(PORT);
        assert_eq!(credits.take(), []);
        assert!(stack.wants_input(PORT));
        stack.poll_output(PORT).advance(1).unwrap();
        stack.flushed(PORT);
        assert_eq!(credits.take(), [500, 200, 0]);
        assert_eq!(stack.closing(PORT), Closing::Open);
        assert_balanced(&stack);
    }
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn high_water_counts_chains_too() {
    let pool = pool();
    let credits = Log::new();
    let layers = vec![toy("low"), sender(1, &credits)];
    let mut stack = bounded(&pool, Edge::Packets, (1 << 20, 16, 1 << 20), layers);
    stack.open();
    assert_eq!(stack.poll_output(PORT).len(), 4);
    assert!(stack.wants_input(PORT));
    assert_eq!(stack.stats().dropped(DropReason::EGRESS_FULL), 0);
}

#[test]
fn past_the_hard_limit_packets_are_dropped() {
    let pool = pool();
    let mut stack = bounded(&pool, Edge::Packets, (100, 3, 100), vec![echo()]);
    give(&mut stack, PORT, &[b"1", b"2", b"3", b"4", b"5"]);
    assert_eq!(stack.stats().ports[0].drops, [(DropReason::EGRESS_FULL, 2)]);
    assert_eq!(stack.closing(PORT), Closing::Open);
    assert_eq!(sent(&mut stack, PORT), [b"1", b"2", b"3"]);
    assert_balanced(&stack);
}

#[test]
fn past_the_hard_limit_a_stream_is_aborted() {
    let pool = pool();
    let mut stack = bounded(&pool, Edge::Bytes, (10, 3, 10), vec![echo()]);
    give(&mut stack, PORT, &[b"1", b"2", b"3", b"", b"4", b"5"]);
    assert_eq!(stack.closing(PORT), Closing::Open, "a stream is bounded in bytes only");
    give(&mut stack, PORT, &[b"666666"]);
    assert_eq!(stack.closing(PORT), Closing::Abort(DropReason::OVERRUN));
    assert!(stack.poll_output(PORT).is_empty() && !stack.wants_input(PORT));
    assert_eq!(pool.stats().in_use(), 0);
    let stats = stack.stats();
    assert_eq!(stats.ports[0].drops, [(DropReason::OVERRUN, 6)]);
    assert_eq!(stats.ports[0].aborts, [(DropReason::OVERRUN, 1)]);
    give(&mut stack, PORT, &[b"late"]);
    assert_eq!(stack.stats().ports[0].drops.last(), Some(&(DropReason::CLOSED, 1)));
    assert_balanced(&stack);
}

#[test]
fn pause_and_resume() {
    let pool = pool();
    let layer = || {
        toy("moody").signal(|signal, cx| match signal {
            Signal::Opened => {
                cx.pause();
                cx.pause();
            }
            Signal::Drain => cx.resume(),
            _ => {}
        })
    };
    let mut stack = pile(&pool, Edge::Bytes, [layer(), layer()]);
    assert!(stack.wants_input(PORT));
    stack.open();
    assert!(!stack.wants_input(PORT));
    stack.signal(Signal::Drain);
    assert!(stack.wants_input(PORT), "as often as it paused, one resume ends it");
    stack.signal(Signal::Drain);
    assert!(stack.wants_input(PORT));
}

#[test]
fn one_port_may_be_paused_and_closed_and_full_while_the_other_goes_on() {
    let pool = pool();
    let mut builder = Stack::builder(&pool);
    let layer = builder.layer(toy("relay").input(|chain, cx| cx.down_edge(1, chain)).signal(
        |signal, cx| match signal {
            Signal::Opened => cx.pause_edge(1),
            Signal::Drain => cx.resume_edge(1),
            Signal::Mtu(_) => {
                assert_eq!((cx.credit_edge(0), cx.credit_edge(1), cx.credit_edge(2)), (10, 4, 0));
                assert_eq!(cx.credit(), 4);
            }
            Signal::Shutdown => {}
            Signal::EndOfStream => {
                assert_eq!(cx.edge(), 1);
                cx.close_edge(0);
            }
            _ => {}
        },
    ));
    let (left, right) = (builder.port(Edge::Bytes, layer), builder.port(Edge::Bytes, layer));
    builder.egress(10, 8, 100);
    let mut stack = builder.build().unwrap();
    stack.open();
    assert!(stack.wants_input(left) && !stack.wants_input(right));
    stack.signal(Signal::Drain);
    assert!(stack.wants_input(right));
    give(&mut stack, left, &[b"123456"]);
    stack.signal(Signal::Mtu(1500));
    give(&mut stack, left, &[b"7890", b"1234567890"]);
    assert!(stack.wants_input(left) && !stack.wants_input(right), "right's output is full");
    stack.end_of_stream(right);
    assert_eq!(stack.closing(left), Closing::Graceful);
    assert_eq!(stack.closing(right), Closing::Graceful);
}

#[test]
fn close_comes_after_what_was_sent() {
    let pool = pool();
    let layer = || {
        toy("polite").input(|chain, cx| {
            cx.close();
            cx.send_down(chain);
            let last = cx.pool().chain_from(b"bye").unwrap();
            cx.made(1);
            cx.reply(last)
        })
    };
    for packets in [&[&b"hello"[..]][..], &[b"hel", b"lo"]] {
        let mut stack = pile(&pool, Edge::Bytes, [toy("a"), toy("b"), layer()]);
        give(&mut stack, PORT, packets);
        assert_eq!(stack.closing(PORT), Closing::Graceful);
        assert!(!stack.wants_input(PORT));
        give(&mut stack, PORT, &[b"more"]);
        assert_eq!(stack.stats().ports[0].drops, [(DropReason::CLOSED, 1)]);
        let all = sent(&mut stack, PORT).concat();
        assert!(all.starts_with(b"hel") && all.ends_with(b"bye"));
        assert_balanced(&stack);
    }
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn after_the_close_nothing_is_added() {
    let pool = pool();
    let layer = toy("late").signal(|signal, cx| match signal {
        Signal::Opened => cx.close(),
        _ => {
            let chain = cx.pool().chain_from(b"too late").unwrap();
            cx.made(1);
            cx.send_down(chain);
        }
    });
    let mut stack = pile(&pool, Edge::Bytes, [layer]);
    stack.open();
    stack.signal(Signal::Drain);
    assert!(stack.poll_output(PORT).is_empty());
    assert_eq!(stack.stats().ports[0].drops, [(DropReason::CLOSED, 1)]);
    assert_balanced(&stack);
}

#[test]
fn abort_drops_what_waits_and_counts_the_reason() {
    let pool = pool();
    const RUDE: DropReason = DropReason("rude");
    let layer = || {
        toy("touchy").input(|chain, cx| {
            if chain.len() > 1 {
                cx.abort(RUDE);
                return cx.drop(chain, RUDE);
            }
            cx.reply(chain)
        })
    };
    let mut stack = pile(&pool, Edge::Bytes, [toy("low"), layer()]);
    give(&mut stack, PORT, &[b"1"]);
    give(&mut stack, PORT, &[b"2", b"33", b"4", b"5"]);
    assert_eq!(stack.closing(PORT), Closing::Abort(RUDE));
    let stats = stack.stats();
    assert_eq!(stats.ports[0].aborts, [(RUDE, 1)]);
    // 1 and 2 were waiting; 4 and 5 came to a port that is closed.
    assert_eq!(stats.ports[0].drops, [(RUDE, 2), (DropReason::CLOSED, 2)]);
    assert_eq!(pool.stats().in_use(), 0);
    assert_balanced(&stack);
    let mut stack = pile(&pool, Edge::Bytes, [echo()]);
    give(&mut stack, PORT, &[b"1"]);
    stack.abort(PORT, DropReason("memory"));
    assert_eq!(stack.closing(PORT), Closing::Abort(DropReason("memory")));
    assert_eq!(pool.stats().in_use(), 0);
}

/// Collects everything until the end of stream, and passes it up in one piece then.
fn hoarder() -> Toy {
    let layer = toy("hoarder");
    let (kept, given) = (Arc::clone(&layer.kept), Arc::clone(&layer.kept));
    layer
        .input(move |chain, cx| {
            kept.lock().unwrap().push(chain);
            cx.held()
        })
        .signal(move |signal, cx| {
            if signal == Signal::EndOfStream {
                given.lock().unwrap().drain(..).for_each(|chain| cx.send_up(chain));
            }
        })
}

fn listener(name: &'static str, log: &Log<String>) -> Toy {
    let (data, signals) = (log.clone(), log.clone());
    toy(name)
        .input(move |chain, cx| {
            data.add(format!("{name}: {}", String::from_utf8(chain.to_vec().unwrap()).unwrap()));
            cx.up(chain)
        })
        .signal(move |signal, _| signals.add(format!("{name}: {signal:?}")))
}

#[test]
fn end_of_stream_travels_in_order_with_the_data() {
    let pool = pool();
    let log = Log::new();
    let mut stack = pile(
        &pool,
        Edge::Bytes,
        [listener("low", &log), hoarder(), listener("high", &log), echo()],
    );
    give(&mut stack, PORT, &[b"a", b"b"]);
    assert_eq!(stack.held().chains, 2);
    stack.end_of_stream(PORT);
    stack.end_of_stream(PORT);
    let order = ["low: a", "low: b", "low: EndOfStream", "high: a", "high: b", "high: EndOfStream"];
    assert_eq!(log.take(), order);
    assert_eq!(stack.closing(PORT), Closing::Graceful);
    assert!(!stack.wants_input(PORT) && !stack.has_work());
    assert_eq!(sent(&mut stack, PORT), [b"a", b"b"]);
    assert_balanced(&stack);
}

#[test]
fn a_half_open_layer_goes_on_sending_and_closes_by_itself() {
    let pool = pool();
    let info = LayerInfo::new(Edge::Any, Edge::Any).half_open();
    let layer = toy("talker").info(info).signal(|signal, cx| {
        if signal == Signal::Drain {
            cx.close();
        }
    });
    let mut stack = pile(&pool, Edge::Bytes, [layer, echo()]);
    stack.end_of_stream(PORT);
    stack.signal(Signal::Shutdown);
    assert_eq!(stack.closing(PORT), Closing::Open);
    assert!(!stack.has_work());
    stack.signal(Signal::Drain);
    assert_eq!(stack.closing(PORT), Closing::Graceful);
}

/// Passes up one byte a chain, at most two a turn, and keeps back the rest.
fn nibbler() -> Toy {
    let layer = toy("nibbler");
    let kept = Arc::clone(&layer.kept);
    let again = Arc::clone(&kept);
    fn nibble(kept: &Mutex<Vec<Chain>>, cx: &mut Context<'_>) {
        let mut kept = kept.lock().unwrap();
        for _ in 0..2 {
            let Some(mut chain) = (!kept.is_empty()).then(|| kept.remove(0)) else { return };
            if chain.len() > 1 {
                kept.insert(0, chain.split_off(1).unwrap());
                cx.made(1);
            }
            cx.send_up(chain);
        }
        if !kept.is_empty() {
            cx.wait();
        }
    }
    layer
        .input(move |chain, cx| {
            kept.lock().unwrap().push(chain);
            nibble(&kept, cx);
            cx.held()
        })
        .signal(move |signal, cx| {
            if signal == Signal::Writable {
                nibble(&again, cx);
            }
        })
}

#[test]
fn the_end_of_stream_waits_behind_what_a_layer_keeps_back() {
    let pool = pool();
    let log = Log::new();
    let layers = vec![nibbler(), listener("high", &log), echo()];
    let mut stack = bounded(&pool, Edge::Bytes, (2, 100, 100), layers);
    give(&mut stack, PORT, &[b"abcdefghijk"]);
    // Two, and while the output had room for more answers two more.
    assert_eq!(stack.poll_output(PORT).bytes(), 4);
    assert!(!stack.wants_input(PORT) && !stack.has_work());
    stack.end_of_stream(PORT);
    assert!(!log.take().iter().any(|entry| entry.contains("EndOfStream")));
    let mut all = Vec::new();
    while stack.closing(PORT) == Closing::Open {
        let bytes = sent(&mut stack, PORT).concat();
        assert!((1..=5).contains(&bytes.len()), "{bytes:?}");
        all.extend(bytes);
    }
    all.extend(sent(&mut stack, PORT).concat());
    assert_eq!(all, b"abcdefghijk");
    assert_eq!(log.take().last().unwrap(), "high: EndOfStream");
    assert_balanced(&stack);
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn shutdown_is_told_from_the_bottom_up_and_closes_after_what_was_sent() {
    let pool = pool();
    let log = Log::new();
    let layers = vec![nibbler(), listener("low", &log), listener("high", &log), echo()];
    let mut stack = bounded(&pool, Edge::Bytes, (2, 100, 100), layers);
    give(&mut stack, PORT, &[b"abcdefg"]);
    log.take();
    stack.signal(Signal::Shutdown);
    assert_eq!(log.take(), ["low: Shutdown", "high: Shutdown"]);
    assert_eq!(stack.closing(PORT), Closing::Open, "the nibbler still has some");
    let mut all = Vec::new();
    while stack.closing(PORT) == Closing::Open {
        all.extend(sent(&mut stack, PORT).concat());
    }
    all.extend(sent(&mut stack, PORT).concat());
    assert_eq!(all, b"abcdefg");
}

#[test]
fn signals_reach_a_layer_after_those_below_it_whatever_the_order_of_adding() {
    let pool = pool();
    let log = Log::new();
    let mut builder = Stack::builder(&pool);
    let tcp = builder.layer(listener("tcp", &log));
    let ip = builder.layer(listener("ip", &log));
    let ether = builder.layer(listener("ether", &log));
    builder.port(Edge::Packets, ether);
    // tcp also stands on ether directly: it still comes after ip.
    builder.bind(ether, 1, tcp).bind(ether, 2, ip).bind(ip, 6, tcp);
    let mut stack = builder.build().unwrap();
    stack.open();
    assert_eq!(log.take(), ["ether: Opened", "ip: Opened", "tcp: Opened"]);
}

#[test]
fn a_flood_of_tiny_chains_is_counted_in_what_is_held() {
    let pool = pool();
    let mut stack = pile(&pool, Edge::Bytes, [hoarder(), echo()]);
    give(&mut stack, PORT, &[&b"x"[..]; 10]);
    let held = stack.held();
    assert_eq!(held.chains, 10);
    assert!(held.footprint >= 10 * 128, "{held:?}");
}
