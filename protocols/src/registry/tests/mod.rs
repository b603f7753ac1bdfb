//! What texts make, and what is said of those that are wrong.

mod graphs;
mod refusals;

use mbuf::{
    Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
    testing,
};

use super::*;
use crate::{Discard, Echo};

/// A layer of somebody else's: two bytes of key before each packet.
struct Wire {
    name: &'static str,
    prepends: usize,
}

impl Protocol for Wire {
    fn name(&self) -> &str {
        self.name
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).prepends(self.prepends).min_header(2)
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.strip::<[u8; 2]>() {
            Ok(key) => cx.up_key(u16::from_be_bytes(key).into(), chain),
            Err(_) => cx.drop(chain, DropReason::SHORT),
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let key = u16::try_from(cx.key().unwrap_or(0)).unwrap_or(0);
        match chain.push(&key.to_be_bytes()) {
            Ok(()) => cx.down(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }
}

/// The plugins of this crate, and some of somebody else's.
fn registry() -> Registry {
    let mut registry = Registry::standard();
    registry
        .register("wire", |options| {
            Ok(Wire { name: "wire", prepends: options.take("prepends")?.unwrap_or(2) })
        })
        .alias("ether")
        .needs_key("a colour", 0xffff);
    registry
        .register("wide", |_| Ok(Wire { name: "wide", prepends: 30 }))
        .under("wire", 0x0800)
        .takes_key("a size", 0xffff);
    registry.register("twice", |_| Ok(Echo::new())).under("wire", 1).under("wire", 2);
    registry.register("never", |_| -> Result<Discard, _> { Err(Refused::new("not today")) });
    registry
}

fn refusal(text: &str) -> String {
    registry().build(&testing::pool(), text).unwrap_err().to_string()
}

fn refusal_toml(text: &str) -> String {
    registry().build_toml(&testing::pool(), text).unwrap_err().to_string()
}

/// What comes back for one packet.
fn answer(stack: &mut Stack, pool: &Pool, port: u16, bytes: &[u8]) -> Vec<Vec<u8>> {
    stack.open();
    stack.input_one(PortId(port), pool.chain_from(bytes).unwrap());
    let mut answers = Vec::new();
    while let Some(chain) = stack.poll_output(PortId(port)).pop() {
        answers.push(chain.to_vec().unwrap());
    }
    answers
}

#[test]
fn a_pile_carries_what_it_says() {
    let pool = testing::pool();
    let mut stack = registry().build(&pool, "packets|wire:7|echo").unwrap();
    assert_eq!(answer(&mut stack, &pool, 0, b"\x00\x07hi"), [b"\x00\x07hi"]);
    assert!(answer(&mut stack, &pool, 0, b"\x00\x08hi").is_empty());
    drop(stack);
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn spaces_line_breaks_and_the_order_of_key_and_options_are_free() {
    let plain = registry().plan("packets|wire(prepends=3):0x7|echo").unwrap().to_string();
    assert_eq!(plain, "port 0 (packets): wire\nwire > 7 (0x7) > echo\n");
    for text in [
        "packets|wire:7(prepends=3)|echo",
        " packets | wire : 7 ( prepends = 3 , ) | echo ",
        "packets\n| wire(\n  prepends = \"3\",\n) : 7\n| echo()\n",
        "ether(prepends=0x3):7|echo",
    ] {
        assert_eq!(registry().plan(text).unwrap().to_string(), plain, "{text}");
    }
}

#[test]
fn the_usual_key_is_known_and_may_be_several_or_the_rest() {
    let keys = |text: &str| -> Vec<Option<u64>> {
        registry().plan(text).unwrap().bindings().map(|bound| bound.key).collect()
    };
    assert_eq!(keys("wire|wide|echo"), [Some(0x0800), None]);
    assert_eq!(keys("wire|twice"), [Some(1), Some(2)]);
    assert_eq!(keys("wire:*|echo"), [None]);
    assert_eq!(keys("wire:9|wide:0|echo"), [Some(9), Some(0)]);
}

#[test]
fn a_graph_carries_what_it_says() {
    let text = r#"
        [stack]
        rounds = 64
        timers = 0x10
        high_water = 1_000
        max_chains = 1

        [[layer]]
        kind = "wire"
        prepends = 2

        [[layer]]
        name = "mirror"
        kind = "echo"

        [[layer]]
        kind = "discard"

        [[bind]]
        lower = "wire"
        key = 0x0007
        upper = "mirror"

        [[bind]]
        lower = "wire"
        key = "*"
        upper = "discard"

        [[port]]
        layer = "wire"

        [[port]]
        layer = "wire"
        edge = "packets"
    "#;
    let plan = registry().plan_toml(text).unwrap();
    assert_eq!(
        plan.to_string(),
        "port 0 (packets): wire\nport 1 (packets): wire\n\
         wire > 7 (0x7) > mirror\nwire > discard\n"
    );
    let pool = testing::pool();
    let mut stack = plan.build(&pool).unwrap();
    for port in [0, 1] {
        assert_eq!(answer(&mut stack, &pool, port, b"\x00\x07hi"), [b"\x00\x07hi"]);
        assert!(answer(&mut stack, &pool, port, b"\x00\x08hi").is_empty());
    }
    let mut batch = mbuf::Batch::new();
    batch.extend((0..2).map(|_| pool.chain_from(b"\x00\x07hi").unwrap()));
    stack.input(PortId(0), &mut batch);
    assert_eq!(stack.poll_output(PortId(0)).len(), 1, "max_chains holds");
    drop((stack, batch));
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn options_of_toml_are_those_of_a_pile() {
    let mut registry = Registry::empty();
    registry.register("all", |options| {
        assert_eq!(options.take_all::<u16>("n")?, [1, 2, 0x10]);
        assert_eq!(options.required::<String>("text")?, "a, (b) \"c\"");
        assert_eq!(options.take::<bool>("truth")?, Some(true));
        assert_eq!(options.take::<f64>("half")?, Some(0.5));
        assert_eq!(options.duration("after")?, Some(std::time::Duration::from_millis(20)));
        Ok(Echo::new())
    });
    let pile = r#"all(n=1, n=2, n=0x10, text="a, (b) \"c\"", truth=true, half=0.5, after=20ms)"#;
    registry.plan(&format!("bytes|{pile}")).unwrap();
    let text = r#"
        layer = [{ kind = "all", n = [1, 2, 0x10], text = 'a, (b) "c"', truth = true, half = 0.5,
                   after = "20ms" }]
    "#;
    registry.plan_toml(text).unwrap();
}

#[test]
fn a_plan_outlives_its_registry_and_builds_many_stacks() {
    let plan = registry().plan("framing(prefix=u16be, max=100)|echo").unwrap();
    let pool = testing::pool();
    for _ in 0..3 {
        let mut stack = plan.build(&pool).unwrap();
        assert_eq!(answer(&mut stack, &pool, 0, b"\x00\x02hi").concat(), b"\x00\x02hi");
    }
    assert_eq!(pool.stats().in_use(), 0);
    fn is_shared_by_threads<T: Send + Sync + 'static>(_: &T) {}
    is_shared_by_threads(&plan);
}

#[test]
fn a_later_registration_replaces_an_earlier_one_and_its_aliases() {
    let mut registry = registry();
    registry.register("ether", |_| Ok(Echo::new()));
    assert_eq!(registry.plan("bytes|ether").unwrap().to_string(), "port 0 (bytes): ether\n");
    registry.register("echo", |_| Ok(Discard::new()));
    assert_eq!(registry.names().filter(|name| *name == "echo").count(), 1);
}

#[test]
fn the_graphs_among_the_examples_are_built() {
    let pool = Pool::builder().headroom(128).build().unwrap();
    for text in [
        include_str!("../../../../examples/vtep.toml"),
        include_str!("../../../../examples/vtep-host.toml"),
    ] {
        assert_eq!(Registry::standard().build_toml(&pool, text).unwrap().ports(), 2);
    }
}

#[test]
fn no_text_makes_it_panic() {
    let pile = "bytes|framing(prefix=\"u16be\", max=4096):7|wire:0x10(prepends=2)|écho";
    let graph = "[[layer]]\nkind = \"wire\"\nprepends = 2\n[[bind]]\nlower = \"wire\"\nkey = 7\n\
                 upper = \"wire\"\n[[port]]\nlayer = \"wire\"\n[stack]\nrounds = 1\n";
    let (pool, registry) = (testing::pool(), registry());
    let mut refused = 0;
    for text in [pile, graph] {
        let chars: Vec<char> = text.chars().collect();
        for at in 0..=chars.len() {
            let (before, after) = chars.split_at(at);
            let (before, after): (String, String) =
                (before.iter().collect(), after.iter().collect());
            for middle in ["", "\"", "(", ")", "=", "|", ":", "\n", "é", "\\", "[", "\u{0}"] {
                let texts = [format!("{before}{middle}{after}"), format!("{before}{middle}")];
                for text in texts {
                    for built in [registry.build(&pool, &text), registry.build_toml(&pool, &text)] {
                        refused += built.map_err(|error| error.to_string()).is_err() as usize;
                    }
                }
            }
        }
    }
    assert!(refused > 1000);
}

/// An Ethernet frame with an IPv4 packet with a UDP datagram from 192.0.2.2, port 4000.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let mut ip = vec![0x45, 0, 0, 28 + payload.len() as u8, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend([192, 0, 2, 2, 192, 0, 2, 1]);
    let words = ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(4000_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

#[test]
fn the_pile_of_the_issue_answers_a_datagram() {
    let pool = testing::pool();
    let text = "eth(peer=02:00:00:00:00:02)|ipv4(address=192.0.2.1/24)|udp:7007|echo";
    let mut stack = Registry::standard().build(&pool, text).unwrap();
    let answers = answer(&mut stack, &pool, 0, &datagram(7007, b"hello"));
    assert_eq!(answers.len(), 1, "{:?}", stack.stats());
    assert_eq!(&answers[0][..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    assert_eq!(&answers[0][26..34], [192, 0, 2, 1, 192, 0, 2, 2]);
    assert_eq!(&answers[0][34..38], [7007_u16.to_be_bytes(), 4000_u16.to_be_bytes()].concat());
    assert_eq!(&answers[0][42..], b"hello");
    // Another port is nobody's.
    assert!(answer(&mut stack, &pool, 0, &datagram(7008, b"hello")).is_empty());
    drop(stack);
    assert_eq!(pool.stats().in_use(), 0);
    // Without options, it has addresses of its own.
    Registry::standard().build(&pool, "eth|ipv4|udp:7|echo").unwrap();
}

#[test]
fn the_kinds_of_a_host_know_their_keys() {
    let plan = Registry::standard().plan("eth|ipv4|udp|echo").unwrap();
    let keys: Vec<_> = plan.bindings().map(|bound| bound.key).collect();
    assert_eq!(keys, [Some(0x0800), Some(17), Some(7)]);
    let plan = Registry::standard().plan("ethernet|ipv4|icmp").unwrap();
    assert_eq!(plan.bindings().last().unwrap().key, Some(1));
}

#[test]
fn an_unknown_layer_that_is_near_nothing_has_the_list() {
    let mut registry = Registry::empty();
    registry.register("echo", |_| Ok(Echo::new())).alias("mirror");
    registry.register("discard", |_| Ok(Discard::new()));
    assert_eq!(
        registry.plan("bytes|quaternion").unwrap_err().to_string(),
        "\
1:7: unknown layer `quaternion`
  |
1 | bytes|quaternion
  |       ^^^^^^^^^^
  = expected discard, echo or mirror"
    );
}

/// The page of the guide has a graph: it is one, and answers.
#[test]
fn the_graph_of_the_guide_answers_a_datagram() {
    let page = include_str!("../../../../docs/compose-from-text.md");
    let graph = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let pool = testing::pool();
    let mut stack = Registry::standard().build_toml(&pool, graph).unwrap();
    assert_eq!(answer(&mut stack, &pool, 0, &datagram(7007, b"hello")).len(), 1);
    assert!(answer(&mut stack, &pool, 0, &datagram(9, b"hello")).is_empty());
    drop(stack);
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn arp_takes_the_addresses_of_its_neighbours_and_both_edges() {
    let text = "eth(mac=02:00:00:00:00:09)|arp|ipv4(address=198.51.100.9/24)|udp:7007|echo";
    let plan = Registry::standard().plan(text).unwrap();
    let keys: Vec<_> = plan.bindings().take(3).map(|bound| bound.key).collect();
    assert_eq!(keys, [Some(0x0806), Some(0x0800), None]);
    let pool = testing::pool();
    let mut stack = plan.build(&pool).unwrap();
    stack.open();
    while stack.poll_output(PortId(0)).pop().is_some() {}
    let mut who_has = vec![0xff; 6];
    who_has.extend([2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]);
    who_has.extend([198, 51, 100, 2, 0, 0, 0, 0, 0, 0, 198, 51, 100, 9]);
    let answers = answer(&mut stack, &pool, 0, &who_has);
    assert_eq!(answers.len(), 1, "{:?}", stack.stats());
    assert_eq!(&answers[0][20..32], [0, 2, 2, 0, 0, 0, 0, 9, 198, 51, 100, 9]);
    drop(stack);
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn tags_may_be_stacked() {
    let text = "eth:0x88a8|vlan(id=7)|vlan(id=100)|ipv4|udp|echo";
    let plan = Registry::standard().plan(text).unwrap();
    let keys: Vec<_> = plan.bindings().take(3).map(|bound| bound.key).collect();
    assert_eq!(keys, [Some(0x88a8), Some(0x8100), Some(0x0800)]);
    let error = Registry::standard().plan("eth|vlan(id=4095)|ipv4").unwrap_err();
    assert_eq!((error.column(), error.expected()), (13, Some("a number from 1 to 4094")));
}

#[test]
fn nd_takes_the_addresses_of_its_neighbours() {
    let text = "eth(mac=02:00:00:00:00:09)|nd|ipv6(address=2001:db8::9/64)|udp:7007|echo";
    let plan = Registry::standard().plan(text).unwrap();
    let keys: Vec<_> = plan.bindings().map(|bound| bound.key).collect();
    assert_eq!(keys, [Some(0x86dd), None, Some(17), Some(7007)]);
    let made = format!("{plan:?}");
    // Ethernet's own, and those that nd and, from nd, ipv6 took.
    assert_eq!(made.matches("02:00:00:00:00:09").count(), 3 + 1, "with the text itself");
    assert_eq!(made.matches("2001:db8::9/64").count(), 2 + 1);
    let pool = Pool::builder().headroom(128).build().unwrap();
    plan.build(&pool).unwrap();
    let error = Registry::standard().plan("eth|nd|ipv6(address=2001:db8::9)|icmpv6").unwrap_err();
    assert!(error.message().ends_with("the prefix length is missing"), "{error}");
    assert_eq!(error.column(), 21);
}

#[test]
fn tunnels_know_their_keys() {
    let keys = |text: &str| -> Vec<Option<u64>> {
        Registry::standard().plan(text).unwrap().bindings().map(|bound| bound.key).collect()
    };
    let text = "eth|ipv4|udp|vxlan(vni=42)|eth|ipv4|icmp";
    let (ip, inner) = (Some(0x0800), None);
    assert_eq!(keys(text), [ip, Some(17), Some(4789), inner, ip, Some(1)]);
    assert_eq!(keys("ipv4|gre(remote=192.0.2.2)|ipv4|udp|echo")[..2], [Some(47), ip]);
    let text = "ipv4|udp|geneve(vni=1, remote=192.0.2.2:6081)|eth|ipv4|icmp";
    assert_eq!(keys(text)[1..3], [Some(6081), Some(0x6558)]);
    assert_eq!(keys("eth|mpls(ttl=9):16|ipv4|icmp"), [Some(0x8847), Some(16), Some(1)]);
    let error = Registry::standard().plan("ipv4|udp|vxlan(vni=0x1000000)|eth|ipv4").unwrap_err();
    assert_eq!((error.column(), error.message()), (20, "layer `vxlan`: a VNI has 24 bits"));
}

#[test]
fn servers_are_made_of_what_they_are_told() {
    let folder = std::env::temp_dir();
    let tftp = format!("udp|tftp(root=\"{}\", write=true, max_size=100)", folder.display());
    let plan = registry().plan(&tftp).unwrap();
    assert_eq!(plan.bindings().next().unwrap().key, Some(69));
    assert_eq!(refused("packets|tftp"), "layer `tftp` needs the option `root`");
    assert!(refused("packets|tftp(root=/nonexistent)").contains("open of /nonexistent: ENOENT"));

    let pool = testing::pool();
    let dns = "packets|dns(zone=example.org, a=\"www.example.org 192.0.2.1\", ttl=60)";
    let mut stack = registry().build(&pool, dns).unwrap();
    stack.open();
    let question = b"\0\x01\0\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03org\0\0\x01\0\x01";
    stack.input_one(PortId(0), pool.chain_from(question).unwrap());
    let answer = stack.poll_output(PortId(0)).pop().unwrap().to_vec().unwrap();
    assert!(answer.ends_with(&[0, 0, 0, 60, 0, 4, 192, 0, 2, 1]), "{answer:?}");
    assert!(refused("packets|dns(a=\"www 192.0.2\")").ends_with("the address is malformed"));
    assert!(refused("packets|dns(a=www)").contains("a name, a space"));
    assert!(refused("packets|dns(zone=a..b)").contains("is no name"));
}

fn refused(text: &str) -> String {
    registry().plan(text).unwrap_err().message().to_owned()
}
