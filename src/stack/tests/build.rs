//! What is refused, and by which name.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::*;

fn refusal(build: impl FnOnce(&mut StackBuilder)) -> String {
    let mut builder = Stack::builder(&pool());
    build(&mut builder);
    builder.build().unwrap_err().to_string()
}

fn packets(name: &'static str) -> Toy {
    toy(name).info(LayerInfo::new(Edge::Packets, Edge::Packets))
}

fn bytes(name: &'static str) -> Toy {
    toy(name).info(LayerInfo::new(Edge::Bytes, Edge::Bytes))
}

#[test]
fn a_stack_without_layers_or_ports() {
    assert_eq!(refusal(|_| {}), "stack: it has no layers");
    let text = refusal(|builder| _ = builder.layer(echo()));
    assert_eq!(text, "stack: it has no port: put one below a layer");
    assert!(Stack::pile(&pool(), Edge::Bytes, Vec::new()).is_err());
}

#[test]
fn a_layer_that_is_bound_to_nothing_below() {
    let text = refusal(|builder| {
        let low = builder.layer(toy("low"));
        builder.layer(toy("lost"));
        builder.port(Edge::Bytes, low);
    });
    assert!(text.contains("layer `lost` has no way down to a port"), "{text}");
}

#[test]
fn a_layer_of_another_builder() {
    let pool = pool();
    let mut other = Stack::builder(&pool);
    other.layer(toy("a"));
    let foreign = other.layer(toy("b"));
    let text = refusal(|builder| {
        let low = builder.layer(toy("low"));
        builder.port(Edge::Bytes, low);
        builder.stack(low, foreign);
    });
    assert!(text.contains("a layer of another builder (this one has 1)"), "{text}");
}

#[test]
fn a_key_that_is_bound_twice() {
    let text = refusal(|builder| {
        let low = builder.layer(switch("ether"));
        let (a, b) = (builder.layer(packets("ipv4")), builder.layer(packets("arp")));
        builder.port(Edge::Packets, low);
        builder.bind(low, 0x800, a).bind(low, 0x800, b);
    });
    assert!(text.contains("`ether` hands key 0x800 to both `ipv4` and `arp`"), "{text}");
    let text = refusal(|builder| {
        let low = builder.layer(toy("low"));
        let (a, b) = (builder.layer(toy("a")), builder.layer(toy("b")));
        builder.port(Edge::Packets, low);
        builder.stack(low, a).stack(low, b);
    });
    assert!(text.contains("`low` has both `a` and `b` above it without a key"), "{text}");
}

