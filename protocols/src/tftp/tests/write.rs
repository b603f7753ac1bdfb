//! Write requests.

use super::*;

fn writable() -> Subject {
    Subject::new(|tftp| tftp.write(true))
}

#[test]
fn a_file_is_taken_block_by_block_and_there_when_all_of_it_is() {
    let file = bytes(1000);
    let mut subject = writable();
    assert_eq!(subject.ask(&request("write a/f octet")), [ack(0)]);
    assert_eq!(subject.ask(&data(1, &file[..512])), [ack(1)]);
    assert!(subject.store.files().is_empty());
    assert_eq!(subject.ask(&data(2, &file[512..])), [ack(2)]);
    assert_eq!(subject.store.files()["a/f"], file);
    // The last ACK may be lost.
    assert_eq!(subject.ask(&data(2, &file[512..])), [ack(2)]);
    assert!(subject.wait(100).is_empty());
    assert_eq!(subject.ask(&data(2, &file[512..])), [error(5, "unknown transfer ID")]);
    subject.finish();
}

#[test]
fn a_file_of_whole_blocks_ends_with_an_empty_one_which_may_be_all_of_it() {
    let mut subject = writable();
    subject.ask(&request("write empty octet"));
    assert_eq!(subject.ask(&data(1, b"")), [ack(1)]);
    subject.ask(&request("write whole octet blksize 8"));
    assert_eq!(subject.ask(&data(1, b"12345678")), [ack(1)]);
    assert!(!subject.store.files().contains_key("whole"));
    assert_eq!(subject.ask(&data(2, b"")), [ack(2)]);
    let files = subject.store.files();
    assert_eq!((&files["empty"][..], &files["whole"][..]), (&b""[..], &b"12345678"[..]));
    subject.finish();
}

#[test]
fn what_tftp_hpa_sends_is_answered_byte_for_byte() {
    // `tftp 192.0.2.1 -m binary -c put f`, tftp-hpa 5.2.
    let mut subject = writable();
    assert_eq!(subject.ask(b"\0\x02f\0octet\0"), [b"\0\x04\0\0"]);
    assert_eq!(subject.ask(b"\0\x03\0\x01hello\n"), [b"\0\x04\0\x01"]);
    assert_eq!(subject.store.files()["f"], b"hello\n");
    subject.finish();
}

#[test]
fn data_before_the_file_is_there_and_out_of_turn_is_dropped() {
    let mut subject = writable();
    subject.store.delay(true);
    subject.ask(&request("write f octet"));
    assert!(subject.ask(&data(1, b"early")).is_empty());
    assert_eq!(subject.drops(DUPLICATE), 1);
    subject.store.delay(false);
    subject.store.release_all();
    subject.rig.run();
    assert_eq!(subject.rig.sent(), [ack(0)]);
    assert_eq!(subject.ask(&data(3, b"future")), [ack(0)]);
    assert_eq!(subject.ask(&data(1, &[1; 512])), [ack(1)]);
    assert_eq!(subject.ask(&data(1, &[1; 512])), [ack(1)], "the ACK was lost");
    assert!(subject.ask(&data(0, b"past")).is_empty());
    assert_eq!(subject.ask(&data(2, b"end")), [ack(2)]);
    subject.finish();
}

#[test]
fn an_ack_is_sent_again_until_the_peer_is_given_up_and_nothing_is_left_of_the_file() {
    let mut subject = writable();
    subject.ask(&request("write f octet"));
    assert_eq!(subject.ask(&data(1, &[1; 512])), [ack(1)]);
    let times: Vec<_> = subject.wait(100);
    assert_eq!(times, [1., 3., 7., 15., 31.].map(|after| (after, ack(1))));
    assert!(subject.store.parts().is_empty() && subject.store.files().is_empty());
    subject.finish();
}

#[test]
fn a_window_is_acknowledged_once_and_a_gap_once() {
    let mut subject = writable();
    let agreed = oack("blksize 8 windowsize 3");
    let asked = subject.ask(&request("write f octet windowsize 3 blksize 8"));
    assert_eq!(asked, [agreed]);
    let block = |n: u16| data(n, &[n as u8; 8]);
    assert!(subject.ask(&block(1)).is_empty());
    assert!(subject.ask(&block(2)).is_empty());
    assert_eq!(subject.ask(&block(3)), [ack(3)]);
    assert!(subject.ask(&block(4)).is_empty());
    assert_eq!(subject.ask(&block(6)), [ack(4)]);
    assert!(subject.ask(&block(7)).is_empty(), "the gap was said");
    assert!(subject.ask(&block(5)).is_empty());
    assert!(subject.ask(&block(6)).is_empty());
    assert_eq!(subject.ask(&block(7)), [ack(7)]);
    assert_eq!(subject.ask(&data(8, b"")), [ack(8)]);
    assert_eq!(subject.store.files()["f"].len(), 56);
    subject.finish();
}

