//! A network namespace for each test, the wire, and packets.

use std::{
    env,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mbuf::{
    Batch, Chain, Pool, Receiver,
    chain::checksum::{self, Sum},
    io::{Received, Source, TunTap, TunTapBuilder},
    meta::Offload,
};

/// Set for a test that is run again within a namespace.
const INSIDE: &str = "MBUF_TEST_NAMESPACE";

/// Runs the body in a network namespace of its own, which is gone with its thread: as root in that
/// thread alone; else the test is run again by `unshare -rn`. Where neither can be had, or there is
/// no /dev/net/tun, says so by name; with `MBUF_REQUIRE_PEERS=1`, as in `.ci/run`, that is a failure.
pub fn in_namespace(test: &str, body: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        return missing(test, &format!("/dev/net/tun ({error})"));
    }
    let inside = env::var_os(INSIDE).is_some();
    let own = thread::Builder::new().name(test.to_owned()).spawn(move || {
        let there = inside || unshare_network().is_ok();
        if there {
            body();
        }
        there
    });
    match own.unwrap().join() {
        Ok(true) => return,
        Ok(false) => {}
        Err(panic) => std::panic::resume_unwind(panic),
    }
    let again = Command::new("unshare")
        .arg("-rn")
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output();
    match again {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let mut stderr = io::stderr();
            for line in text.lines().filter(|line| line.starts_with("SKIPPED")) {
                writeln!(stderr, "{line}").unwrap();
            }
        }
        Ok(output) if String::from_utf8_lossy(&output.stderr).starts_with("unshare:") => {
            missing(test, "a network namespace (`unshare -rn` is refused)");
        }
        Ok(output) => panic!("{test} within `unshare -rn`: {output:?}"),
        Err(error) => missing(test, &format!("`unshare` ({error})")),
    }
}

/// Says that a test is left out, or fails where nothing may be.
pub fn missing(test: &str, what: &str) {
    let required = env::var_os("MBUF_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "{test}: there is no {what}, and MBUF_REQUIRE_PEERS is set");
    // Not `eprintln`, which the harness captures.
    let mut stderr = io::stderr();
    writeln!(stderr, "SKIPPED {test}: there is no {what}").unwrap();
}

/// A network namespace of its own for this thread, in which nothing but the tests speaks.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: no memory is passed.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Without the kernel's own chatter over IPv6.
pub fn quiet() {
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
}

/// Addresses of IPv6 can be used soon: nobody else could have them.
pub fn without_detection() {
    std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
}

/// Waits until the kernel's work queue has made the address usable, ten seconds at most.
pub fn usable(address: IpAddr) {
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(error) = UdpSocket::bind((address, 0)) {
        assert!(Instant::now() < end, "{address}: {error}");
        thread::yield_now();
    }
}

/// The kernel's end, in a namespace.
pub const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
/// An address beyond the interface.
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);

/// The same over IPv6.
pub const KERNEL_6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1);
pub const OURS_6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);

/// A builder of an interface at [`KERNEL`].
pub fn interface() -> TunTapBuilder {
    TunTap::builder().name("mbuf%d").address(KERNEL.into(), 24)
}

pub fn pool() -> Pool {
    Pool::with_memory(32 << 20).unwrap()
}

/// Whether the descriptor is readable within so long.
pub fn readable(fd: &impl AsFd, within: Duration) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one struct pollfd, which outlives the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, within.as_millis() as i32) };
    ready > 0
}

/// The next packet for which `wanted` holds; others are forgotten. Ten seconds at most.
pub fn next(tun: &mut TunTap, receiver: &Receiver, wanted: impl Fn(&[u8]) -> bool) -> Chain {
    let mut batch = Batch::new();
    for _ in 0..1_000 {
        while let Some(chain) = batch.pop() {
            if wanted(&chain.to_vec().unwrap()) {
                return chain;
            }
        }
        match tun.recv(receiver, &mut batch).unwrap() {
            Received::Chains(_) => {}
            Received::WouldBlock => {
                assert!(readable(tun, Duration::from_secs(10)), "nothing comes from {tun}");
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("not among a thousand packets of {tun}");
}

/// Whether an IPv4 packet is of UDP.
pub fn is_udp(packet: &[u8]) -> bool {
    packet.len() > 28 && packet[0] == 0x45 && packet[9] == 17
}

/// UDP over IPv4, from [`OURS`] to [`KERNEL`]: whole, or with the checksum still to be filled in.
pub fn udp(pool: &Pool, from: u16, to: u16, payload: &[u8], partial: bool) -> Chain {
    let len = (8 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + len).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(OURS.octets());
    packet.extend(KERNEL.octets());
    let sum = checksum::of(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    for word in [from, to, len, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(payload);
    let mut sum = Sum::ipv4(OURS, KERNEL, 17, len);
    if !partial {
        sum.add(&packet[20..]);
    }
    let field = if partial { sum.fold() } else { sum.checksum() };
    packet[26..28].copy_from_slice(&field.to_be_bytes());
    // In several segments, none of which ends at a header.
    let mut chain = pool.chain_from(&packet[..25]).unwrap();
    chain.concat(pool.chain_from(&packet[25..]).unwrap()).unwrap();
    if partial {
        chain.meta_mut().set_transport_offset(20);
        chain.meta_mut().set_offload(Offload::CHECKSUM_PARTIAL);
    }
    chain
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}
