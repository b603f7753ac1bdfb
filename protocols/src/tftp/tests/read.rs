//! Read requests.

use super::*;

#[test]
fn a_file_is_sent_block_by_block() {
    let file = bytes(1500);
    let mut subject = Subject::with(&file);
    assert_eq!(subject.ask(&request("read f octet")), [data(1, &file[..512])]);
    assert_eq!(subject.ask(&ack(1)), [data(2, &file[512..1024])]);
    assert_eq!(subject.ask(&ack(2)), [data(3, &file[1024..])]);
    assert!(subject.ask(&ack(3)).is_empty());
    assert!(subject.wait(100).is_empty(), "it is over");
    subject.finish();
}

#[test]
fn a_file_of_whole_blocks_ends_with_an_empty_one() {
    for len in [0, 512, 1024, 16 << 10] {
        let file = bytes(len);
        let mut subject = Subject::with(&file);
        let mut answer = subject.ask(&request("read f octet"));
        for block in 1..=(len / 512) as u16 {
            let at = usize::from(block) * 512;
            assert_eq!(answer, [data(block, &file[at - 512..at])]);
            answer = subject.ask(&ack(block));
        }
        let last = (len / 512) as u16 + 1;
        assert_eq!(answer, [data(last, b"")]);
        assert!(subject.ask(&ack(last)).is_empty());
        subject.finish();
    }
}

#[test]
fn what_curl_sends_is_answered_byte_for_byte() {
    // `curl tftp://192.0.2.1/f`, curl 8.14.
    let mut asked = b"\0\x01f\0octet\0tsize\x000\0blksize\x00512\0timeout\x006\0".to_vec();
    let mut subject = Subject::with(b"hello\n");
    let answer = subject.ask(&asked);
    assert_eq!(answer, [b"\0\x06blksize\x00512\0timeout\x006\0tsize\x006\0"]);
    assert_eq!(subject.ask(b"\0\x04\0\0"), [b"\0\x03\0\x01hello\n"]);
    assert!(subject.ask(b"\0\x04\0\x01").is_empty());
    // curl takes a size of 0 for a mistake.
    subject.store.put("f", b"");
    assert_eq!(subject.ask(&asked), [b"\0\x06blksize\x00512\0timeout\x006\0"]);
    subject.ask(b"\0\x05\0\0\0");
    subject.store.put("f", b"hello\n");
    // A slash in front is the folder's.
    asked.splice(2..3, *b"/f");
    assert_eq!(subject.ask(&asked), answer);
    subject.finish();
}

#[test]
fn options_are_agreed_to_within_bounds_and_others_passed_over() {
    let cases = [
        ("blksize 1428", "blksize 1428"),
        ("blksize 65464", "blksize 1428"),
        ("windowsize 9", "windowsize 9"),
        ("windowsize 65535", "windowsize 64"),
        ("blksize 1400 windowsize 65535", "blksize 1400 windowsize 46"),
        ("tsize 0 multicast x timeout 30", "timeout 30 tsize 3000"),
        ("timeout 31 tsize 0", "tsize 3000"),
        ("BLKSIZE 8", "blksize 8"),
    ];
    for (asked, agreed) in cases {
        let mut subject = Subject::new(|tftp| tftp.max_block(1428));
        subject.store.put("f", &bytes(3000));
        assert_eq!(subject.ask(&request(&format!("read f octet {asked}"))), [oack(agreed)]);
        subject.finish();
    }
    // What is out of its range, or not known, is not asked.
    for nothing in ["blksize 7", "blksize 70000", "colour red", "timeout 0", "windowsize 0"] {
        let mut subject = Subject::with(b"x");
        let answer = subject.ask(&request(&format!("read f octet {nothing}")));
        assert_eq!(answer, [data(1, b"x")], "{nothing}");
        subject.finish();
    }
}

#[test]
fn netascii_travels_with_two_bytes_for_a_line_end_and_has_no_size() {
    let mut subject = Subject::with(b"a\nb\rc\n");
    let answer = subject.ask(&request("read f netascii blksize 8 tsize 0"));
    assert_eq!(answer, [oack("blksize 8")]);
    assert_eq!(subject.ask(&ack(0)), [data(1, b"a\r\nb\r\0c\r")]);
    assert_eq!(subject.ask(&ack(1)), [data(2, b"\n")]);
    subject.finish();
}

