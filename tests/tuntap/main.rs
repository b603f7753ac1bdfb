//! TUN and TAP with the kernel at the other end, in network namespaces that are made for each test
//! and gone with it.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use mbuf::{
    Batch, Chain, Queue,
    chain::checksum,
    io::{Offloads, Received, Sent, Sink, Source, TunTap, TunTapKind, errno, reactor::Reactor},
    meta::Offload,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol, Stack},
};
use socket2::{Domain, Protocol as Number, SockAddr, Socket, Type};

mod support;

use support::*;

fn send(tun: &mut TunTap, chain: Chain) {
    let mut queue = Queue::new(1, 1 << 20);
    queue.push(chain).unwrap();
    assert_eq!(tun.send(&mut queue).unwrap(), Sent::All);
}

fn socket(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((KERNEL, port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

// ---------------------------------------------------------------------------------------------
// Ping

/// Answers ARP and ICMP echo requests, whatever the address.
struct Pong(TunTapKind);

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

impl Pong {
    fn answer(&self, packet: &mut [u8]) -> Option<()> {
        let link = if self.0 == TunTapKind::Tap { 14 } else { 0 };
        let (ethernet, packet) = packet.split_at_mut_checked(link)?;
        if link > 0 {
            ethernet.copy_within(6..12, 0);
            ethernet[6..12].copy_from_slice(&OUR_MAC);
        }
        if link > 0 && ethernet[12..14] == [8, 6] && packet.get(7) == Some(&1) {
            let asked: [u8; 4] = packet.get(24..28)?.try_into().ok()?;
            packet.copy_within(8..18, 18);
            packet[8..14].copy_from_slice(&OUR_MAC);
            packet[14..18].copy_from_slice(&asked);
            packet[7] = 2;
            return Some(());
        }
        if packet.first() != Some(&0x45) || packet.get(9) != Some(&1) || packet.get(20) != Some(&8)
        {
            return None;
        }
        let (one, other) = packet.split_at_mut(16);
        one[12..16].swap_with_slice(&mut other[..4]);
        packet[20] = 0;
        packet[22..24].fill(0);
        let sum = checksum::of(&packet[20..]);
        packet[22..24].copy_from_slice(&sum.to_be_bytes());
        Some(())
    }
}

impl Protocol for Pong {
    fn name(&self) -> &str {
        "pong"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Any)
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let mut bytes = chain.to_vec().unwrap();
        match self.answer(&mut bytes) {
            Some(()) if chain.copy_back(0, &bytes).is_ok() => cx.reply(chain),
            _ => cx.drop(chain, DropReason::UNBOUND),
        }
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}

/// Has a reactor answer on the interface while `ask` runs in this thread.
fn answering(tun: TunTap, ask: impl FnOnce()) {
    let pool = pool();
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let layers: Vec<Box<dyn Protocol>> = vec![Box::new(Pong(tun.kind()))];
    let stack = Stack::pile(&pool, Edge::Packets, layers).unwrap();
    reactor.attach(stack, vec![Box::new(tun)]).unwrap();
    let handle = reactor.handle();
    let running = thread::spawn(move || reactor.run().map(|()| reactor.stats()));
    ask();
    handle.shutdown().unwrap();
    let stats = running.join().unwrap().unwrap();
    assert!(stats.chains_in > 0 && stats.chains_out > 0, "{stats}");
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
}

/// Echo requests of several sizes by a socket of the kernel's, each answered with the same bytes.
fn echo_requests() {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Number::ICMPV4)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for (sequence, len) in [(1, 0), (2, 56), (3, 1_472)] {
        let mut request = vec![8, 0, 0, 0, 0x12, 0x34, 0, sequence];
        request.extend(pattern(len));
        let sum = checksum::of(&request);
        request[2..4].copy_from_slice(&sum.to_be_bytes());
        socket.send_to(&request, &SockAddr::from(std::net::SocketAddrV4::new(OURS, 0))).unwrap();
        let mut bytes = vec![0; 2_000];
        let len = (&socket).read(&mut bytes).unwrap();
        assert_eq!((bytes[20], &bytes[24..len]), (0, &request[4..]));
    }
}

fn ping(test: &'static str, kind: TunTapKind) {
    in_namespace(test, move || {
        quiet();
        let tun = match kind {
            TunTapKind::Tun => interface().tun().build().unwrap(),
            TunTapKind::Tap => interface().tap().build().unwrap(),
        };
        assert_eq!(
            (tun.kind(), tun.mtu(), tun.mac().is_some()),
            (kind, 1_500, kind == TunTapKind::Tap)
        );
        answering(tun, || {
            echo_requests();
            let address = OURS.to_string();
            let arguments = ["-c", "3", "-i", "0.01", "-W", "10", "-s", "1400", &address];
            match Command::new("ping").args(arguments).output() {
                Ok(output) => {
                    let text = String::from_utf8_lossy(&output.stdout);
                    assert!(text.contains(" 0% packet loss"), "{output:?}");
                }
                Err(error) => missing(test, &format!("`ping` ({error})")),
            }
        });
    });
}

#[test]
fn the_kernel_pings_us_on_a_tap() {
    ping("the_kernel_pings_us_on_a_tap", TunTapKind::Tap);
}

#[test]
fn the_kernel_pings_us_on_a_tun() {
    ping("the_kernel_pings_us_on_a_tun", TunTapKind::Tun);
}

// ---------------------------------------------------------------------------------------------
// Datagrams and offloads

#[test]
fn a_datagram_of_the_kernels_is_one_chain_and_one_of_ours_is_received() {
    in_namespace("a_datagram_of_the_kernels_is_one_chain_and_one_of_ours_is_received", || {
        quiet();
        let pool = pool();
        let receiver = pool.receiver();
        for offloads in [Offloads::empty(), Offloads::CHECKSUM] {
            let mut tun = interface().tun().offload(offloads).build().unwrap();
            let socket = socket(7_000);
            let payload = pattern(1_200);
            socket.send_to(&payload, (OURS, 9)).unwrap();
            let chain = next(&mut tun, &receiver, is_udp);
            assert_eq!((chain.len(), chain.segments()), (1_228, 1));
            assert_eq!(chain.to_vec().unwrap()[28..], payload);
            let meta = chain.meta();
            let partial = meta.offload().contains(Offload::CHECKSUM_PARTIAL);
            assert_eq!(partial, !offloads.is_empty());
            assert_eq!(meta.transport_offset(), if partial { 20 } else { 0 });

            for partial in [false, true] {
                let payload = pattern(999);
                send(&mut tun, udp(&pool, 9, 7_000, &payload, partial));
                let mut bytes = [0; 2_000];
                let (len, from) = socket.recv_from(&mut bytes).unwrap();
                assert_eq!((&bytes[..len], from), (&payload[..], (OURS, 9).into()));
            }
            // Without a header, the checksum was ours to fill in: the kernel has verified it.
            assert_eq!(tun.stats().completed, u64::from(offloads.is_empty()));
            assert_eq!(tun.stats().dropped.total(), 0);
        }
    });
}

#[test]
fn a_super_packet_of_udp_is_one_chain_both_ways() {
    in_namespace("a_super_packet_of_udp_is_one_chain_both_ways", || {
        quiet();
        let pool = pool();
        let receiver = pool.receiver();
        for kind in [TunTapKind::Tun, TunTapKind::Tap] {
            let builder = interface().offload(Offloads::all());
            let builder = if kind == TunTapKind::Tun { builder.tun() } else { builder.tap() };
            let mut tun = builder.build().unwrap();
            if !tun.offloads().contains(Offloads::USO) {
                return missing("a_super_packet_of_udp_is_one_chain_both_ways", "USO (Linux 6.2)");
            }
            let link = if kind == TunTapKind::Tap { 14 } else { 0 };
            let socket = socket(7_000);
            set_segment(&socket, 1_200);
            let payload = pattern(24_000);
            let sender = socket.try_clone().unwrap();
            let sent = payload.clone();
            // On a TAP the kernel asks for our MAC first.
            sender.send_to(&sent, (OURS, 9)).unwrap();
            if kind == TunTapKind::Tap {
                let request = next(&mut tun, &receiver, |frame| frame[12..14] == [8, 6]);
                let mut bytes = request.to_vec().unwrap();
                Pong(kind).answer(&mut bytes).unwrap();
                send(&mut tun, pool.chain_from(&bytes).unwrap());
            }
            let chain = next(&mut tun, &receiver, |packet| is_udp(&packet[link..]));
            assert_eq!(chain.len(), link + 28 + 24_000);
            assert_eq!(chain.to_vec().unwrap()[link + 28..], payload);
            let meta = chain.meta();
            let both = Offload::CHECKSUM_PARTIAL | Offload::SEGMENTED;
            assert_eq!((meta.offload(), meta.segment_size()), (both, 1_200));
            assert_eq!(usize::from(meta.transport_offset()), link + 20);

            let mut answer = udp(&pool, 9, 7_000, &payload, true);
            answer.meta_mut().set_offload(both);
            answer.meta_mut().set_segment_size(1_200);
            if kind == TunTapKind::Tap {
                let mut header = tun.mac().unwrap().to_vec();
                header.extend(OUR_MAC);
                header.extend([8, 0]);
                answer.prepend_slice(&header).unwrap();
                answer.meta_mut().set_transport_offset(34);
            }
            send(&mut tun, answer);
            let mut got = Vec::new();
            let mut bytes = [0; 65_536];
            for _ in 0..20 {
                let len = socket.recv(&mut bytes).unwrap();
                assert_eq!(len, 1_200);
                got.extend_from_slice(&bytes[..len]);
            }
            assert!(got == payload, "{kind}");
            let stats = tun.stats();
            assert_eq!((stats.joined, stats.segmented, stats.dropped.total()), (1, 1, 0));
        }
    });
}

/// UDP_SEGMENT.
fn set_segment(socket: &UdpSocket, bytes: i32) {
    use std::os::fd::AsRawFd;
    let fd = socket.as_raw_fd();
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value is an int that outlives the call, and `len` is its size.
    let answer = unsafe {
        libc::setsockopt(fd, libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const bytes).cast(), len)
    };
    assert_eq!(answer, 0);
}

/// Passes packets from one interface to the other, both ways, as they are, until told to stop.
/// Answers how many stood for several.
fn wire(mut ends: [TunTap; 2], stop: &AtomicBool) -> [mbuf::io::TunTapStats; 2] {
    let pool = pool();
    let receiver = pool.receiver();
    let (mut batch, mut queue) = (Batch::new(), Queue::new(1_000, 64 << 20));
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for from in [0, 1] {
            if ends[from].recv(&receiver, &mut batch).unwrap() != Received::WouldBlock {
                idle = false;
                batch.drain().for_each(|chain| queue.push(chain).unwrap());
                assert_eq!(ends[1 - from].send(&mut queue).unwrap(), Sent::All);
            }
        }
        if idle {
            readable(&ends[0], Duration::from_millis(1));
        }
    }
    [ends[0].stats(), ends[1].stats()]
}

