//! Framing: by the packet, by the byte, and by every cut between them.

use mbuf::{
    Class, Pool,
    stack::Closing,
    testing::{self, Conformance, Starve},
};
use proptest::prelude::*;

use super::*;
use crate::{
    Echo,
    rig::{Inbox, PORT, Rig},
};

/// A question to a name server over TCP, as captured: the A records of example.com.
const DNS: &[u8] = b"\x00\x1d\x5a\x1f\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
    \x07example\x03com\x00\x00\x01\x00\x01";

fn listening(pool: &Pool, framing: Framing) -> (Rig, Inbox) {
    let inbox = Inbox::default();
    let layers: Vec<Box<dyn Protocol>> = vec![Box::new(framing), inbox.layer()];
    (Rig::new(pool, Edge::Bytes, layers), inbox)
}

fn echoing(pool: &Pool, framing: Framing) -> Rig {
    Rig::new(pool, Edge::Bytes, vec![Box::new(framing), Box::new(Echo::new())])
}

/// What a stream of these messages looks like, written in the plainest way.
fn stream_of(prefix: Prefix, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = Vec::new();
    for message in messages {
        let n = message.len() as u32;
        match prefix {
            Prefix::U8 => stream.push(n as u8),
            Prefix::U16Be => stream.extend([(n >> 8) as u8, n as u8]),
            Prefix::U16Le => stream.extend([n as u8, (n >> 8) as u8]),
            Prefix::U32Be => stream.extend(n.to_be_bytes()),
            Prefix::U32Le => stream.extend(n.to_le_bytes()),
            Prefix::Varint => {
                let groups = (1..5).find(|groups| n >> (7 * groups) == 0).unwrap_or(5);
                for i in 0..groups {
                    let more = if i + 1 < groups { 0x80 } else { 0 };
                    stream.push((n >> (7 * i)) as u8 & 0x7f | more);
                }
            }
        }
        stream.extend(message);
    }
    stream
}

#[test]
fn a_captured_question_to_a_name_server_is_parsed_and_built_again() {
    let pool = testing::pool();
    let (mut rig, inbox) = listening(&pool, Framing::new(Prefix::U16Be, 512).unwrap());
    rig.feed(DNS);
    assert_eq!(inbox.take(), [&DNS[2..]]);
    rig.finish();

    let mut rig = echoing(&pool, Framing::new(Prefix::U16Be, 512).unwrap());
    rig.feed(DNS);
    assert_eq!(rig.sent(), [DNS]);
    rig.finish();
}

#[test]
fn lengths_are_written_as_the_books_say() {
    let cases: [(Prefix, usize, &[u8]); 10] = [
        (Prefix::U8, 255, &[0xff]),
        (Prefix::U16Be, 0x1234, &[0x12, 0x34]),
        (Prefix::U16Le, 0x1234, &[0x34, 0x12]),
        (Prefix::U32Be, 0x0123_4567, &[0x01, 0x23, 0x45, 0x67]),
        (Prefix::U32Le, 0x0123_4567, &[0x67, 0x45, 0x23, 0x01]),
        // Protocol Buffers, "Encoding", and DWARF 5, figure 22.
        (Prefix::Varint, 1, &[0x01]),
        (Prefix::Varint, 127, &[0x7f]),
        (Prefix::Varint, 150, &[0x96, 0x01]),
        (Prefix::Varint, 12_857, &[0xb9, 0x64]),
        (Prefix::Varint, 0xffff_fffa, &[0xfa, 0xff, 0xff, 0xff, 0x0f]),
    ];
    for (prefix, payload, wire) in cases {
        let mut room = [0; LONGEST_PREFIX];
        let len = prefix.write(payload, &mut room);
        assert_eq!(&room[..len], wire, "{prefix:?} {payload}");
        assert!(len <= prefix.longest(payload));
        assert_eq!(prefix.parse(wire), Parsed::Frame { prefix: wire.len(), payload });
        for cut in 0..wire.len() {
            assert_eq!(prefix.parse(&wire[..cut]), Parsed::More, "{prefix:?} cut at {cut}");
        }
    }
}