#[test]
fn netascii_becomes_what_it_means_however_it_is_cut() {
    let mut subject = writable();
    subject.ask(&request("write f netascii blksize 8"));
    for (n, block) in [b"a\r\nb\r\0c\r", b"\n2345678", b"1234567\r"].into_iter().enumerate() {
        assert_eq!(subject.ask(&data(n as u16 + 1, block)), [ack(n as u16 + 1)]);
    }
    assert_eq!(subject.ask(&data(4, b"")), [ack(4)]);
    assert_eq!(subject.store.files()["f"], b"a\nb\rc\n23456781234567\r");
    subject.finish();
}

#[test]
fn what_may_not_be_written_is_refused_by_its_code_and_leaves_nothing() {
    let mut subject = Subject::new(|tftp| tftp.write(true).max_size(1000));
    subject.store.put("f", b"old");
    assert_eq!(subject.ask(&request("write f octet")), [error(6, "file already exists")]);
    assert_eq!(subject.ask(&request("write f/g octet")), [error(1, "file not found")]);
    let long = error(3, "the file is too long");
    assert_eq!(subject.ask(&request("write g octet tsize 1001")), [&long[..]]);
    assert_eq!(subject.ask(&request("write g octet tsize 5")), [oack("tsize 5")]);
    assert_eq!(subject.ask(&data(1, &[0; 512])), [ack(1)]);
    assert_eq!(subject.ask(&data(2, &[0; 489])), [&long[..]]);
    subject.ask(&request("write g octet blksize 8"));
    assert_eq!(subject.ask(&data(1, &[0; 9])), [error(4, "illegal TFTP operation")]);
    subject.store.limit(100);
    subject.ask(&request("write g octet"));
    assert_eq!(subject.ask(&data(1, &[0; 300])), [error(3, "disk full")]);
    let files = subject.store.files();
    assert_eq!((files.len(), &files["f"][..]), (1, &b"old"[..]));
    subject.finish();
    let mut subject = Subject::new(|tftp| tftp.write(true).overwrite(true));
    subject.store.put("f", b"old");
    subject.ask(&request("write f octet"));
    assert_eq!(subject.ask(&data(1, b"new")), [ack(1)]);
    assert_eq!(subject.store.files()["f"], b"new");
    subject.finish();
}

#[test]
fn whatever_fails_in_the_store_is_said_and_leaves_nothing() {
    for n in 0..4 {
        let mut subject = writable();
        subject.store.fail_at(n, std::io::ErrorKind::StorageFull);
        let mut answers = subject.ask(&request("write f octet"));
        answers.extend(subject.ask(&data(1, &[1; 512])));
        answers.extend(subject.ask(&data(2, b"end")));
        assert!(answers.contains(&error(3, "disk full")), "request {n}: {answers:?}");
        assert!(subject.store.files().is_empty());
        subject.finish();
    }
}

#[test]
fn what_is_with_the_store_is_held_and_bounded() {
    let mut subject = writable();
    subject.ask(&request("write f octet blksize 65464"));
    subject.store.delay(true);
    let block = bytes(65_464);
    let mut chains = Vec::new();
    for n in 1..=4 {
        subject.ask(&data(n, &block));
        chains.push(subject.rig.stack.held().chains);
    }
    assert_eq!(chains, [1, 2, 3, 3]);
    assert_eq!(subject.drops(DropReason::LIMIT), 1);
    // Given up while the store still has them.
    assert!(subject.ask(&error(0, "enough")).is_empty());
    assert_eq!(subject.rig.stack.held().chains, 0);
    subject.store.release_all();
    subject.rig.run();
    subject.store.delay(false);
    subject.finish();
}

#[test]
fn a_client_may_write_the_same_file_twice_from_one_port() {
    let mut subject = Subject::new(|tftp| tftp.write(true).overwrite(true));
    for bytes in [b"first", b"other"] {
        assert_eq!(subject.ask(&request("write f octet")), [ack(0)]);
        assert_eq!(subject.ask(&data(1, bytes)), [ack(1)]);
        assert_eq!(subject.store.files()["f"], bytes);
    }
    subject.finish();
}

#[test]
fn a_file_that_is_done_gives_up_its_place_to_the_next() {
    let mut subject = Subject::new(|tftp| tftp.write(true).transfers(1));
    for n in 0..3 {
        let from = format!("192.0.2.2:300{n}");
        assert_eq!(subject.ask_from(&from, &request(&format!("write {n} octet"))), [ack(0)]);
        let busy = subject.ask_from("192.0.2.3:3000", &request("write f octet"));
        assert_eq!(busy, [error(0, "too many transfers")]);
        assert_eq!(subject.ask_from(&from, &data(1, b"end")), [ack(1)]);
    }
    assert_eq!(subject.store.files().len(), 3);
    subject.finish();
}