/// TCP of the kernel's in one namespace with TCP of the kernel's in another, by two interfaces and
/// this process as the wire between them.
fn tcp_through(offloads: [Offloads; 2], ends: [IpAddr; 2]) -> [mbuf::io::TunTapStats; 2] {
    const BYTES: usize = 5_000_000;
    let (hand_over, other_end) = mpsc::channel();
    let server = thread::spawn(move || {
        // Within `unshare -rn` the test is root as well.
        unshare_network().expect("a second namespace");
        without_detection();
        let builder = TunTap::builder().tun().offload(offloads[1]);
        let tun = builder.address(ends[1], 24).build().unwrap();
        usable(ends[1]);
        let listener = TcpListener::bind((ends[1], 80)).unwrap();
        hand_over.send(tun).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    without_detection();
    let builder = TunTap::builder().tun().offload(offloads[0]);
    let here = builder.address(ends[0], 24).build().unwrap();
    usable(ends[0]);
    let there = other_end.recv().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    let wire = thread::spawn(move || wire([here, there], &stopping));
    let mut stream = TcpStream::connect((ends[1], 80)).unwrap();
    let sent = pattern(BYTES);
    stream.write_all(&sent).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == sent, "{} of {BYTES} bytes, or not the same", got.len());
    server.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    wire.join().unwrap()
}

const BOTH_IPS: [[IpAddr; 2]; 2] =
    [[IpAddr::V4(KERNEL), IpAddr::V4(OURS)], [IpAddr::V6(KERNEL_6), IpAddr::V6(OURS_6)]];

#[test]
fn tcp_goes_through_with_its_segments_joined() {
    in_namespace("tcp_goes_through_with_its_segments_joined", || {
        let all = Offloads::CHECKSUM | Offloads::TSO;
        for ends in BOTH_IPS {
            for stats in tcp_through([all; 2], ends) {
                assert!(stats.joined > 10 && stats.segmented > 10, "{stats}");
                assert_eq!((stats.dropped.total(), stats.completed), (0, 0), "{stats}");
            }
        }
    });
}

#[test]
fn tcp_goes_through_with_checksums_that_are_filled_in_here() {
    in_namespace("tcp_goes_through_with_checksums_that_are_filled_in_here", || {
        for ends in BOTH_IPS {
            let [_, there] = tcp_through([Offloads::CHECKSUM, Offloads::empty()], ends);
            assert!(there.completed > 1_000, "{there}");
            assert_eq!(there.dropped.total(), 0, "{there}");
        }
    });
}

// ---------------------------------------------------------------------------------------------
// Interfaces

#[test]
fn several_queues_share_the_flows_and_each_sends() {
    in_namespace("several_queues_share_the_flows_and_each_sends", || {
        quiet();
        let pool = pool();
        let receiver = pool.receiver();
        let mut queues = interface().tun().build_queues(3).unwrap();
        assert!(queues.iter().all(|queue| queue.name() == queues[0].name()));
        let sink = socket(7_000);
        for flow in 0..64 {
            let socket = socket(8_000 + flow);
            socket.send_to(b"flow", (OURS, 9)).unwrap();
        }
        let mut counts = [0; 3];
        let mut batch = Batch::new();
        while counts.iter().sum::<usize>() < 64 {
            for (queue, count) in queues.iter_mut().zip(&mut counts) {
                queue.recv(&receiver, &mut batch).unwrap();
                *count += batch.drain().filter(|chain| is_udp(&chain.to_vec().unwrap())).count();
            }
        }
        assert!(counts.iter().filter(|&&count| count > 0).count() > 1, "{counts:?}");
        for (at, queue) in queues.iter_mut().enumerate() {
            send(queue, udp(&pool, 9, 7_000, &[at as u8], false));
            let mut byte = [0];
            assert_eq!(sink.recv(&mut byte).unwrap(), 1);
            assert_eq!(usize::from(byte[0]), at);
        }
        // With one queue gone, the others go on.
        drop(queues.pop());
        send(&mut queues[0], udp(&pool, 9, 7_000, b"!", false));
        assert_eq!(sink.recv(&mut [0]).unwrap(), 1);
    });
}

#[test]
fn an_interface_is_set_up_as_it_was_asked_for() {
    in_namespace("an_interface_is_set_up_as_it_was_asked_for", || {
        let mac = [2, 1, 2, 3, 4, 5];
        let tap = interface()
            .name("mine")
            .mac(mac)
            .mtu(9_000)
            .address("fd07::1".parse().unwrap(), 64)
            .build()
            .unwrap();
        assert_eq!((tap.name(), tap.mtu(), tap.mac()), ("mine", 9_000, Some(mac)));
        assert_eq!((tap.to_string().as_str(), tap.kind()), ("tap mine", TunTapKind::Tap));
        let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        assert!(addresses.contains("fd070000000000000000000000000001"), "{addresses}");
        let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
        assert!(routes.contains("mine\t0000070A"), "{routes}");
        assert!(tap.index() > 0 && tap.offloads().is_empty() && !tap.takes_partial_checksums());
    });
}

#[test]
fn a_packet_longer_than_the_mtu_that_was_known_is_counted_and_the_next_comes() {
    let test = "a_packet_longer_than_the_mtu_that_was_known_is_counted_and_the_next_comes";
    in_namespace(test, || {
        quiet();
        let pool = pool();
        let receiver = pool.receiver();
        let mut tun = interface().name("grows").tun().multi_queue(true).build().unwrap();
        let other = interface().name("grows").tun().multi_queue(true).mtu(9_000).build().unwrap();
        assert_eq!((tun.mtu(), other.mtu()), (1_500, 9_000));
        drop(other);
        let socket = socket(7_000);
        for _ in 0..2 {
            socket.send_to(&pattern(8_000), (OURS, 9)).unwrap();
        }
        let chain = next(&mut tun, &receiver, is_udp);
        assert_eq!(chain.to_vec().unwrap()[28..], pattern(8_000));
        assert_eq!((tun.stats().truncated, tun.mtu()), (1, 9_000));
    });
}

#[test]
fn an_interface_that_is_down_drops_what_is_sent() {
    in_namespace("an_interface_that_is_down_drops_what_is_sent", || {
        let pool = pool();
        let mut tun = interface().tun().up(false).build().unwrap();
        send(&mut tun, udp(&pool, 9, 7_000, b"lost", false));
        assert_eq!((tun.stats().dropped.down, tun.stats().sent), (1, 0));
        let mut batch = Batch::new();
        assert_eq!(tun.recv(&pool.receiver(), &mut batch).unwrap(), Received::WouldBlock);
    });
}

#[test]
fn what_the_kernel_does_not_take_for_a_packet_is_dropped_alone() {
    in_namespace("what_the_kernel_does_not_take_for_a_packet_is_dropped_alone", || {
        quiet();
        let pool = pool();
        for header in [false, true] {
            let mut tun = interface().tun().vnet_hdr(header).build().unwrap();
            let socket = socket(7_000);
            let mut queue = Queue::new(10, 1 << 20);
            queue.push(pool.chain_from(b"\x10 not IP").unwrap()).unwrap();
            queue.push(pool.chain().unwrap()).unwrap();
            queue.push(udp(&pool, 9, 7_000, b"well", true)).unwrap();
            assert_eq!(tun.send(&mut queue).unwrap(), Sent::All);
            assert_eq!((tun.stats().dropped.invalid, tun.stats().sent), (2, 1));
            let mut bytes = [0; 10];
            assert_eq!(socket.recv(&mut bytes).unwrap(), 4);
        }
    });
}

/// Removes an interface by rtnetlink(7).
fn remove(index: u32) {
    let netlink = Domain::from(libc::AF_NETLINK);
    let socket = Socket::new(netlink, Type::RAW, Some(Number::from(0))).unwrap();
    let mut message = Vec::new();
    message.extend(32_u32.to_ne_bytes());
    message.extend(libc::RTM_DELLINK.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg
    message.extend([0; 4]);
    message.extend(index.to_ne_bytes());
    message.extend([0; 8]);
    assert_eq!(socket.send(&message).unwrap(), 32);
}

#[test]
fn an_interface_that_is_removed_under_us_is_an_error_by_name() {
    in_namespace("an_interface_that_is_removed_under_us_is_an_error_by_name", || {
        quiet();
        let pool = pool();
        let mut tun = interface().name("gone").tun().build().unwrap();
        remove(tun.index());
        assert!(readable(&tun, Duration::from_secs(10)), "whoever waits is woken");
        let mut batch = Batch::new();
        let error = tun.recv(&pool.receiver(), &mut batch).unwrap_err();
        assert_eq!(errno(&error), Some(libc::EBADFD));
        assert!(error.to_string().starts_with("readv from tun gone: EBADFD"), "{error}");
        let mut queue = Queue::new(1, 1 << 20);
        queue.push(udp(&pool, 9, 7_000, b"kept", false)).unwrap();
        let error = tun.send(&mut queue).unwrap_err();
        assert!(error.to_string().starts_with("writev to tun gone: EBADFD"), "{error}");
        assert_eq!(queue.len(), 1);
    });
}

#[test]
fn a_reactor_ends_the_session_of_an_interface_that_is_removed() {
    in_namespace("a_reactor_ends_the_session_of_an_interface_that_is_removed", || {
        quiet();
        let pool = pool();
        let tun = interface().tun().build().unwrap();
        let index = tun.index();
        let mut reactor = Reactor::builder(&pool).build().unwrap();
        let layers: Vec<Box<dyn Protocol>> = vec![Box::new(Pong(TunTapKind::Tun))];
        let stack = Stack::pile(&pool, Edge::Packets, layers).unwrap();
        reactor.attach(stack, vec![Box::new(tun)]).unwrap();
        reactor.poll(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(reactor.sessions(), 1);
        remove(index);
        for _ in 0..100 {
            reactor.poll(Some(Duration::from_millis(100))).unwrap();
            if reactor.sessions() == 0 {
                break;
            }
        }
        assert_eq!(reactor.sessions(), 0);
    });
}

#[test]
fn a_persistent_interface_outlives_its_queue() {
    in_namespace("a_persistent_interface_outlives_its_queue", || {
        let tap = interface().name("stays").persistent(true).build().unwrap();
        let index = tap.index();
        drop(tap);
        let again = TunTap::builder().name("stays").build().unwrap();
        assert_eq!(again.index(), index);
        again.set_persistent(false).unwrap();
        drop(again);
        let anew = TunTap::builder().name("stays").build().unwrap();
        assert_ne!(anew.index(), index);
    });
}

#[test]
fn what_cannot_be_set_up_says_what_and_why() {
    in_namespace("what_cannot_be_set_up_says_what_and_why", || {
        let taken = TunTap::builder().name("taken").build().unwrap();
        let fails = |builder: mbuf::io::TunTapBuilder| builder.build().unwrap_err().to_string();
        let error = fails(TunTap::builder().name("taken"));
        assert!(error.starts_with("TUNSETIFF tap taken: EBUSY"), "{error}");
        assert!(error.ends_with(": another process has it"), "{error}");
        let error = fails(TunTap::builder().name("taken").tun());
        assert!(error.starts_with("TUNSETIFF tun taken: EINVAL"), "{error}");
        assert!(error.contains("of another kind"), "{error}");
        let error = fails(TunTap::builder().name("small").mtu(10));
        assert!(error.starts_with("SIOCSIFMTU tap small: EINVAL"), "{error}");
        let error = fails(TunTap::builder().name("far_too_long_a_name"));
        assert_eq!(error, "\"far_too_long_a_name\" cannot be the name of an interface");
        let error = TunTap::builder().build_queues(0).unwrap_err().to_string();
        assert_eq!(error, "an interface of no queues");
        drop(taken);

        // Of this thread only, which ends with the test: it is nobody from here on.
        // SAFETY: no memory is passed.
        if unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) } == 0 {
            let error = fails(TunTap::builder().name("mine"));
            let denied = error.starts_with("open /dev/net/tun: EACCES")
                && error.ends_with(": needs permission to read and write it");
            let refused = error.starts_with("TUNSETIFF tap mine: EPERM (Operation not permitted)")
                && error.contains(": needs CAP_NET_ADMIN in this network namespace");
            assert!(denied || refused, "{error}");
        }
    });
}

#[test]
fn a_queue_can_be_polled_by_its_descriptor() {
    in_namespace("a_queue_can_be_polled_by_its_descriptor", || {
        quiet();
        let tun = interface().tun().build().unwrap();
        assert!(!readable(&tun.as_fd(), Duration::ZERO));
        socket(7_000).send_to(b"wakes", (OURS, 9)).unwrap();
        assert!(readable(&tun.as_fd(), Duration::from_secs(10)));
    });
}