#[test]
fn a_maximum_that_the_prefix_cannot_say_is_refused_by_the_numbers() {
    for prefix in Prefix::ALL {
        assert!(Framing::new(prefix, prefix.capacity()).is_ok());
        for max in [0, prefix.capacity() + 1, usize::MAX] {
            let error = Framing::new(prefix, max).unwrap_err().to_string();
            assert!(error.contains(&max.to_string()), "{error}");
            assert!(error.contains(&prefix.capacity().to_string()), "{error}");
        }
    }
}

#[test]
fn malformed_varints_break_the_stream_and_are_counted() {
    let bad: [&[u8]; 6] = [
        &[0x80, 0x00],
        &[0x81, 0x80, 0x00],
        &[0xff, 0xff, 0xff, 0xff, 0x80],
        &[0xff, 0xff, 0xff, 0xff, 0x10],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x80, 0x80, 0x80, 0x80, 0x00],
    ];
    let pool = testing::pool();
    for wire in bad {
        for cut in 0..wire.len() {
            let (mut rig, inbox) = listening(&pool, Framing::new(Prefix::Varint, 64).unwrap());
            rig.feed(&[1, b'x']);
            rig.feed(&wire[..cut]);
            rig.feed(&wire[cut..]);
            assert_eq!(inbox.take(), [b"x"], "what was whole before has arrived");
            assert_eq!(rig.closing(), Closing::Abort(BAD_PREFIX), "{wire:02x?}");
            assert!(rig.drops("framing", BAD_PREFIX) > 0);
            rig.feed(&[1, b'y']);
            assert_eq!(inbox.take(), [[0u8; 0]; 0], "nothing is read after that");
            rig.finish();
        }
    }
}

#[test]
fn a_frame_over_the_maximum_breaks_the_stream_before_its_payload_is_held() {
    let pool = testing::pool();
    for prefix in Prefix::ALL {
        let (mut rig, inbox) = listening(&pool, Framing::new(prefix, 100).unwrap());
        rig.feed(&stream_of(prefix, &[vec![7; 100], vec![8; 101]]));
        assert_eq!(inbox.take(), [[7; 100]], "{prefix:?}");
        assert_eq!(rig.closing(), Closing::Abort(FRAME_TOO_LONG));
        assert_eq!(rig.stack.held().footprint, 0);
        assert!(rig.drops("framing", FRAME_TOO_LONG) > 0);
        rig.finish();
    }
    // The prefix alone is enough, and no memory is taken on its word.
    let (mut rig, _) = listening(&pool, Framing::new(Prefix::U32Be, 1 << 30).unwrap());
    let before = pool.stats().in_use();
    rig.feed(&(1u32 << 30).to_be_bytes());
    assert!(pool.stats().in_use() <= before + 1);
    assert_eq!(rig.closing(), Closing::Open);
    rig.finish();
    let (mut rig, _) = listening(&pool, Framing::new(Prefix::U32Be, 1 << 30).unwrap());
    rig.feed(&u32::MAX.to_be_bytes());
    assert_eq!(rig.closing(), Closing::Abort(FRAME_TOO_LONG));
    rig.finish();
}

