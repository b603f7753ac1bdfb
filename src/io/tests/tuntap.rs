//! What a TUN or TAP does with its buffers and with single packets, over a pair of sockets in the
//! place of the kernel. `tests/tuntap` has the kernel.

use std::os::unix::net::UnixDatagram;

use super::*;
use crate::{
    chain::checksum,
    io::{
        TunTap, TunTapKind,
        faults::{self, Call, Fault},
    },
    meta::Offload,
};

fn pair(kind: TunTapKind, mtu: usize, header: bool) -> (TunTap, UnixDatagram) {
    let (here, there) = UnixDatagram::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    there.set_nonblocking(true).unwrap();
    (TunTap::over(here.into(), kind, mtu, header), there)
}

fn headed(bytes: &[u8]) -> Vec<u8> {
    [&[0; 10], bytes].concat()
}

/// UDP over IPv4, with the sum of the pseudo header where the checksum is to be.
fn partial(pool: &Pool) -> Chain {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum = checksum::Sum::ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 12);
    packet.extend([0, 7, 0, 9, 0, 12]);
    packet.extend(sum.fold().to_be_bytes());
    packet.extend([1, 2, 3, 4]);
    let mut chain = pool.chain_from(&packet).unwrap();
    chain.meta_mut().set_transport_offset(20);
    chain.meta_mut().set_offload(Offload::CHECKSUM_PARTIAL);
    chain
}

#[test]
fn a_packet_keeps_no_more_storage_than_it_needs() {
    let pool = pool();
    let receiver = pool.receiver();
    let (mut tun, peer) = pair(TunTapKind::Tun, 1_500, true);
    // Up to a cluster of 2 KiB; then a little more, in a buffer of its size; then a large one.
    for (len, most) in [(60, 2_400), (1_900, 2_400), (5_000, 7_000), (24_000, 69_000)] {
        let bytes = pattern(len, len);
        peer.send(&headed(&bytes)).unwrap();
        let chains = recv_chains(&mut tun, &receiver, 1);
        assert_eq!(chains[0].to_vec().unwrap(), bytes);
        assert!(chains[0].footprint() <= most, "{len} bytes: {}", chains[0].footprint());
        chains[0].check().unwrap();
    }
    assert_eq!((tun.stats().received, tun.stats().copied), (4, 1));
    assert!(tun.is_drained());
    tun.release();
    receiver.flush();
    pool.flush();
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn a_packet_longer_than_the_mtu_is_dropped_and_counted_and_the_next_is_not() {
    let pool = pool();
    let receiver = pool.receiver();
    let (mut tap, peer) = pair(TunTapKind::Tap, 3_000, false);
    peer.send(&pattern(1, 3_023)).unwrap();
    peer.send(&pattern(2, 3_022)).unwrap();
    let chains = recv_chains(&mut tap, &receiver, 1);
    assert_eq!(chains[0].to_vec().unwrap(), pattern(2, 3_022));
    // Within 2 KiB, what is longer than the MTU fits all the same.
    let (mut tap, peer) = pair(TunTapKind::Tap, 1_500, false);
    peer.send(&pattern(3, 2_048)).unwrap();
    peer.send(&pattern(4, 1_522)).unwrap();
    let chains = recv_chains(&mut tap, &receiver, 1);
    assert_eq!(chains[0].to_vec().unwrap(), pattern(4, 1_522));
    assert_eq!((tap.stats().truncated, tap.stats().received), (1, 1));
}

#[test]
fn a_pool_without_large_clusters_takes_long_packets_in_small_ones_or_drops_them() {
    let pool = Pool::builder().count(Class::Small, 200).count(Class::K2, 60).build().unwrap();
    let receiver = pool.receiver();
    let (mut tun, peer) = pair(TunTapKind::Tun, 1_500, true);
    peer.send(&headed(&pattern(1, 30_000))).unwrap();
    assert_eq!(recv_chains(&mut tun, &receiver, 1)[0].to_vec().unwrap(), pattern(1, 30_000));
    drop(tun);

    let pool = Pool::builder().count(Class::Small, 40).count(Class::K2, 10).build().unwrap();
    let receiver = pool.receiver();
    let (mut tun, peer) = pair(TunTapKind::Tun, 1_500, true);
    peer.send(&headed(&pattern(1, 30_000))).unwrap();
    peer.send(&headed(&pattern(2, 1_500))).unwrap();
    assert_eq!(recv_chains(&mut tun, &receiver, 1)[0].to_vec().unwrap(), pattern(2, 1_500));
    assert_eq!((tun.stats().receive_too_long, tun.stats().received), (1, 1));
}

#[test]
fn packets_of_no_use_do_not_keep_a_receive_for_ever_and_errors_wait_for_what_was_received() {
    let pool = pool();
    let receiver = pool.receiver();
    let (mut tun, peer) = pair(TunTapKind::Tun, 1_500, true);
    // Nothing behind the header.
    for _ in 0..5 {
        peer.send(&headed(&[])).unwrap();
    }
    peer.send(&[1, 2, 3]).unwrap();
    let mut batch = Batch::new();
    assert_eq!(tun.recv(&receiver, &mut batch).unwrap(), Received::WouldBlock);
    assert_eq!(tun.stats().truncated, 6);

    peer.send(&headed(b"packet")).unwrap();
    let mut calls = 0;
    let broken = faults::inject(move |attempt| match attempt.call {
        Call::Readv => {
            calls += 1;
            if calls > 1 { Fault::Errno(libc::EBADFD) } else { Fault::None }
        }
        _ => Fault::None,
    });
    assert_eq!(tun.recv(&receiver, &mut batch).unwrap(), Received::Chains(1));
    let error = tun.recv(&receiver, &mut batch).unwrap_err();
    assert!(error.to_string().starts_with("readv from tun pair: EBADFD"), "{error}");
    drop(broken);
    assert_eq!(batch.len(), 1);
}

#[test]
fn a_partial_checksum_is_filled_in_where_the_device_does_not_and_left_where_it_does() {
    let pool = pool();
    for header in [false, true] {
        let (mut tun, peer) = pair(TunTapKind::Tun, 1_500, header);
        assert_eq!(tun.takes_partial_checksums(), header);
        let mut chain = partial(&pool);
        let before = chain.to_vec().unwrap();
        let shared = chain.share().unwrap();
        let mut queue = queue();
        queue.push(chain).unwrap();
        assert_eq!(tun.send(&mut queue).unwrap(), Sent::All);
        let mut bytes = [0; 100];
        let len = peer.recv(&mut bytes).unwrap();
        if header {
            let words = [0, 0, 20, 6].map(u16::to_ne_bytes).concat();
            assert_eq!(bytes[..10], [&[1, 0][..], &words].concat());
            assert_eq!(bytes[10..len], before);
        } else {
            let mut sum = checksum::Sum::ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 12);
            sum.add(&bytes[20..len]);
            assert_eq!((len, sum.checksum()), (32, 0));
            assert_eq!(shared.to_vec().unwrap(), before, "who shares it sees nothing of it");
        }
        assert_eq!(tun.stats().completed, u64::from(!header));
    }
}

