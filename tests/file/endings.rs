//! Ends that are not there, go away, or are sent away.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use mbuf::testing::Rng;

use crate::run::{BROKEN, INTERRUPTED, LONG, Place, Run, WHOLE, file};

#[test]
fn a_receiver_that_is_not_there_is_named() {
    let place = Place::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = file(["send", "--to", &nobody]);
    command.arg(place.write("x", b"x"));
    let sent = Run::start(command).end();
    sent.expect(BROKEN)
        .complains(&format!("no connection to {nobody}: ECONNREFUSED (Connection refused)"))
        .complains("file receive --listen");
    assert_eq!(sent.out, "");
    let mut command = file(["send", "--to", "no.such.host.invalid:7070"]);
    command.arg(place.at("x"));
    Run::start(command).end().expect(BROKEN).complains("no connection to no.such.host.invalid");
}

#[test]
fn somebody_who_speaks_another_protocol_is_told_apart() {
    let place = Place::new();
    let receiver = place.receive(&["--once"]);
    let mut other = TcpStream::connect(receiver.address).unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    receiver.end().expect(BROKEN).complains("broke off");
    assert_eq!(place.inbox(), [""; 0]);
}

#[test]
fn somebody_who_greets_and_says_no_more_is_given_up() {
    let place = Place::new();
    let receiver = place.receive(&["--once", "--idle", "1"]);
    let mut other = TcpStream::connect(receiver.address).unwrap();
    // HELLO: its length, its kind, everything, and version 1 with chunks of 2^18 bytes.
    other.write_all(b"\0\0\0\x18\x01\0\0\0\xff\xff\xff\xffmbuffile\0\x01\x12\0\0\0\0\0").unwrap();
    receiver.end().expect(BROKEN).complains("the other end has said nothing for 1 s");
}

#[test]
fn somebody_who_only_looks_is_no_transfer() {
    let place = Place::new();
    let receiver = place.receive(&["--once"]);
    drop(TcpStream::connect(receiver.address).unwrap());
    let sent = place.write("x", b"x");
    // The one connection at a time may still be that of the other.
    let began = Instant::now();
    while receiver.send(&[], &[&sent]).status != WHOLE {
        assert!(began.elapsed() < LONG);
    }
    receiver.end().expect(WHOLE);
    assert_eq!(place.inbox(), ["x"]);
}

#[test]
fn a_sender_that_is_killed_leaves_nothing() {
    let place = Place::new();
    let receiver = place.receive(&["--once"]);
    let (sender, _stdin) = receiver.in_the_middle(&place);
    sender.signal("KILL");
    assert_eq!(sender.end().status, -1);
    receiver.end().expect(BROKEN).complains("broke off");
    assert_eq!(place.inbox(), [""; 0]);
}

#[test]
fn a_receiver_that_is_killed_leaves_nothing_under_the_final_name() {
    let place = Place::new();
    let receiver = place.receive(&["--once"]);
    let (sender, _stdin) = receiver.in_the_middle(&place);
    receiver.run.signal("KILL");
    sender.end().expect(BROKEN).complains("broke off");
    assert_eq!(receiver.end().status, -1);
    assert!(!place.at("inbox/x").exists());
    // What it has left is no obstacle for the next one that may overwrite.
    let receiver = place.receive(&["--once", "--overwrite"]);
    receiver.send(&[], &[&place.write("x", b"x")]).expect(WHOLE);
    receiver.end().expect(WHOLE);
    assert_eq!(place.inbox(), ["x"]);
}

#[test]
fn a_sender_that_is_interrupted_says_so_to_the_receiver() {
    let place = Place::new();
    let receiver = place.receive(&["--once"]);
    let (sender, _stdin) = receiver.in_the_middle(&place);
    sender.signal("INT");
    sender.end().expect(INTERRUPTED).complains("stopped after");
    receiver.end().expect(BROKEN).complains("the other end says: stopped after");
    assert_eq!(place.inbox(), [""; 0]);
}

#[test]
fn a_receiver_that_is_interrupted_says_so_to_the_sender() {
    for signal in ["INT", "TERM"] {
        let place = Place::new();
        let receiver = place.receive(&[]);
        let (sender, _stdin) = receiver.in_the_middle(&place);
        receiver.run.signal(signal);
        sender.end().expect(BROKEN).complains("the other end says: stopped after");
        receiver.end().expect(INTERRUPTED).complains("stopped after");
        assert_eq!(place.inbox(), [""; 0]);
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let receiver = place.receive(&[]);
    let (sender, mut stdin) = receiver.in_the_middle(&place);
    // What waits for somebody who does not read keeps an orderly end from coming.
    receiver.run.signal("STOP");
    let feeder = thread::spawn(move || stdin.write_all(&vec![1; 64 << 20]));
    thread::sleep(Duration::from_secs(1));
    sender.signal("INT");
    thread::sleep(Duration::from_millis(700));
    sender.signal("INT");
    sender.end().expect(INTERRUPTED).complains("ended by another signal");
    feeder.join().unwrap().expect_err("nobody reads the pipe");
    receiver.run.signal("CONT");
    receiver.stop().expect(INTERRUPTED);
    assert_eq!(place.inbox(), [""; 0]);
}

#[test]
fn a_receiver_that_falls_silent_is_given_up() {
    let place = Place::new();
    let receiver = place.receive(&[]);
    let paths = [place.write("x", &Rng::new(1).bytes(20_000_000))];
    receiver.run.signal("STOP");
    let sent = receiver.send(&["--idle", "1"], &[&paths[0]]);
    sent.expect(BROKEN).complains("the other end has said nothing for 1 s");
    receiver.run.signal("CONT");
    receiver.stop().expect(INTERRUPTED);
    assert_eq!(place.inbox(), [""; 0]);
}