#[test]
fn a_packet_over_the_maximum_is_refused_and_the_stream_goes_on() {
    struct Sender(Vec<usize>);
    impl Protocol for Sender {
        fn name(&self) -> &str {
            "sender"
        }
        fn info(&self) -> LayerInfo {
            LayerInfo::new(Edge::Packets, Edge::Any)
        }
        fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            cx.consumed(chain)
        }
        fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            cx.down(chain)
        }
        fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
            if signal == Signal::Opened {
                for len in self.0.drain(..) {
                    let chain = cx.pool().chain_zeroed(len).unwrap();
                    cx.made(1);
                    cx.send_down(chain);
                }
            }
        }
    }
    let pool = testing::pool();
    let framing = Framing::new(Prefix::U8, 20).unwrap();
    let sender = Sender(vec![20, 21, 3000, 0, 1]);
    let mut rig = Rig::new(&pool, Edge::Bytes, vec![Box::new(framing), Box::new(sender)]);
    let wire = stream_of(Prefix::U8, &[vec![0; 20], vec![], vec![0; 1]]);
    assert_eq!(rig.sent().concat(), wire);
    assert_eq!(rig.drops("framing", PACKET_TOO_LONG), 2);
    assert_eq!(rig.closing(), Closing::Open);
    rig.finish();
}

#[test]
fn every_way_to_cut_a_stream_gives_the_same_packets() {
    let messages = [b"ab".to_vec(), vec![], b"cde".to_vec(), b"f".to_vec()];
    let pool = testing::pool();
    for prefix in [Prefix::U8, Prefix::U16Be, Prefix::Varint] {
        let stream = stream_of(prefix, &messages);
        let (mut rig, inbox) = listening(&pool, Framing::new(prefix, 3).unwrap());
        for cuts in 0u32..1 << (stream.len() - 1) {
            let mut from = 0;
            for to in 1..=stream.len() {
                if to == stream.len() || cuts & 1 << (to - 1) != 0 {
                    rig.feed(&stream[from..to]);
                    from = to;
                }
            }
            assert_eq!(inbox.take(), messages, "{prefix:?}, cut pattern {cuts:b}");
            assert_eq!(rig.stack.held().chains, 0);
        }
        rig.finish();
    }
}

