//! A stack for each peer.

use std::time::Duration;

use super::*;
use crate::meta::Address;

const SECOND: Duration = Duration::from_secs(1);

fn seconds(n: u64) -> Time {
    Time::ZERO + SECOND * n as u32
}

fn peer(n: u16) -> Address {
    Address::Ip(([192, 0, 2, (n >> 8) as u8], n).into())
}

fn local() -> Address {
    Address::Ip(([198, 51, 100, 1], 7).into())
}

fn packet(pool: &Pool, from: u16, text: &[u8]) -> Chain {
    let mut chain = pool.chain_from(text).unwrap();
    chain.meta_mut().set_source(peer(from));
    chain.meta_mut().set_destination(local());
    chain
}

fn over(sessions: Sessions) -> impl FnOnce(&Pool) -> Stack {
    move |pool| Stack::pile(pool, Edge::Packets, vec![Box::new(sessions)]).unwrap()
}

/// Source, destination and text of all that wants to be sent.
fn replies(stack: &mut Stack, port: PortId) -> Vec<(Address, Address, String)> {
    let queue = stack.poll_output(port);
    let chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
    stack.flushed(port);
    let text = |chain: &Chain| String::from_utf8(chain.to_vec().unwrap()).unwrap();
    chains
        .iter()
        .map(|chain| (chain.meta().source(), chain.meta().destination(), text(chain)))
        .collect()
}

fn texts(stack: &mut Stack) -> Vec<String> {
    replies(stack, PORT).into_iter().map(|(.., text)| text).collect()
}

/// Says how many packets it has seen, in a chain of its own that has no addresses.
fn counter() -> Toy {
    let mut seen = 0;
    toy("counter").input(move |chain, cx| {
        seen += 1;
        let answer = cx.pool().chain_from(format!("{seen}").as_bytes()).unwrap();
        cx.made(1);
        cx.send_down(answer);
        cx.consumed(chain)
    })
}

fn counters() -> Sessions {
    Sessions::new(|_, pool| Stack::pile(pool, Edge::Packets, boxed([counter()])))
}

#[test]
fn each_peer_has_a_state_of_its_own_and_answers_find_their_way_back() {
    let pool = pool();
    for batched in [true, false] {
        let mut builder = Stack::builder(&pool);
        let sessions = counters();
        let counts = sessions.counts();
        let layer = builder.layer(sessions);
        let ports = [builder.port(Edge::Packets, layer), builder.port(Edge::Packets, layer)];
        let mut stack = builder.build().unwrap();
        stack.open();
        for port in ports {
            let mut batch = Batch::new();
            for from in [1, 2, 2, 1, 1] {
                match batched {
                    true => batch.push(packet(&pool, from, b"?")),
                    false => stack.input_one(port, packet(&pool, from, b"?")),
                }
            }
            stack.input(port, &mut batch);
            let expected = [(1, "1"), (2, "1"), (2, "2"), (1, "2"), (1, "3")];
            let expected = expected.map(|(to, text)| (local(), peer(to), text.to_owned()));
            assert_eq!(replies(&mut stack, port), expected);
        }
        assert_eq!((counts.live(), counts.opened()), (4, 4), "the port tells peers apart too");
        let stats = stack.stats();
        assert_eq!(stats.layer("sessions/counter").unwrap().received, 10);
        assert_eq!(stats.layer("sessions").unwrap().received, 10);
        assert_balanced(&stack);
        drop(stack);
        assert_eq!(pool.stats().in_use(), 0);
    }
}

#[test]
fn addresses_that_a_session_filled_in_are_left_alone() {
    let pool = pool();
    let answers = Sessions::new(|_, pool| {
        let layer = toy("proxy").input(|mut chain, cx| {
            chain.meta_mut().set_destination(peer(99));
            cx.down(chain)
        });
        Stack::pile(pool, Edge::Packets, boxed([layer]))
    });
    let mut stack = over(answers)(&pool);
    stack.input_one(PORT, packet(&pool, 1, b"x"));
    assert_eq!(replies(&mut stack, PORT), [(peer(1), peer(99), "x".to_owned())]);
    let echoes =
        Sessions::new(|_, pool| Stack::pile(pool, Edge::Packets, boxed([toy("low"), echo()])));
    let mut stack = over(echoes)(&pool);
    stack.input_one(PORT, packet(&pool, 1, b"x"));
    assert_eq!(replies(&mut stack, PORT), [(local(), peer(1), "x".to_owned())]);
}

