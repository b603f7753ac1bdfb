use mbuf::testing;
use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.as_chunks().0.iter().map(byte).collect()
}

fn dissect(link: LinkType, bytes: &[u8], original: usize) -> Dissection {
    let pool = testing::pool();
    let found = Dissector::new().dissect(link, pool.chain_from(bytes).unwrap(), original);
    // The same in one-byte segments.
    let chain = testing::bytewise(&pool, bytes).unwrap();
    assert_eq!(Dissector::new().dissect(link, chain, original), found);
    assert_eq!(pool.stats().in_use(), 0);
    found
}

const ETHERNET: &str = "020000000002 020000000001";

/// Packets of all layers, and what is in each.
fn samples() -> Vec<(LinkType, Vec<u8>, &'static str)> {
    let ethernet = |rest: &str| (LinkType::ETHERNET, hex(&format!("{ETHERNET}{rest}")));
    let raw = |rest: &str| (LinkType::RAW, hex(rest));
    let ipv4 = |protocol: &str, rest: &str| {
        let len = 20 + hex(rest).len();
        raw(&format!("4500{len:04x}12340000 40{protocol}0000 c0000201 c0000202 {rest}"))
    };
    let ipv6 = |next: &str, rest: &str| {
        let len = hex(rest).len();
        let (one, two) = ("20010db8000000000000000000000001", "20010db8000000000000000000000002");
        raw(&format!("60000000{len:04x}{next}40{one}{two}{rest}"))
    };
    let inner = "4500001c00010000400100007f0000017f000001 0800f7ff00000000";
    let dns =
        "abcd 0100 0001 0001 0000 0000 036e6574 00 0001 0001 c00c 0001 0001 00000e10 0004 c0000201";
    let arp = "0001080006040001 020000000001 c0000201 000000000000 c0000202";
    let samples = vec![
        (ethernet(&format!("0806{arp}")), "ethernet/arp"),
        (ethernet(&format!("0806{arp}{}", "00".repeat(18))), "ethernet/arp"),
        (
            ethernet(&format!("8100 6064 88a8 0007 9100 0001 0806{arp}")),
            "ethernet/vlan/vlan/vlan/arp",
        ),
        (
            ethernet(
                "0026 aaaa03 000000 0800 4500001c00010000400100007f0000017f000001 0800f7ff00000000 0000",
            ),
            "ethernet/llc/ipv4/icmp",
        ),
        (ethernet("0004 424203 00"), "ethernet/llc/payload"),
        (ethernet("88b5 01"), "ethernet/payload"),
        (ethernet("0000 01"), "ethernet/payload"),
        (ethernet(&format!("8847 00010040 00020140 {inner}")), "ethernet/mpls/ipv4/icmp"),
        (ipv4("01", "0800f7ff00000000 01"), "ipv4/icmp/payload"),
        (ipv4("01", &format!("0301f7ff00000000 {}", &inner[..44])), "ipv4/icmp/ipv4/icmp"),
        (ipv4("11", &format!("d4310035{:04x}0000{dns}", 8 + hex(dns).len())), "ipv4/udp/dns"),
        (
            ipv4(
                "06",
                &format!("d431003500000001000000005018ffff00000000{:04x}{dns}", hex(dns).len()),
            ),
            "ipv4/tcp/dns",
        ),
        (
            ipv4("06", "d431005000000001000000008002ffff00000000 020405b4 0402 0101 01030307"),
            "ipv4/tcp",
        ),
        (ipv4("2f", &format!("b0000800 00000000 00000007 00000001 {inner}")), "ipv4/gre/ipv4/icmp"),
        (ipv4("2f", &format!("00006558 {ETHERNET}0806{arp}")), "ipv4/gre/ethernet/arp"),
        (
            ipv4("11", &format!("d43112b5 003a 0000 08000000 00002a00 {ETHERNET}0806{arp}")),
            "ipv4/udp/vxlan/ethernet/arp",
        ),
        (
            ipv4(
                "11",
                &format!(
                    "d43117c1 0042 0000 02006558 00002a00 0102 80 01 00000000 {ETHERNET}0806{arp}"
                ),
            ),
            "ipv4/udp/geneve/ethernet/arp",
        ),
        (
            ipv4(
                "29",
                "6000000000003b4020010db800000000000000000000000120010db8000000000000000000000002",
            ),
            "ipv4/ipv6",
        ),
        (
            ipv6("00", "3c00 010400000000 2c00 010400000000 3a000000 00000001 8000f7ff00010001"),
            "ipv6/hop-by-hop/destination-options/fragment/icmpv6",
        ),
        (ipv6("2c", "11000009 00000001 0102"), "ipv6/fragment/payload"),
        (
            ipv6("3a", "8700f7ff00000000 20010db8000000000000000000000002 0101020000000001"),
            "ipv6/icmpv6",
        ),
        (ipv6("3a", "0104f7ff00000000 6000000000103a40 20010db800000000"), "ipv6/icmpv6/ipv6"),
        ((LinkType::NULL, hex(&format!("02000000{inner}"))), "null/ipv4/icmp"),
        (
            (LinkType::LINUX_SLL, hex(&format!("0000 0001 0006 0200000000010000 0800{inner}"))),
            "sll/ipv4/icmp",
        ),
        (
            (
                LinkType::LINUX_SLL2,
                hex(&format!("0800 0000 00000001 0001 00 06 0200000000010000 {inner}")),
            ),
            "sll/ipv4/icmp",
        ),
    ];
    samples.into_iter().map(|((link, bytes), layers)| (link, bytes, layers)).collect()
}