#[test]
fn one_byte_segments_make_no_difference() {
    let messages: Vec<Vec<u8>> =
        [0, 1, 5, 127, 128, 200].iter().map(|n| (0..*n).collect()).collect();
    let pool = testing::pool();
    for prefix in Prefix::ALL {
        let stream = stream_of(prefix, &messages);
        // A chain a byte.
        let mut rig = echoing(&pool, Framing::new(prefix, 200).unwrap());
        for byte in &stream {
            rig.feed(std::slice::from_ref(byte));
        }
        assert_eq!(rig.sent().concat(), stream, "{prefix:?}");
        // One chain, a segment a byte.
        rig.feed_chain(testing::bytewise(&pool, &stream).unwrap());
        assert_eq!(rig.sent().concat(), stream, "{prefix:?}");
        rig.finish();
    }
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_truncated_wherever_it_ends() {
    let pool = testing::pool();
    let messages = [b"one".to_vec(), b"three".to_vec()];
    for prefix in Prefix::ALL {
        let stream = stream_of(prefix, &messages);
        let first = stream_of(prefix, &messages[..1]).len();
        for end in 0..=stream.len() {
            let (mut rig, inbox) = listening(&pool, Framing::new(prefix, 9).unwrap());
            rig.feed(&stream[..end]);
            rig.end();
            let whole = if end == stream.len() { 2 } else { usize::from(end >= first) };
            assert_eq!(inbox.take(), messages[..whole]);
            assert!(inbox.signals().contains(&Signal::EndOfStream));
            let inside = end != 0 && end != first && end != stream.len();
            assert_eq!(rig.drops("framing", TRUNCATED), u64::from(inside), "{prefix:?} {end}");
            assert_eq!(rig.stack.held().chains, 0);
            rig.finish();
        }
    }
}

#[test]
fn what_is_held_for_a_slow_frame_stays_within_four_times_its_bytes() {
    let pool = Pool::builder()
        .count(Class::Small, 4096)
        .count(Class::K2, 1024)
        .count(Class::K16, 64)
        .count(Class::K64, 8)
        .build()
        .unwrap();
    let frame = stream_of(Prefix::U32Be, &[vec![9; 60_000]]);
    let (mut rig, inbox) = listening(&pool, Framing::new(Prefix::U32Be, 60_000).unwrap());
    let mut at = 0;
    for size in [1, 2, 3, 100, 1460].into_iter().cycle() {
        // Each piece comes in the cluster that a reader posted for it.
        let piece = &frame[at..frame.len().min(at + size)];
        let mut chain = pool.chain_in(Class::K2, 0).unwrap();
        chain.extend_from_slice(piece).unwrap();
        rig.feed_chain(chain);
        at += piece.len();
        if at == frame.len() {
            break;
        }
        let held = rig.stack.held();
        assert_eq!(held.chains, 1);
        assert!(held.footprint <= (4 * at).max(SMALLEST), "{} for {at} bytes", held.footprint);
    }
    assert_eq!(inbox.take(), [&frame[4..]]);
    rig.finish();
}

#[test]
fn the_drain_signal_gives_storage_back() {
    let pool = testing::plain_pool();
    let (mut rig, inbox) = listening(&pool, Framing::new(Prefix::U16Be, 1500).unwrap());
    let frame = stream_of(Prefix::U16Be, &[vec![1; 1500]]);
    for piece in [&frame[..700], &frame[700..1400]] {
        // At the end of their clusters, so that neither has room for the other.
        let mut chain = pool.chain_in(Class::K2, 2048 - 700).unwrap();
        chain.extend_from_slice(piece).unwrap();
        rig.feed_chain(chain);
    }
    let before = rig.stack.held().footprint;
    rig.stack.signal(Signal::Drain);
    let after = rig.stack.held().footprint;
    assert!(before > 3 * 1400 && after <= 2 * 1400, "{before} before, {after} after");
    rig.feed(&frame[1400..]);
    assert_eq!(inbox.take(), [[1; 1500]]);
    rig.finish();
}

#[test]
fn a_peer_that_sends_a_byte_a_second_is_cut_off_in_time() {
    let second = Duration::from_secs(1);
    let pool = testing::pool();
    let stream = stream_of(Prefix::U16Be, &[vec![1; 5], vec![2; 20]]);
    let framing = || Framing::new(Prefix::U16Be, 100).unwrap();
    let (mut rig, inbox) = listening(&pool, framing().complete_within(10 * second));
    let mut fed = 0;
    while rig.closing() == Closing::Open {
        rig.feed(&stream[fed..fed + 1]);
        fed += 1;
        rig.settle(second);
    }
    assert_eq!(inbox.take(), [[1; 5]], "a frame that takes seven seconds is in time");
    assert_eq!(rig.closing(), Closing::Abort(FRAME_TIMEOUT));
    assert_eq!(fed, 7 + 10);
    assert_eq!(rig.stack.held().chains, 0);
    assert_eq!(rig.stack.next_timeout(), None);
    rig.finish();

    // Without the limit it may take for ever, and no timer runs.
    let (mut rig, inbox) = listening(&pool, framing());
    for byte in &stream {
        rig.feed(std::slice::from_ref(byte));
        assert_eq!(rig.stack.next_timeout(), None);
    }
    assert_eq!(inbox.len(), 2);
    rig.finish();
}

#[test]
fn a_read_full_of_tiny_frames_comes_no_faster_than_its_answers_drain() {
    let pool = testing::pool();
    let framing = Framing::new(Prefix::U8, 8).unwrap();
    let mut builder = mbuf::stack::Stack::builder(&pool);
    let bottom = builder.layer(framing);
    let top = builder.layer(Echo::new());
    builder.stack(bottom, top);
    builder.port(Edge::Bytes, bottom);
    builder.egress(BURST / 2, 4 * BURST, 4096);
    let mut stack = builder.build().unwrap();
    stack.open();
    let mut rig = Rig { pool: pool.clone(), stack };

    let stream = stream_of(Prefix::U8, &vec![vec![]; 3000]);
    rig.feed(&stream);
    let most = rig.stack.poll_output(PORT).len();
    assert!((1..=BURST).contains(&most), "{most} answers at once");
    assert!(!rig.stack.wants_input(PORT), "it has stopped reading");
    let echoed = rig.settle(Duration::from_secs(1));
    assert_eq!(echoed.len(), stream.len());
    assert_eq!(rig.closing(), Closing::Open);
    assert!(rig.stack.wants_input(PORT));
    rig.finish();
}

#[test]
fn an_empty_pool_stops_the_reading_and_loses_nothing() {
    let pool = testing::plain_pool();
    let messages: Vec<Vec<u8>> = (0..20).map(|n| vec![n; 30]).collect();
    let stream = stream_of(Prefix::U16Be, &messages);
    let (mut rig, inbox) = listening(&pool, Framing::new(Prefix::U16Be, 100).unwrap());
    let first = pool.chain_from(&stream[..301]).unwrap();
    let second = pool.chain_from(&stream[301..]).unwrap();
    let starve = Starve::leave(&pool, 0, 0);
    rig.feed_chain(first);
    assert!(!rig.stack.wants_input(PORT));
    rig.feed_chain(second);
    let before = inbox.len();
    assert!(before < messages.len());
    drop(starve);
    rig.settle(Duration::from_secs(1));
    assert_eq!(inbox.take(), messages);
    assert!(rig.stack.wants_input(PORT));
    assert_eq!(rig.closing(), Closing::Open);
    rig.finish();
}

#[test]
fn a_stream_that_ends_while_there_are_no_buffers_is_an_error_by_name() {
    let pool = testing::plain_pool();
    let (mut rig, _inbox) = listening(&pool, Framing::new(Prefix::U16Be, 100).unwrap());
    let stream = stream_of(Prefix::U16Be, &vec![vec![1; 50]; 20]);
    let chain = pool.chain_from(&stream).unwrap();
    let starve = Starve::leave(&pool, 0, 0);
    rig.feed_chain(chain);
    rig.end();
    assert_eq!(rig.closing(), Closing::Abort(DropReason::NO_BUFFERS));
    assert_eq!(rig.stack.held().chains, 0);
    drop(starve);
    rig.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_sent_comes_back(
        which in 0..Prefix::ALL.len(),
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..256), 0..20),
        pieces in prop::collection::vec(1usize..300, 1..40),
        batched in any::<bool>(),
    ) {
        let prefix = Prefix::ALL[which];
        let stream = stream_of(prefix, &messages);
        let mut cut = Vec::new();
        let mut rest = &stream[..];
        for piece in pieces.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(piece.min(rest.len()));
            cut.push(piece);
            rest = after;
        }
        let pool = testing::pool();
        let mut rig = echoing(&pool, Framing::new(prefix, 255).unwrap());
        if batched {
            rig.feed_batch(&cut);
        } else {
            cut.iter().for_each(|piece| rig.feed(piece));
        }
        prop_assert_eq!(rig.sent().concat(), stream);
        rig.finish();
    }

    #[test]
    fn no_bytes_are_too_strange(
        which in 0..Prefix::ALL.len(),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
    ) {
        let pool = testing::pool();
        let prefix = Prefix::ALL[which];
        let (mut rig, inbox) = listening(&pool, Framing::new(prefix, 40).unwrap());
        for piece in &pieces {
            rig.feed(piece);
            prop_assert!(rig.stack.held().footprint <= 4 * 45 + SMALLEST);
        }
        rig.end();
        let received = inbox.take();
        prop_assert!(received.iter().all(|message| message.len() <= 40));
        // What came up, written again, is where the stream started.
        let written = stream_of(prefix, &received);
        prop_assert_eq!(&pieces.concat()[..written.len()], &written[..]);
        rig.finish();
    }
}

#[test]
fn conforms() {
    for prefix in Prefix::ALL {
        let max = if prefix == Prefix::U8 { 255 } else { 1024 };
        Conformance::new("framing", move || Box::new(Framing::new(prefix, max).unwrap()) as _)
            .max_message(max)
            .run();
    }
}