#[test]
fn one_peer_too_many_ends_the_session_that_was_idle_for_longest() {
    let pool = pool();
    let sessions = counters().max_sessions(3);
    let counts = sessions.counts();
    let mut stack = over(sessions)(&pool);
    for from in [1, 2, 3, 1, 4] {
        stack.input_one(PORT, packet(&pool, from, b"?"));
    }
    assert_eq!(texts(&mut stack), ["1", "1", "1", "2", "1"]);
    assert_eq!((counts.live(), counts.evicted()), (3, 1));
    for from in [1, 3, 4, 2] {
        stack.input_one(PORT, packet(&pool, from, b"?"));
    }
    assert_eq!(texts(&mut stack), ["3", "2", "2", "1"], "it was 2 that had to go");
    let stats = stack.stats();
    assert_eq!(stats.layer("sessions/counter").unwrap().received, 9, "those gone count too");
    assert_balanced(&stack);
}

#[test]
fn idle_sessions_end_by_the_clock() {
    let pool = pool();
    let sessions = counters().idle(SECOND * 10);
    let counts = sessions.counts();
    let mut stack = over(sessions)(&pool);
    for (second, from) in [(0, 1), (1, 2), (8, 1), (9, 3)] {
        stack.advance(seconds(second));
        stack.input_one(PORT, packet(&pool, from, b"?"));
    }
    assert_eq!(stack.timers(), 1, "one timer serves them all");
    stack.advance(seconds(10));
    assert_eq!(counts.live(), 3, "1 was heard at 8");
    assert_eq!(stack.next_timeout(), Some(seconds(11)));
    stack.advance(seconds(11));
    assert_eq!((counts.live(), counts.idle()), (2, 1));
    assert_eq!(stack.next_timeout(), Some(seconds(18)));
    stack.advance(seconds(100));
    assert_eq!((counts.live(), counts.idle()), (0, 3));
    assert_eq!(stack.next_timeout(), None);
    assert_balanced(&stack);
}

#[test]
fn timers_of_all_sessions_run_through_one_of_the_layer() {
    let pool = pool();
    let log = Log::new();
    let noted = log.clone();
    let sessions = Sessions::new(move |who, pool| {
        let Address::Ip(address) = who.address else { panic!("an IP address was given") };
        let delay = u32::from(address.port());
        let log = noted.clone();
        let layer = toy("delayed")
            .input(move |chain, cx| {
                cx.arm(SECOND * delay).unwrap();
                cx.consumed(chain)
            })
            .timeout(move |_, cx| {
                log.add((delay, cx.now()));
                let chain = cx.pool().chain_from(format!("{delay}").as_bytes()).unwrap();
                cx.made(1);
                cx.send_down(chain);
            });
        Stack::pile(pool, Edge::Packets, boxed([layer]))
    });
    let mut stack = over(sessions)(&pool);
    for from in [5, 2, 9, 3, 2] {
        stack.input_one(PORT, packet(&pool, from, b"?"));
    }
    let mut fired = Vec::new();
    while let Some(next) = stack.next_timeout().filter(|&next| next < seconds(60)) {
        stack.advance(next);
        fired.extend(log.take());
    }
    let order = [2, 2, 3, 5, 9].map(|delay| (delay, seconds(delay.into())));
    assert_eq!(fired, order);
    assert_eq!(texts(&mut stack), ["2", "2", "3", "5", "9"]);
    assert_balanced(&stack);
}

/// Keeps every packet.
fn hoarder() -> Toy {
    let layer = toy("hoarder");
    let kept = Arc::clone(&layer.kept);
    layer.input(move |chain, cx| {
        kept.lock().unwrap().push(chain);
        cx.held()
    })
}

