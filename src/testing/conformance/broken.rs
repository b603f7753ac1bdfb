//! The conformance run itself is tested: protocols that keep the contract pass, and each of many
//! that break it in one way is caught, by name.

use std::sync::Arc;

use crate::stack::{Edge, Protocol};

use super::{
    Check, Conformance, Report, Verdict,
    toys::{Answer, Bug, Endless, Frame, Shared, Tag},
};

fn tag(bug: Bug) -> Report {
    let shared = Arc::new(Shared::default());
    let make = || -> Box<dyn Protocol> { Box::new(Tag::new(bug, &shared)) };
    let report = Conformance::new("tag", make).max_held(64 << 10).report();
    shared.stash.lock().unwrap().clear();
    report
}

fn frame(bug: Bug) -> Report {
    let make = || -> Box<dyn Protocol> { Box::new(Frame::new(bug)) };
    Conformance::new("frame", make).max_held(4096).report()
}

fn endless(retries: bool, greedy: bool) -> Report {
    let make = || -> Box<dyn Protocol> { Box::new(Endless { retries, greedy }) };
    Conformance::new("endless", make).top().report()
}

#[track_caller]
fn caught(report: &Report, check: Check) {
    assert!(report.failed(check), "`{check}` was to fail:\n{report}");
}

#[test]
fn sound_protocols_pass_every_check() {
    for report in [tag(Bug::None), frame(Bug::None)] {
        assert!(report.passed(), "{report}");
        assert!(report.cases() > 2000, "{report}");
        for (check, verdict) in report.verdicts() {
            let passed = matches!(verdict, Verdict::Passed { cases } if *cases > 0);
            assert!(passed, "{check}: {report}");
        }
        assert_eq!(report.verdicts().len(), Check::ALL.len());
    }
    let report = endless(true, false);
    assert!(report.passed(), "{report}");
    let skipped = |check| matches!(report.verdict(check), Some(Verdict::Skipped { .. }));
    assert!(skipped(Check::RoundTrip) && skipped(Check::Room), "{report}");
}

#[test]
fn chains_that_go_away_without_a_word_are_caught() {
    caught(&tag(Bug::LeaksSilently), Check::Balance);
    caught(&tag(Bug::ForgetsInAnOutcome), Check::Balance);
    caught(&tag(Bug::LeavesChainsInABatch), Check::Reasons);
}

#[test]
fn state_that_two_sessions_share_is_caught() {
    caught(&tag(Bug::KeepsStateBetweenSessions), Check::Sessions);
}

#[test]
fn answers_to_the_wrong_peer_are_caught() {
    let report = |broken| {
        let make = move || -> Box<dyn Protocol> { Box::new(Answer { broken, first: None }) };
        Conformance::new("answer", make).top().report()
    };
    let sound = report(false);
    assert!(sound.passed(), "{sound}");
    let broken = report(true);
    caught(&broken, Check::Sessions);
    assert_eq!(broken.failures().len(), 1, "{broken}");
    assert!(broken.to_string().contains("to 192.0.2.3:40003 instead of"), "{broken}");
}

#[test]
fn parsers_that_depend_on_the_cut_are_caught() {
    caught(&tag(Bug::LooksAtTheFirstSegmentOnly), Check::Cut);
    caught(&frame(Bug::TrustsOneChunk), Check::Chunks);
    caught(&frame(Bug::PassesUpTooEarly), Check::Truncation);
    caught(&tag(Bug::ReversesABatch), Check::Chunks);
}

#[test]
fn room_that_was_not_declared_is_caught() {
    caught(&tag(Bug::PrependsMoreThanDeclared), Check::Room);
    caught(&tag(Bug::AppendsMoreThanDeclared), Check::Room);
}

#[test]
fn undeclared_reasons_are_caught() {
    caught(&tag(Bug::DropsForAnUndeclaredReason), Check::Reasons);
}

#[test]
fn old_contents_are_caught() {
    let report = tag(Bug::LeavesAHeaderByteUnwritten);
    caught(&report, Check::OldBytes);
}

#[test]
fn senders_that_ignore_their_credit_are_caught() {
    caught(&tag(Bug::SendsAtOpeningWithoutCredit), Check::Credit);
    caught(&tag(Bug::SendsByTimerWithoutCredit), Check::Credit);
    caught(&endless(true, true), Check::Credit);
}

#[test]
fn timers_that_are_left_are_caught() {
    caught(&tag(Bug::LeavesATimer), Check::Timers);
}

#[test]
fn panics_are_caught_and_told_where() {
    let report = tag(Bug::Panics);
    caught(&report, Check::NoPanic);
    let Some(Verdict::Failed(failure)) = report.verdict(Check::Truncation) else {
        panic!("{report}");
    };
    assert!(failure.scenario.contains("ends after 0 bytes"), "{failure}");
    assert!(failure.detail.contains("a tag of 0 bytes"), "{failure}");
}

#[test]
fn what_goes_wrong_on_an_empty_pool_is_caught() {
    caught(&tag(Bug::PanicsOnAnEmptyPool), Check::NoPanic);
    caught(&tag(Bug::SwallowsOnAnEmptyPool), Check::EmptyPool);
    caught(&endless(false, false), Check::EmptyPool);
}

#[test]
fn hoarders_are_caught() {
    caught(&tag(Bug::HoardsOpenly), Check::Held);
    caught(&tag(Bug::HoardsInSecret), Check::Balance);
    caught(&frame(Bug::BelievesAnyLength), Check::Held);
    caught(&tag(Bug::KeepsBuffersWhenItGoes), Check::PoolFull);
}

#[test]
fn messages_that_arrive_changed_are_caught() {
    let report = tag(Bug::CutsOffTheLastByte);
    caught(&report, Check::RoundTrip);
    let said = report.to_string();
    assert!(said.contains("round trip  FAILED: round trip: of the message"), "{said}");
}

#[test]
fn a_layer_that_never_rests_is_caught() {
    caught(&tag(Bug::NeverRests), Check::Rest);
}

#[test]
fn contradictions_and_stacks_that_are_refused_are_caught() {
    caught(&tag(Bug::SaysSomethingElseEachTime), Check::Build);
    let make = || -> Box<dyn Protocol> { Box::new(Frame::new(Bug::None)) };
    let report = Conformance::new("frame", make).edge(Edge::Packets).report();
    caught(&report, Check::Build);
    assert!(
        std::panic::catch_unwind(|| Conformance::new("frame", make).edge(Edge::Packets).run())
            .is_err()
    );
}