#[test]
fn every_layer_is_found_in_its_place() {
    for (link, bytes, layers) in samples() {
        let found = dissect(link, &bytes, bytes.len());
        assert_eq!((found.to_string().as_str(), found.end), (layers, End::Whole), "{found:?}");
    }
}

#[test]
fn fields_are_those_of_the_packet() {
    let (link, bytes, _) = samples().into_iter().find(|sample| sample.2 == "ipv4/udp/dns").unwrap();
    let found = dissect(link, &bytes, bytes.len());
    let shown = |layer: usize, field| found.layers[layer].field(field).unwrap().to_string();
    assert_eq!((shown(0, "source"), shown(0, "ttl")), ("192.0.2.1".into(), "64".into()));
    assert_eq!(shown(0, "checksum_status"), "wrong");
    assert_eq!((shown(1, "source"), shown(1, "destination")), ("54321".into(), "53".into()));
    assert_eq!((shown(2, "id"), shown(2, "question")), ("0xabcd".into(), "net type 1".into()));
    assert_eq!(shown(2, "answer"), "net 192.0.2.1");
    assert_eq!(found.layers[2].field("there is none"), None);
}

#[test]
fn a_packet_cut_anywhere_is_cut_and_one_that_was_never_longer_lies() {
    for (link, bytes, layers) in samples() {
        for end in 0..bytes.len() {
            let cut = dissect(link, &bytes[..end], bytes.len());
            let names = cut.to_string();
            let prefix = names.strip_suffix("/payload").unwrap_or(&names);
            assert!(layers.starts_with(prefix), "{layers} to {end}: {names}");
            // Where the padding or a quotation was cut, nothing is missing that is shown.
            assert!(matches!(cut.end, End::Cut | End::Whole), "{layers} to {end}: {cut:?}");
            assert!(
                end >= bytes.len() / 2 || cut.end == End::Cut || layers.contains("icmp"),
                "{cut:?}"
            );
            let short = dissect(link, &bytes[..end], end);
            assert!(matches!(short.end, End::Whole | End::Dropped(_)), "{layers} to {end}");
        }
    }
}

