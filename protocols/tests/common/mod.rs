//! Packets written by hand, for the tests of whole stacks.

// Not every test has a use for all of it.
#![allow(dead_code)]

pub mod host;

use std::net::Ipv6Addr;

use mbuf::chain::checksum;
use mbuf_protocols::net::{protocol, pseudo_header_v6};

pub fn frame(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

pub fn arp(operation: u8, from: ([u8; 6], [u8; 4]), to: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &from.0, &from.1, &to.0, &to.1].concat()
}

/// A datagram without options.
pub fn ip(
    id: u16,
    fragment: u16,
    number: u8,
    from: [u8; 4],
    to: [u8; 4],
    payload: &[u8],
) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let words = [total, id, fragment].map(u16::to_be_bytes).concat();
    let mut bytes = [&[0x45, 0][..], &words, &[64, number, 0, 0], &from, &to].concat();
    let sum = checksum::of(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, code, 0, 0][..], &rest, data].concat();
    let sum = checksum::of(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

pub fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), data: &[u8]) -> Vec<u8> {
    let len = 8 + data.len() as u16;
    let mut bytes = [from.1, to.1, len, 0].map(u16::to_be_bytes).concat();
    bytes.extend(data);
    let mut sum = checksum::Sum::ipv4(from.0.into(), to.0.into(), 17, len);
    sum.add(&bytes);
    bytes[6..8].copy_from_slice(&sum.checksum().to_be_bytes());
    bytes
}

/// An IPv6 packet of ICMPv6 or UDP, whose checksum is filled in. The extension headers say by `next`
/// which is the first of them, and end with `upper`.
pub fn ip6(
    (from, to): (Ipv6Addr, Ipv6Addr),
    hops: u8,
    (next, headers): (u8, &[u8]),
    upper: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let mut sum = pseudo_header_v6(from, to, upper.into(), payload.len() as u32);
    sum.add(&payload);
    let place = if u64::from(upper) == protocol::ICMPV6 { 2 } else { 6 };
    payload[place..place + 2].copy_from_slice(&sum.checksum().to_be_bytes());
    let len = (headers.len() + payload.len()) as u16;
    let mut bytes = [&[0x60, 0, 0, 0][..], &len.to_be_bytes(), &[next, hops]].concat();
    bytes.extend([from.octets(), to.octets()].concat());
    bytes.extend([headers, &payload].concat());
    bytes
}