#[test]
fn an_ack_that_comes_twice_is_not_answered_twice() {
    let mut subject = Subject::with(&bytes(2000));
    subject.ask(&request("read f octet"));
    assert_eq!(subject.ask(&ack(1)).len(), 1);
    assert!(subject.ask(&ack(1)).is_empty());
    assert!(subject.ask(&ack(0)).is_empty());
    assert_eq!(subject.drops(DUPLICATE), 2);
    // Nor is one for what was never sent.
    assert!(subject.ask(&ack(3)).is_empty());
    assert!(subject.ask(&ack(60_000)).is_empty());
    assert_eq!(subject.drops(DropReason::MALFORMED), 2);
    assert_eq!(subject.ask(&ack(2)).len(), 1);
    subject.finish();
}

#[test]
fn a_request_that_comes_twice_is_not_answered_twice_but_a_new_one_is() {
    let mut subject = Subject::with(&bytes(2000));
    subject.store.put("g", b"another");
    let read = request("read f octet");
    assert_eq!(subject.ask(&read).len(), 1);
    assert!(subject.ask(&read).is_empty());
    subject.ask(&ack(1));
    assert!(subject.ask(&read).is_empty());
    assert_eq!(subject.drops(DUPLICATE), 2);
    assert_eq!(subject.ask(&request("read g octet")), [data(1, b"another")]);
    assert!(subject.ask(&ack(1)).is_empty());
    // Whoever began, let his time pass, and asks once more has begun anew.
    subject.ask(&read);
    subject.ask(&ack(1));
    assert_eq!(subject.wait(1).len(), 1);
    assert_eq!(subject.ask(&read), [data(1, &bytes(512))]);
    subject.finish();
}

#[test]
fn it_is_sent_again_after_a_second_then_two_then_four_until_that_is_enough() {
    let mut subject = Subject::with(&bytes(2000));
    subject.ask(&request("read f octet"));
    subject.ask(&ack(1));
    let block = data(2, &bytes(1024)[512..]);
    let expected = [1., 3., 7., 15., 31.].map(|after| (after, block.clone()));
    assert_eq!(subject.wait(40), expected);
    assert_eq!(subject.ask(&ack(2)).len(), 1, "late is not too late");
    subject.wait(100);
    assert_eq!(subject.ask(&ack(3)), [error(5, "unknown transfer ID")]);
    // One who has never answered may not have asked, and gets less.
    assert_eq!(subject.ask(&request("read f octet")).len(), 1);
    let times: Vec<f64> = subject.wait(100).iter().map(|(after, _)| *after).collect();
    assert_eq!(times, [1., 3.]);
    // The peer may say how long.
    subject.ask(&request("read f octet timeout 20"));
    subject.ask(&ack(0));
    let times: Vec<f64> = subject.wait(100).iter().map(|(after, _)| *after).collect();
    assert_eq!(times, [20., 40., 60., 80., 100.]);
    subject.finish();
}

#[test]
fn an_oack_is_sent_again_until_it_is_acknowledged() {
    let mut subject = Subject::with(b"x");
    let agreed = oack("blksize 8");
    assert_eq!(subject.ask(&request("read f octet blksize 8")), [&agreed[..]]);
    assert_eq!(subject.wait(1), [(1., agreed)]);
    assert!(subject.ask(&ack(1)).is_empty(), "block 1 was not sent");
    assert_eq!(subject.ask(&ack(0)), [data(1, b"x")]);
    // Whoever does not like it says so (RFC 2347), and is not answered.
    subject.ask(&ack(1));
    subject.ask(&request("read f octet blksize 8"));
    assert!(subject.ask(&error(8, "no")).is_empty());
    assert!(subject.wait(100).is_empty());
    subject.finish();
}

#[test]
fn a_window_is_sent_at_once_and_from_where_something_is_missing() {
    let file = bytes(8 * 9 + 3);
    let mut subject = Subject::with(&file);
    let block = |n: usize| data(n as u16, &file[8 * (n - 1)..(8 * n).min(file.len())]);
    subject.ask(&request("read f octet blksize 8 windowsize 4"));
    assert_eq!(subject.ask(&ack(0)), [block(1), block(2), block(3), block(4)]);
    assert_eq!(subject.ask(&ack(2)), [block(3), block(4), block(5), block(6)]);
    // What was said before is old; what was sent before can still be said to be there.
    assert!(subject.ask(&ack(1)).is_empty());
    assert_eq!(subject.ask(&ack(6)), [block(7), block(8), block(9), block(10)]);
    assert_eq!(subject.wait(1).len(), 4);
    assert!(subject.ask(&ack(10)).is_empty());
    assert!(subject.wait(100).is_empty());
    subject.finish();
}

