//! Wireshark's tools read what we write, and we read what they write.
//!
//! Where they are not installed these tests say so by name and do nothing else; with
//! `MBUF_REQUIRE_PEERS=1` in the environment, as in `.ci/run`, they fail instead.

use std::{env, fs, path::Path, process::Command};

use mbuf::{
    io::capture::{CaptureWriter, Interface, LinkType, Record},
    stack::Direction,
};

use crate::{chain, pool, read, tap};

/// Whether all of them are there.
fn there(test: &str, programs: &[&str]) -> bool {
    for program in programs {
        if Command::new(program).arg("--version").output().is_err() {
            let required = env::var_os("MBUF_REQUIRE_PEERS").is_some_and(|value| value == "1");
            assert!(
                !required,
                "{test}: `{program}` is not installed, and MBUF_REQUIRE_PEERS is set"
            );
            eprintln!("{test}: not run, since `{program}` is not installed");
            return false;
        }
    }
    true
}

/// What a program prints; it must succeed.
fn run(folder: &Path, line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .current_dir(folder)
        .env("HOME", folder)
        .env("TZ", "UTC")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// An Ethernet frame with an ARP request, which everybody decodes.
const ARP: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0,
    0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2,
];

#[test]
fn tshark_reads_what_we_write() {
    if !there("tshark_reads_what_we_write", &["tshark", "capinfos"]) {
        return;
    }
    let pool = pool();
    let folder = tempfile::tempdir().unwrap();
    let mut writer = CaptureWriter::pcapng(Vec::new()).unwrap();
    let short = Interface { snap_len: 20, ..Interface::new(LinkType::ETHERNET, "short") };
    writer.interface(Interface::new(LinkType::ETHERNET, "tap0")).unwrap();
    writer.interface(short).unwrap();
    let record = |interface, direction, comment: Option<&str>| Record {
        time: Some(1_700_000_000_123_456_789),
        interface,
        direction,
        comment: comment.map(str::to_owned),
        ..Record::default()
    };
    for record in [
        record(0, Some(Direction::Up), None),
        record(0, Some(Direction::Down), Some("dropped: malformed")),
        record(1, None, None),
    ] {
        writer.write(&record, &chain(&pool, &ARP)).unwrap();
    }
    fs::write(folder.path().join("ours.pcapng"), writer.into_inner()).unwrap();
    let fields = "tshark -r ours.pcapng -T fields -E separator=| -e frame.time_epoch -e frame.len -e \
                  frame.cap_len -e frame.interface_name -e frame.packet_flags_direction -e \
                  frame.comment -e arp.dst.proto_ipv4";
    let lines = run(folder.path(), fields);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let time = "1700000000.123456789";
    assert_eq!(lines[0], format!("{time}|42|42|tap0|0x00000001||192.0.2.2"));
    assert_eq!(lines[1], format!("{time}|42|42|tap0|0x00000002|dropped: malformed|192.0.2.2"));
    assert!(lines[2].starts_with(&format!("{time}|42|20|short|")), "{}", lines[2]);
    let info = run(folder.path(), "capinfos -t -c -I ours.pcapng");
    assert!(
        info.contains("pcapng") && info.contains("tap0") && info.contains("nanoseconds"),
        "{info}"
    );

    for nano in [true, false] {
        let link = Interface::new(LinkType::ETHERNET, "");
        let mut writer = if nano {
            CaptureWriter::pcap(Vec::new(), link).unwrap()
        } else {
            CaptureWriter::pcap_micro(Vec::new(), link).unwrap()
        };
        writer.write(&record(0, None, None), &chain(&pool, &ARP)).unwrap();
        fs::write(folder.path().join("ours.pcap"), writer.into_inner()).unwrap();
        let fields = "tshark -r ours.pcap -T fields -e frame.time_epoch -e arp.dst.proto_ipv4";
        let expected = if nano { "1700000000.123456789" } else { "1700000000.123456000" };
        assert_eq!(run(folder.path(), fields), format!("{expected}\t192.0.2.2\n"));
    }
}

#[test]
fn tshark_reads_what_a_tap_writes() {
    if !there("tshark_reads_what_a_tap_writes", &["tshark"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tap.pcapng"), tap::capture(&pool())).unwrap();
    let fields = "tshark -r tap.pcapng -T fields -E separator=| -e frame.interface_name -e \
                  frame.packet_flags_direction -e frame.comment -e frame.len";
    let expected = [
        "port 0|0x00000001||6",
        "one-echo|0x00000001||5",
        "one-echo|0x00000002||5",
        "port 0|0x00000002||6",
        "port 0|0x00000001||4",
        "port 0|0x00000001|dropped: malformed|4",
        "port 0|0x00000001||0",
        "port 0|0x00000001|dropped: short|0",
    ];
    let got = run(folder.path(), fields);
    assert_eq!(got.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn we_read_what_text2pcap_editcap_and_mergecap_write() {
    let programs = ["text2pcap", "editcap", "mergecap"];
    if !there("we_read_what_text2pcap_editcap_and_mergecap_write", &programs) {
        return;
    }
    let pool = pool();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let hex: Vec<_> = ARP.iter().map(|byte| format!("{byte:02x}")).collect();
    let packet = |time| format!("{time}\n0000 {}\n", hex.join(" "));
    let text = packet("1700000000.5") + &packet("1700000001.25");
    fs::write(path.join("text"), text).unwrap();
    run(path, "text2pcap -q -F pcapng -t %s.%f text text.pcapng");
    for (line, file) in [
        ("editcap -F pcap text.pcapng micro.pcap", "micro.pcap"),
        ("editcap -F nsecpcap text.pcapng nano.pcap", "nano.pcap"),
        ("editcap -F pcapng micro.pcap again.pcapng", "again.pcapng"),
        ("editcap -a 1:noted text.pcapng noted.pcapng", "noted.pcapng"),
        ("editcap -s 20 text.pcapng short.pcapng", "short.pcapng"),
        ("editcap -F modpcap text.pcapng modified.pcap", "modified.pcap"),
        ("mergecap -w merged.pcapng text.pcapng nano.pcap", "merged.pcapng"),
        ("mergecap -a -F pcap -w merged.pcap micro.pcap micro.pcap", "merged.pcap"),
    ] {
        run(path, line);
        let got = read(&pool, fs::File::open(path.join(file)).unwrap());
        assert_eq!(got.error, None, "{file}");
        let copies = if file.starts_with("merged") { 2 } else { 1 };
        assert_eq!(got.packets.len(), 2 * copies, "{file}");
        assert!(got.interfaces.iter().all(|interface| interface.link == LinkType::ETHERNET));
        for (record, bytes) in &got.packets {
            let captured = if file.starts_with("short") { 20 } else { 42 };
            assert_eq!((bytes.as_slice(), record.original), (&ARP[..captured], 42), "{file}");
            let time = record.time.unwrap();
            assert!(
                [1_700_000_000_500_000_000, 1_700_000_001_250_000_000].contains(&time),
                "{file}: {time}"
            );
        }
        let comment = got.packets[0].0.comment.as_deref();
        assert_eq!(comment, file.starts_with("noted").then_some("noted"), "{file}");
    }
}