#[test]
fn each_contradiction_has_its_reason() {
    let ethernet = |rest: &str| hex(&format!("{ETHERNET}{rest}"));
    let ip = "4500001c00010000401100007f0000017f000001";
    let cases = [
        (ethernet("08"), DropReason::SHORT),
        (ethernet("0800 45"), DropReason::SHORT),
        (ethernet("0030 aaaa03"), TRUNCATED),
        (ethernet(&format!("0800 5{}", &ip[1..])), DropReason::MALFORMED),
        (ethernet(&format!("0800 44{}", &ip[2..])), DropReason::MALFORMED),
        (ethernet(&format!("0800 {ip} 0001000200090000")), TRUNCATED),
        (ethernet(&format!("0800 {ip} 0001000200070000")), DropReason::MALFORMED),
        (ethernet("86dd 70000000 0000 3b 40"), DropReason::SHORT),
        (ethernet("0806 0001080006040001 0200"), DropReason::SHORT),
        (ethernet("8847 00010040"), DropReason::SHORT),
        (ethernet(&"8100 0001".repeat(40)), TOO_DEEP),
    ];
    for (bytes, reason) in cases {
        assert_eq!(dissect(LinkType::ETHERNET, &bytes, bytes.len()).end, End::Dropped(reason));
    }
    assert_eq!(dissect(LinkType(9999), &[1, 2], 2).end, End::Dropped(UNKNOWN_LINK));
}

#[test]
fn a_name_of_pointers_to_pointers_ends() {
    // Each points to the one before it, and every question begins with the last.
    let pointers = (0..2000_u16).flat_map(|n| (0xc000 | (12 + 2 * n)).to_be_bytes());
    let message = [hex("abcd 0100 ffff 0000 0000 0000 0000"), pointers.collect()].concat();
    let mut at = message.len() - 2;
    assert_eq!(crate::dns::read_name(&message, &mut at), None);
    let udp = [hex("0001 0035 0000 0000"), message].concat();
    let ip = [hex("4500 0000 00000000 4011 0000 7f000001 7f000002"), udp].concat();
    let chain = testing::pool().chain_from(&ip).unwrap();
    let found = Dissector::new().dissect(LinkType::RAW, chain, ip.len());
    assert_eq!(
        (found.to_string().as_str(), found.end),
        ("ipv4/udp/dns", End::Dropped(DropReason::SHORT))
    );
}

#[test]
fn a_segment_of_dns_that_is_no_whole_message_is_payload() {
    for rest in ["00", "0030 abcd", "0002 abcd", "000c abcd 0100 0001 0000 0000 0000"] {
        let tcp = format!("d431003500000001000000005018ffff00000000{rest}");
        let len = 20 + hex(&tcp).len();
        let ip = format!("4500{len:04x}12340000 40060000 c0000201 c0000202 {tcp}");
        let found = dissect(LinkType::RAW, &hex(&ip), hex(&ip).len());
        assert!(found.to_string().starts_with("ipv4/tcp/dns"), "{rest}");
        assert_eq!(found.end, End::Whole, "{rest}");
    }
}

#[test]
fn what_a_packet_can_make_us_keep_is_bounded() {
    // A message of questions, two bytes of name each.
    let questions = [hex("abcd 0100 ffff 0000 0000 0000"), [0, 0, 1, 0, 1].repeat(13_000)].concat();
    let udp = [hex("0001 0035 0000 0000"), questions].concat();
    let ip = [hex("4500 0000 00000000 4011 0000 7f000001 7f000002"), udp].concat();
    let chain = testing::pool().chain_from(&ip).unwrap();
    let found = Dissector::new().dissect(LinkType::RAW, chain, ip.len());
    assert_eq!(found.layers.last().unwrap().fields.len(), MOST_FIELDS);
}

proptest! {
    #[test]
    fn nothing_that_is_captured_makes_it_panic(
        link in prop::sample::select(vec![0_u16, 1, 12, 101, 108, 113, 228, 276, 147]),
        which in 0..24_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..80),
        missing in 0..100_usize,
    ) {
        let samples = samples();
        let (own, mut bytes, _) = samples[which % samples.len()].clone();
        bytes.extend(tail);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        for link in [own, LinkType(link)] {
            let found = dissect(link, &bytes, bytes.len() + missing);
            prop_assert!(found.layers.len() <= MOST_LAYERS + 1);
        }
    }
}