#[test]
fn storage_is_bounded_for_all_and_for_each() {
    let pool = pool();
    let small = packet(&pool, 0, b"x").footprint();
    let sessions = Sessions::new(|_, pool| Stack::pile(pool, Edge::Packets, boxed([hoarder()])))
        .max_footprint(small * 10)
        .max_session_footprint(small * 4);
    let counts = sessions.counts();
    let mut stack = over(sessions)(&pool);
    for from in [1, 2, 3] {
        (0..3).for_each(|_| stack.input_one(PORT, packet(&pool, from, b"x")));
    }
    assert_eq!((counts.live(), stack.held().footprint), (3, small * 9));
    // Two more: 1 has been idle for longest of those that hold something.
    (0..2).for_each(|_| stack.input_one(PORT, packet(&pool, 4, b"x")));
    assert_eq!((counts.live(), counts.evicted(), stack.held().footprint), (3, 1, small * 8));
    // One alone that holds more than its share goes at once.
    (0..3).for_each(|_| stack.input_one(PORT, packet(&pool, 3, b"x")));
    assert_eq!((counts.live(), counts.evicted()), (3, 2), "3 came back for its last packet");
    let stats = stack.stats();
    let row = stats.layer("sessions/hoarder").unwrap();
    assert_eq!(row.drops, [(DropReason::LIMIT, 3 + 5)]);
    assert_balanced(&stack);
    drop(stack);
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn a_full_port_holds_sessions_up_and_they_go_on_when_it_drains() {
    let pool = pool();
    // Each answers a packet with a thousand bytes, ten at a time.
    let sessions = Sessions::new(|_, pool| {
        let mut left = 0;
        let layer =
            toy("talker").input(|chain, cx| cx.consumed(chain)).signal(move |signal, cx| {
                match signal {
                    Signal::Opened => left = 100,
                    Signal::Writable => {}
                    _ => return,
                }
                while left > 0 && cx.credit() >= 10 {
                    left -= 1;
                    let chain = cx.pool().chain_zeroed(10).unwrap();
                    cx.made(1);
                    cx.send_down(chain);
                }
            });
        let mut builder = Stack::builder(pool);
        let layer = builder.layer(layer);
        builder.port(Edge::Packets, layer);
        builder.egress(100, 100, 1000);
        builder.build()
    });
    let counts = sessions.counts();
    let mut builder = Stack::builder(&pool);
    let layer = builder.layer(sessions);
    builder.port(Edge::Packets, layer);
    builder.egress(300, 100, 1000);
    let mut stack = builder.build().unwrap();
    let mut batch = Batch::new();
    (1..=3).for_each(|from| batch.push(packet(&pool, from, b"?")));
    stack.input(PORT, &mut batch);
    let mut received = [0; 4];
    for _ in 0..1000 {
        assert!(stack.poll_output(PORT).bytes() <= 310);
        let replies = replies(&mut stack, PORT);
        if replies.is_empty() && !stack.has_work() {
            break;
        }
        stack.poll();
        for (_, to, text) in replies {
            let from = (1..=3).find(|&from| peer(from) == to).unwrap();
            received[usize::from(from)] += text.len();
        }
    }
    assert_eq!(received, [0, 1000, 1000, 1000]);
    assert!(stack.wants_input(PORT));
    assert_eq!(stack.stats().dropped(DropReason::EGRESS_FULL), 0);
    assert_eq!(counts.live(), 3);
    assert_balanced(&stack);
}

#[test]
fn a_session_that_pauses_gets_nothing_and_the_others_go_on() {
    let pool = pool();
    let sessions = Sessions::new(|_, pool| {
        let layer = toy("sulky").input(|chain, cx| {
            if chain.len() == 1 {
                cx.pause();
            }
            cx.reply(chain)
        });
        Stack::pile(pool, Edge::Packets, boxed([layer]))
    });
    let mut stack = over(sessions)(&pool);
    for (from, text) in [(1, &b"x"[..]), (2, b"yy"), (1, b"zz"), (2, b"vv")] {
        stack.input_one(PORT, packet(&pool, from, text));
    }
    assert_eq!(texts(&mut stack), ["x", "yy", "vv"]);
    let stats = stack.stats();
    assert_eq!(stats.layer("sessions").unwrap().drops, [(DropReason::PAUSED, 1)]);
    assert_balanced(&stack);
}

#[test]
fn a_peer_for_whom_there_is_no_stack_is_refused() {
    let pool = pool();
    let sessions = Sessions::new(|who, pool| {
        let mut builder = Stack::builder(pool);
        let layer = builder.layer(echo());
        if who.address != peer(1) {
            builder.port(Edge::Packets, layer);
        }
        if who.address == peer(2) {
            builder.port(Edge::Packets, layer);
        }
        builder.build()
    });
    let counts = sessions.counts();
    let mut stack = over(sessions)(&pool);
    let mut batch = Batch::new();
    batch.extend([1, 2, 3].map(|from| packet(&pool, from, b"x")));
    stack.input(PORT, &mut batch);
    stack.input_one(PORT, packet(&pool, 1, b"x"));
    assert_eq!(texts(&mut stack), ["x"]);
    assert_eq!(stack.stats().layers[0].drops, [(DropReason::REFUSED, 3)]);
    assert_eq!((counts.refused(), counts.live()), (3, 1));
    assert_balanced(&stack);
}

#[test]
fn a_session_that_closes_ends_after_its_last_words_and_may_come_again() {
    let pool = pool();
    let sessions = Sessions::new(|_, pool| {
        let layer = toy("brief").input(|chain, cx| match chain.len() {
            3 => {
                cx.close();
                cx.reply(chain)
            }
            4 => {
                cx.send_down(chain);
                cx.abort(DropReason("rude"));
                cx.held()
            }
            _ => cx.reply(chain),
        });
        Stack::pile(pool, Edge::Packets, boxed([counter_below(), layer]))
    });
    let counts = sessions.counts();
    let mut stack = over(sessions)(&pool);
    let texts_in = [&b"hi"[..], b"bye", b"hi", b"rude", b"hi"];
    for text in texts_in {
        stack.input_one(PORT, packet(&pool, 1, text));
    }
    assert_eq!(texts(&mut stack), ["1hi", "2bye", "1hi", "1hi"]);
    assert_eq!((counts.opened(), counts.ended(), counts.live()), (3, 2, 1));
    assert_balanced(&stack);
}

/// Puts its count of packets before what goes down.
fn counter_below() -> Toy {
    let mut count = 0_u8;
    toy("count").info(LayerInfo::new(Edge::Any, Edge::Any).prepends(1)).output(
        move |mut chain, cx| {
            count += 1;
            chain.prepend_slice(&[b'0' + count]).unwrap();
            cx.down(chain)
        },
    )
}

#[test]
fn shutdown_and_end_of_stream_reach_the_sessions_and_close_when_they_have_ended() {
    let pool = pool();
    for by_signal in [true, false] {
        let sessions = Sessions::new(|_, pool| {
            // Needs a second to finish.
            let info = LayerInfo::new(Edge::Any, Edge::Any).half_open();
            let layer = toy("slow")
                .info(info)
                .signal(|signal, cx| match signal {
                    Signal::Shutdown | Signal::EndOfStream => _ = cx.arm(SECOND),
                    _ => {}
                })
                .timeout(|_, cx| {
                    let chain = cx.pool().chain_from(b"done").unwrap();
                    cx.made(1);
                    cx.send_down(chain);
                    cx.close();
                });
            Stack::pile(pool, Edge::Packets, boxed([layer, echo()]))
        });
        let counts = sessions.counts();
        let mut stack = over(sessions)(&pool);
        stack.input_one(PORT, packet(&pool, 1, b"x"));
        stack.input_one(PORT, packet(&pool, 2, b"y"));
        match by_signal {
            true => stack.signal(Signal::Shutdown),
            false => stack.end_of_stream(PORT),
        }
        assert_eq!(stack.closing(PORT), Closing::Open);
        stack.advance(seconds(1));
        assert_eq!(stack.closing(PORT), Closing::Graceful);
        assert_eq!(texts(&mut stack), ["x", "y", "done", "done"]);
        assert_eq!((counts.live(), counts.ended()), (0, 2));
        assert_balanced(&stack);
        // Without a session there is nothing to wait for.
        let mut stack = over(counters())(&pool);
        stack.signal(Signal::Shutdown);
        assert_eq!(stack.closing(PORT), Closing::Graceful);
    }
}

#[test]
fn any_mixture_of_peers_times_and_behaviours_balances_and_leaks_nothing() {
    let pool = pool();
    for seed in 1..=8_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let sessions = Sessions::new(|_, pool| {
            let layer = toy("mixed");
            let kept = Arc::clone(&layer.kept);
            let late = Arc::clone(&layer.kept);
            let layer = layer
                .input(move |chain, cx| match chain.len() % 7 {
                    0 => {
                        kept.lock().unwrap().push(chain);
                        cx.held()
                    }
                    1 => {
                        cx.arm(SECOND * chain.len() as u32);
                        cx.consumed(chain)
                    }
                    2 => cx.drop(chain, DropReason::MALFORMED),
                    3 if chain.len() > 40 => {
                        cx.close();
                        cx.reply(chain)
                    }
                    _ => cx.reply(chain),
                })
                .timeout(move |_, cx| {
                    late.lock().unwrap().drain(..).for_each(|chain| cx.send_down(chain));
                });
            Stack::pile(pool, Edge::Packets, boxed([toy("low"), layer]))
        })
        .max_sessions(12)
        .max_footprint(40 * 256)
        .idle(SECOND * 20);
        let counts = sessions.counts();
        let mut stack = over(sessions)(&pool);
        let mut now = 0;
        for _ in 0..2000 {
            match next(10) {
                0 => {
                    now += next(8);
                    stack.advance(seconds(now));
                }
                1 => stack.signal(Signal::Drain),
                2 => _ = texts(&mut stack),
                _ => {
                    let mut batch = Batch::new();
                    for _ in 0..next(5) {
                        let text = vec![b'x'; next(50) as usize];
                        batch.push(packet(&pool, next(30) as u16, &text));
                    }
                    stack.input(PORT, &mut batch);
                }
            }
            assert!(counts.live() <= 12 && stack.timers() <= 1);
            assert!(stack.held().footprint <= 40 * 256 + stack.poll_output(PORT).footprint());
        }
        assert_balanced(&stack);
        assert!(counts.evicted() > 0 && counts.idle() > 0 && counts.ended() > 0, "{counts:?}");
        stack.signal(Signal::Shutdown);
        assert_eq!((counts.live(), stack.closing(PORT)), (0, Closing::Graceful));
        assert_balanced(&stack);
        drop(stack);
        assert_eq!(pool.stats().in_use(), 0);
    }
}
