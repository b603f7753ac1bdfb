//! Random sequences of operations on several chains of two pools, against plain `Vec<u8>`s.
//!
//! After each step every chain is checked: its invariants, its bytes, its metadata. One of the
//! pools is small and moves bytes at every pullup: there `NoBuffers` is an honest answer, and must
//! leave everything as it was. So must `Io`, where the file behind an opaque segment cannot be read.
//! At the end nothing is in use.
//!
//! 2,000 sequences are run, or as many as `PROPTEST_CASES` says. A sequence that fails is shrunk
//! and its seed written to `main.regressions` beside this file, which is committed.

#[path = "../common/mod.rs"]
mod common;
mod flat;
mod step;
mod world;

use std::{collections::BTreeMap, env};

use common::ops::Op;
use flat::State;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{FileFailurePersistence, TestRunner},
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use world::World;

fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: if env::var_os("PROPTEST_CASES").is_some() { config.cases } else { 2000 },
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..config
    }
}

prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn chains_do_as_vecs_do(sequential 1..60 => World);
}

/// That the random steps reach what they are meant to reach.
#[test]
fn the_steps_reach_every_operation_an_empty_pool_and_a_broken_file() {
    let mut runner = TestRunner::deterministic();
    let (mut refused, mut unread, mut done) = (0, 0, BTreeMap::<&str, usize>::new());
    for _ in 0..200 {
        let sequences = State::sequential_strategy(1..60);
        let (mut state, steps, _) = sequences.new_tree(&mut runner).unwrap().current();
        let mut world = World::init_test(&state);
        for step in steps {
            state = State::apply(state, &step);
            world = <World as StateMachineTest>::apply(world, &state, step);
            World::check_invariants(&world, &state);
        }
        refused += world.refused;
        unread += world.unread;
        for name in &world.done {
            *done.entry(name).or_default() += 1;
        }
        World::teardown(world, state);
    }
    assert!(refused > 100 && unread > 10, "{refused} refusals, {unread} failures to read");
    let missing: Vec<_> = Op::NAMES.into_iter().filter(|name| !done.contains_key(name)).collect();
    assert!(missing.is_empty(), "{missing:?} were never done");
    assert!(done.values().all(|times| *times >= 5), "{done:?}");
}
