//! What it prints, and how it ends where nothing is sent.

use std::net::TcpListener;

use serde_json::Value;

use crate::run::{LOCAL, PARTLY, Place, Run, USAGE, WHOLE, b3sum, file};

#[test]
fn what_scripts_read_is_json() {
    let place = Place::new();
    let good = place.write("t/good", b"good");
    place.write("t/\u{1f}", b"");
    let receiver = place.receive(&["--once", "--json"]);
    let sent = receiver.send(&["--json"], &[&place.at("t")]);
    let received = receiver.end();
    let (sent, received) = (sent.expect(PARTLY).events(), received.expect(WHOLE).events());
    let find = |events: &[Value], name: &str| {
        let event = events.iter().find(|event| event["event"] == name).cloned();
        event.unwrap_or_else(|| panic!("no `{name}` in {events:#?}"))
    };
    for events in [&sent, &received] {
        assert_eq!(find(events, "started")["length"], 4);
        let done = find(events, "done");
        assert_eq!((&done["name"], &done["bytes"]), (&"t/good".into(), &4.into()));
        assert_eq!(done["root"], b3sum(&good));
        let finished = find(events, "finished");
        assert_eq!(finished["root"], b3sum(&good));
        let numbers = ["files", "folders", "bytes"].map(|key| finished[key].as_u64().unwrap());
        assert_eq!(numbers, [1, 1, 4]);
        assert!(finished["seconds"].as_f64().unwrap() > 0.0);
        assert!(finished["cpu_seconds"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(
        (&find(&sent, "finished")["failed"], &find(&sent, "finished")["status"]),
        (&1.into(), &1.into())
    );
    assert_eq!(find(&sent, "failed")["code"], "not_a_file");
}

#[test]
fn quiet_is_quiet() {
    let place = Place::new();
    let receiver = place.receive(&["--once", "--quiet"]);
    let sent = receiver.send(&["--quiet"], &[&place.write("x", b"x")]);
    let received = receiver.end();
    for end in [sent, received] {
        end.expect(WHOLE);
        assert_eq!((&*end.out, &*end.err), ("", ""));
    }
}

#[test]
fn it_says_that_it_is_neither_encrypted_nor_authenticated() {
    let place = Place::new();
    place.receive(&[]).stop().complains("neither encrypted nor authenticated");
    let mut command = file(["receive", "--quiet", "--listen", "0.0.0.0:0", "--into"]);
    command.arg(place.at("inbox"));
    let mut run = Run::start(command);
    assert!(run.line().starts_with("listening on tcp 0.0.0.0:"));
    run.signal("INT");
    run.end().complains("WARNING").complains("Neither encrypted nor authenticated");
}

#[test]
fn trouble_on_this_side_has_a_status_of_its_own() {
    let place = Place::new();
    let run = |args: &[&str]| Run::start(file(args)).end();
    let (gone, inbox) = (place.at("gone"), place.at("inbox"));
    let (gone, inbox) = (gone.to_str().unwrap(), inbox.to_str().unwrap());
    run(&["receive", "--into", gone]).expect(LOCAL).complains("--into").complains(gone);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = run(&["receive", "--into", inbox, "--listen", &address]);
    ended.expect(LOCAL).complains("EADDRINUSE").complains(&address);
    run(&["receive"]).expect(USAGE).complains("--into");
    run(&["send", "-"]).expect(USAGE).complains("--name");
    run(&["fetch"]).expect(USAGE);
}

#[test]
fn without_a_command_both_ends_run_here() {
    let place = Place::new();
    let mut command = file(["--size", "3M"]);
    command.env("TMPDIR", place.at("inbox"));
    let ended = Run::start(command).end();
    ended.expect(WHOLE);
    assert_eq!(ended.out.matches("identical").count(), 2, "{ended:#?}");
    assert_eq!(ended.root().len(), 64);
    assert_eq!(place.inbox(), [""; 0]);
}

#[test]
fn the_help_of_each_command_says_what_the_exit_status_means() {
    for args in [&["--help"][..], &["receive", "--help"], &["send", "--help"]] {
        let ended = Run::start(file(args)).end();
        ended.expect(WHOLE);
        let safety = if args.len() == 1 { "no encryption" } else { "Neither encrypted" };
        for words in ["xit status", "130", safety, "Examples:"] {
            assert!(ended.out.contains(words), "no `{words}` in {}", ended.out);
        }
    }
}