#[test]
fn edges_that_differ() {
    let text = refusal(|builder| {
        let low = builder.layer(packets("udp"));
        builder.port(Edge::Bytes, low);
    });
    assert!(text.contains("layer `udp` takes packets, but port 0 carries bytes"), "{text}");
    let text = refusal(|builder| {
        let low = builder.layer(bytes("tls"));
        let high = builder.layer(packets("messages"));
        builder.port(Edge::Bytes, low);
        builder.stack(low, high);
    });
    assert!(text.contains("layer `messages` takes packets, but `tls` offers bytes"), "{text}");
    // What does not care passes on what it is given.
    let text = refusal(|builder| {
        let low = builder.layer(toy("tap"));
        let middle = builder.layer(toy("tap again"));
        let high = builder.layer(packets("messages"));
        builder.port(Edge::Bytes, low);
        builder.stack(middle, high).stack(low, middle);
    });
    assert!(text.contains("`messages` takes packets, but `tap again` offers bytes"), "{text}");
    let text = refusal(|builder| {
        let low = builder.layer(toy("low"));
        builder.port(Edge::Any, low);
    });
    assert!(text.contains("port 0 must carry bytes or packets"), "{text}");
    let text = refusal(|builder| {
        let low = builder.layer(toy("relay"));
        let high = builder.layer(packets("messages"));
        builder.port(Edge::Packets, low);
        builder.port(Edge::Bytes, low);
        builder.stack(low, high);
    });
    assert!(text.contains("layer `relay` offers what is below it, but that is bytes"), "{text}");
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Large([u8; 9]);

#[test]
fn slots_that_do_not_fit_or_are_claimed_twice() {
    let claims = |name, info: LayerInfo| toy(name).info(info);
    let text = refusal(|builder| {
        let info = LayerInfo::new(Edge::Any, Edge::Any);
        let low = builder.layer(claims("low", info.clone().slot::<u32>()));
        let high = builder.layer(claims("high", info.slot::<Large>()));
        builder.port(Edge::Packets, low);
        builder.stack(low, high);
    });
    assert!(
        text.contains("layer `high` claims takes 9 bytes, but only 8 of 12 are left"),
        "{text}"
    );
    let text = refusal(|builder| {
        let info = LayerInfo::new(Edge::Any, Edge::Any).slot::<u16>();
        let low = builder.layer(claims("low", info.clone()));
        let high = builder.layer(claims("high", info));
        builder.port(Edge::Packets, low);
        builder.stack(low, high);
    });
    assert!(text.contains("type u16 is claimed by `low` and by `high`"), "{text}");
    let text = refusal(|builder| {
        let info = LayerInfo::new(Edge::Any, Edge::Any);
        let low = builder.layer(claims("low", info.clone().shared_slot::<u16>()));
        let high = builder.layer(claims("high", info.slot::<u16>()));
        builder.port(Edge::Packets, low);
        builder.stack(low, high);
    });
    assert!(text.contains("type u16 is claimed by `low` and by `high`"), "{text}");
}

#[test]
fn headroom_that_is_too_small() {
    let pool = pool();
    let layers = [header("ether", 1, 14), header("ip", 2, 40), header("udp", 3, 11)];
    let error = Stack::pile(&pool, Edge::Packets, boxed(layers)).unwrap_err().to_string();
    assert_eq!(
        error,
        "stack: layer `ether` prepends up to 14 bytes, which makes 65 on the way down \
         udp > ip > ether, but pool `test` has 64 bytes of headroom"
    );
    let layers = [header("ether", 1, 14), header("ip", 2, 40), header("udp", 3, 10)];
    assert!(Stack::pile(&pool, Edge::Packets, boxed(layers)).is_ok());
    let layers = [header("a", 1, usize::MAX), header("b", 2, usize::MAX)];
    assert!(Stack::pile(&pool, Edge::Packets, boxed(layers)).is_err());
}

/// ip over ip: a tunnel hands what was inside up to the layer that it stands on.
fn tunnel(pool: &Pool, ip: usize, tunnel: usize) -> Result<Stack, BuildError> {
    let mut builder = Stack::builder(pool);
    let low = builder.layer(header("ip", 1, ip));
    let middle = builder.layer(header("tunnel", 2, tunnel));
    let high = builder.layer(header("udp", 3, 8));
    builder.port(Edge::Packets, low);
    builder.bind(low, 4, middle).bind(low, 17, high).stack(middle, low);
    builder.build()
}

#[test]
fn headroom_counts_a_cycle_once_round() {
    let pool = pool();
    assert!(tunnel(&pool, 20, 16).is_ok());
    let text = tunnel(&pool, 20, 17).unwrap_err().to_string();
    assert!(text.contains("layer `ip` prepends up to 20 bytes, which makes 65"), "{text}");
    assert!(text.contains("udp > ip > tunnel > ip"), "{text}");
}

#[test]
fn a_graph_with_too_many_ways_is_refused_and_not_searched_for_ever() {
    let text = refusal(|builder| {
        let mut below = builder.layer(toy("bottom"));
        builder.port(Edge::Packets, below);
        for _ in 0..40 {
            let (left, right) = (builder.layer(toy("left")), builder.layer(toy("right")));
            let join = builder.layer(toy("join"));
            builder.bind(below, 1, left).bind(below, 2, right);
            builder.stack(left, join).stack(right, join);
            below = join;
        }
    });
    assert!(text.contains("too many ways"), "{text}");
}

#[test]
fn a_stack_may_move_to_another_thread() {
    fn is_send<T: Send>(_: &T) {}
    let pool = pool();
    let mut stack = pile(&pool, Edge::Packets, [echo()]);
    is_send(&stack);
    let answer = std::thread::spawn(move || {
        give(&mut stack, PORT, &[b"over there"]);
        sent(&mut stack, PORT)
    });
    assert_eq!(answer.join().unwrap(), [b"over there"]);
    assert_eq!(pool.stats().in_use(), 0);
}
