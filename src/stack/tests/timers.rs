//! Timers as layers see them.

use std::time::Duration;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

#[test]
fn they_fire_by_deadline_and_then_in_the_order_of_arming_across_layers() {
    let pool = pool();
    let log = Log::new();
    let layer = |name: &'static str, delays: &'static [u32]| {
        let log = log.clone();
        toy(name)
            .signal(move |_, cx| delays.iter().for_each(|&n| _ = cx.arm(MS * n).unwrap()))
            .timeout(move |_, cx| log.add((name, cx.now())))
    };
    let mut stack = pile(&pool, Edge::Packets, [layer("low", &[3, 1]), layer("high", &[2, 3, 9])]);
    assert_eq!(stack.next_timeout(), None);
    stack.open();
    assert_eq!((stack.next_timeout(), stack.timers()), (Some(at(1)), 5));
    stack.advance(Time::ZERO);
    assert_eq!(log.take(), []);
    stack.advance(at(5));
    // The time is fixed within a poll.
    let order = ["low", "high", "low", "high"].map(|name| (name, at(5)));
    assert_eq!(log.take(), order);
    assert_eq!(stack.next_timeout(), Some(at(9)));
    stack.advance(at(2));
    assert_eq!(stack.now(), at(5), "it does not go back");
}

#[test]
fn a_cancelled_timer_never_fires_not_even_if_it_is_due_already() {
    let pool = pool();
    let log = Log::new();
    let fired = log.clone();
    let mut other = None;
    let armed: Arc<Mutex<Vec<Timer>>> = Arc::default();
    let seen = Arc::clone(&armed);
    let layer = toy("layer")
        .signal(move |_, cx| {
            let (first, second) = (cx.arm(MS).unwrap(), cx.arm(MS).unwrap());
            armed.lock().unwrap().extend([first, second]);
        })
        .timeout(move |timer, cx| {
            fired.add(timer);
            let second = *other.get_or_insert(seen.lock().unwrap()[1]);
            assert!(cx.cancel(second));
            assert!(!cx.cancel(second));
            assert!(!cx.cancel(timer), "it has fired");
        });
    let thief: Arc<Mutex<Option<Timer>>> = Arc::default();
    let stolen = Arc::clone(&thief);
    let high = toy("high").signal(move |signal, cx| {
        if signal == Signal::Opened {
            *stolen.lock().unwrap() = cx.arm(MS * 100);
        }
    });
    let mut stack = pile(&pool, Edge::Packets, [layer, high]);
    stack.open();
    assert_eq!(stack.timers(), 3);
    stack.advance(at(1));
    assert_eq!(log.take().len(), 1);
    assert_eq!(stack.timers(), 1);
    assert!(thief.lock().unwrap().is_some());
}

#[test]
fn a_layer_cannot_cancel_the_timer_of_another() {
    let pool = pool();
    let timer: Arc<Mutex<Option<Timer>>> = Arc::default();
    let (low, high) = (Arc::clone(&timer), timer);
    let mut stack = pile(
        &pool,
        Edge::Packets,
        [
            toy("low").signal(move |_, cx| *low.lock().unwrap() = cx.arm(MS)),
            toy("high").signal(move |_, cx| assert!(!cx.cancel(high.lock().unwrap().unwrap()))),
        ],
    );
    stack.open();
    assert_eq!(stack.timers(), 1);
}

#[test]
fn one_that_arms_itself_without_delay_fires_once_a_call() {
    let pool = pool();
    let log = Log::new();
    let fired = log.clone();
    let layer = toy("eager").signal(|_, cx| _ = cx.arm(Duration::ZERO)).timeout(move |_, cx| {
        fired.add(());
        cx.arm(Duration::ZERO).unwrap();
    });
    let mut stack = pile(&pool, Edge::Packets, [layer]);
    stack.open();
    for call in 1..5 {
        stack.advance(Time::ZERO);
        assert_eq!(log.0.lock().unwrap().len(), call);
    }
}

#[test]
fn their_number_is_bounded() {
    let pool = pool();
    let mut builder = Stack::builder(&pool);
    let layer = builder.layer(toy("greedy").signal(|_, cx| {
        let armed = (0..100).filter_map(|_| cx.arm(Duration::MAX)).count();
        assert_eq!(armed, 10);
    }));
    builder.port(Edge::Packets, layer);
    builder.timers(10);
    let mut stack = builder.build().unwrap();
    stack.open();
    assert_eq!((stack.timers(), stack.next_timeout()), (10, Some(Time::MAX)));
}

#[test]
fn what_a_timer_sends_is_on_its_way_before_the_next_one_fires() {
    let pool = pool();
    let log = Log::new();
    let (from_below, from_above) = (log.clone(), log.clone());
    let low = toy("low").output(move |chain, cx| {
        from_below.add("sent");
        cx.down(chain)
    });
    let high =
        toy("high").signal(|_, cx| (0..2).for_each(|_| _ = cx.arm(MS))).timeout(move |_, cx| {
            from_above.add("fired");
            let chain = cx.pool().chain_from(b"tick").unwrap();
            cx.made(1);
            cx.send_down(chain);
        });
    let mut stack = pile(&pool, Edge::Packets, [low, high]);
    stack.open();
    stack.advance(at(1));
    assert_eq!(log.take(), ["fired", "sent", "fired", "sent"]);
    assert_eq!(sent(&mut stack, PORT), [b"tick", b"tick"]);
    assert_balanced(&stack);
}