#[test]
fn what_cannot_be_sent_is_dropped_by_name_and_the_next_is_sent() {
    let pool = pool();
    let segmented = |mut chain: Chain| {
        let offload = chain.meta().offload() | Offload::SEGMENTED;
        chain.meta_mut().set_offload(offload);
        chain.meta_mut().set_segment_size(2);
        chain
    };
    for header in [false, true] {
        let (mut tun, peer) = pair(TunTapKind::Tun, 1_500, header);
        let mut queue = queue();
        let mut unknown = partial(&pool);
        unknown.meta_mut().set_transport_offset(31);
        queue.push(unknown).unwrap();
        let mut whole = segmented(partial(&pool));
        whole.meta_mut().set_offload(Offload::SEGMENTED);
        queue.push(whole).unwrap();
        queue.push(segmented(partial(&pool))).unwrap();
        queue.push(pool.chain_from(&vec![0x45; 65_544]).unwrap()).unwrap();
        queue.push(pool.chain().unwrap()).unwrap();
        queue.push(pool.chain_from(b"next").unwrap()).unwrap();
        assert_eq!(tun.send(&mut queue).unwrap(), Sent::All);
        let dropped = tun.stats().dropped;
        assert_eq!(dropped.invalid, 1, "of no bytes");
        let not_offloaded = if header { 1 } else { 2 };
        assert_eq!((dropped.no_checksum_field, dropped.too_long), (1, 1));
        assert_eq!((dropped.not_offloaded, dropped.total()), (not_offloaded, 3 + not_offloaded));
        assert_eq!(tun.stats().segmented, u64::from(header));
        assert_eq!(tun.takes_segments(crate::io::Offloads::all()), header);
        let mut bytes = [0; 100];
        let mut last = Vec::new();
        while let Ok(len) = peer.recv(&mut bytes) {
            last = bytes[..len].to_vec();
        }
        assert_eq!(last[last.len() - 4..], *b"next");
    }
}

#[test]
fn errors_of_one_packet_drop_it_and_those_of_the_interface_keep_the_queue() {
    let pool = pool();
    let (mut tun, peer) = pair(TunTapKind::Tun, 1_500, false);
    let cases = [(libc::EIO, "down"), (libc::EINVAL, "invalid"), (libc::EFAULT, "fault")];
    for (errno, reason) in cases {
        let mut queue = queue();
        queue.push(pool.chain_from(b"first").unwrap()).unwrap();
        queue.push(pool.chain_from(b"second").unwrap()).unwrap();
        let mut first = true;
        let broken = faults::inject(move |attempt| match attempt.call {
            Call::Writev if std::mem::take(&mut first) => Fault::Errno(errno),
            _ => Fault::None,
        });
        assert_eq!(tun.send(&mut queue).unwrap(), Sent::All);
        drop(broken);
        let counted = tun.stats().dropped.rows().into_iter().find(|row| row.0 == reason);
        assert_eq!(counted, Some((reason, 1)));
        let mut bytes = [0; 100];
        assert_eq!(peer.recv(&mut bytes).unwrap(), 6, "the second");
    }
    for errno in [libc::EAGAIN, libc::ENOBUFS, libc::EBADFD] {
        let mut queue = queue();
        queue.push(pool.chain_from(b"first").unwrap()).unwrap();
        let broken = faults::inject(move |_| Fault::Errno(errno));
        let sent = tun.send(&mut queue);
        drop(broken);
        assert_eq!(queue.len(), 1);
        if errno == libc::EBADFD {
            let error = sent.unwrap_err().to_string();
            assert!(error.starts_with("writev to tun pair: EBADFD"), "{error}");
        } else {
            assert_eq!(sent.unwrap(), Sent::WouldBlock);
            assert_eq!(tun.is_starved(), errno == libc::ENOBUFS);
        }
    }
}

#[test]
fn a_packet_of_more_segments_than_a_call_takes_is_brought_into_fewer() {
    let pool = pool();
    let (mut tun, peer) = pair(TunTapKind::Tun, 1_500, true);
    let bytes = pattern(0, 1_500);
    let mut queue = queue();
    queue.push(segmented(&pool, &bytes, &[1; 1_500])).unwrap();
    assert_eq!(tun.send(&mut queue).unwrap(), Sent::All);
    let mut got = [0; 2_000];
    let len = peer.recv(&mut got).unwrap();
    assert_eq!(got[10..len], bytes);
}