#[test]
fn what_cannot_be_read_is_said_by_its_code() {
    let mut subject = Subject::with(b"x");
    subject.store.put("folder/g", b"y");
    assert_eq!(subject.ask(&request("read missing octet")), [error(1, "file not found")]);
    assert_eq!(subject.ask(&request("read folder octet")), [error(2, "access violation")]);
    assert_eq!(subject.ask(&request("read folder/g octet")), [data(1, b"y")]);
    assert!(subject.ask(&ack(1)).is_empty());
    assert_eq!(subject.ask(&request("write f octet")), [error(2, "access violation")]);
    // In the middle, too.
    let mut subject = Subject::with(&bytes(40_000));
    subject.store.fail_at(2, std::io::ErrorKind::Other);
    assert_eq!(subject.ask(&request("read f octet")), [data(1, &bytes(512))]);
    let next = data(2, &bytes(1024)[512..]);
    assert_eq!(subject.ask(&ack(1)), [next, error(0, "the file cannot be used")]);
    assert!(subject.wait(100).is_empty());
    subject.finish();
}

#[test]
fn what_does_not_belong_into_a_transfer_ends_it() {
    for wrong in [data(1, b"x"), oack("tsize 1"), b"\0\x09zz".to_vec()] {
        let mut subject = Subject::with(&bytes(2000));
        subject.ask(&request("read f octet"));
        assert_eq!(subject.ask(&wrong), [error(4, "illegal TFTP operation")]);
        assert_eq!(subject.ask(&ack(1)), [error(5, "unknown transfer ID")]);
        subject.finish();
    }
}

#[test]
fn holes_are_zeroes_and_a_late_store_is_waited_for() {
    let mut subject = Subject::with(&[0; 50_000]);
    subject.store.holes(true);
    subject.store.delay(true);
    assert!(subject.ask(&request("read f octet blksize 40000")).is_empty());
    assert!(subject.wait(100).is_empty());
    for _ in 0..4 {
        subject.store.release_all();
        subject.rig.run();
    }
    assert_eq!(subject.rig.sent(), [oack("blksize 40000")]);
    assert_eq!(subject.ask(&ack(0)), [data(1, &[0; 40_000])]);
    subject.store.delay(false);
    subject.store.release_all();
    assert_eq!(subject.ask(&ack(1)), [data(2, &[0; 10_000])]);
    subject.finish();
}

#[test]
fn what_was_acknowledged_is_given_up() {
    let file = bytes(400 * 512 + 1);
    let mut subject = Subject::with(&file);
    assert_eq!(subject.ask(&request("read f octet")), [data(1, &file[..512])]);
    let mut most = 0;
    for n in 1..400_usize {
        let next = &file[n * 512..(n + 1) * 512];
        assert_eq!(subject.ask(&ack(n as u16)), [data(n as u16 + 1, next)]);
        most = most.max(subject.rig.stack.held().footprint);
    }
    assert!(most < 128 << 10, "{most} bytes held of a file of {}", file.len());
    subject.finish();
}

#[test]
fn over_one_port_there_are_no_ports_of_its_own() {
    let mut subject = Subject::new(|tftp| tftp.own_ports(true));
    subject.store.put("f", b"x");
    assert_eq!(subject.ask(&request("read f octet")), [data(1, b"x")]);
    assert!(subject.ask(&ack(1)).is_empty());
    subject.finish();
}

#[test]
fn another_request_of_a_peer_who_never_answered_is_none() {
    let mut subject = Subject::with(b"x");
    assert_eq!(subject.ask(&request("read f octet")), [data(1, b"x")]);
    assert!(subject.ask(&request("read f octet blksize 8")).is_empty());
    assert!(subject.ask(&request("read f octet")).is_empty());
    assert_eq!(subject.drops(DUPLICATE), 2);
    subject.finish();
}

#[test]
fn without_buffers_it_goes_on_when_there_are_some() {
    let mut subject = Subject::with(&bytes(2000));
    let message = subject.rig.pool.chain_from(&request("read f octet")).unwrap();
    let starve = testing::Starve::small(&subject.rig.pool, 0);
    let mut chain = message;
    chain.meta_mut().set_source(Address::Ip(PEER.parse().unwrap()));
    chain.meta_mut().set_destination(Address::Ip(SERVER.parse().unwrap()));
    subject.rig.feed_chain(chain);
    assert!(subject.rig.sent().is_empty());
    drop(starve);
    let sent = subject.wait(1);
    assert_eq!(sent[0], (0.02, data(1, &bytes(512))));
    subject.finish();
}
