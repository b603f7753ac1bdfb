//! Models for loom: every interleaving of a few threads, over the pool itself and the counts in it.
//!
//! `sync.rs` puts loom's atomics, locks and thread-locals in the place of the real ones; memory is
//! watched by cells of loom's (`watch.rs`, [`super::sync::Witness`]), which report whoever touches a
//! buffer, a cache or the pool without being ordered after those before.
//!
//! An exploration that never reaches a branch passes whatever the branch does. So each model names
//! the branches that it is about, and fails if one was not reached; and each is run again with the
//! steps broken that it should prove, one at a time, and must fail every time.
//!
//! `RUSTFLAGS='--cfg loom' cargo test --lib loom_`; threads are preempted up to twice in an execution,
//! or as often as `LOOM_MAX_PREEMPTIONS` says.

mod depot;
mod life;
mod sharing;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    process::Command,
    sync::{Mutex, OnceLock},
};

pub(super) use life::ended;

use super::sync::Step;

/// Names the step that is broken in this process.
const BROKEN: &str = "MBUF_BROKEN_STEP";

/// The step that is broken in this process, if one is.
pub(super) fn broken() -> Option<Step> {
    static STEP: OnceLock<Option<Step>> = OnceLock::new();
    *STEP.get_or_init(|| {
        let name = std::env::var(BROKEN).ok()?;
        let step = Step::ALL.into_iter().find(|step| format!("{step:?}") == name);
        Some(step.expect("the name of a step"))
    })
}

thread_local! {
    /// How often each branch was reached. (Loom's threads share one thread of the system.)
    static REACHED: RefCell<BTreeMap<String, usize>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts a branch.
pub(super) fn reached(branch: &str) {
    REACHED.with_borrow_mut(|reached| *reached.entry(branch.to_owned()).or_default() += 1);
}

/// Explores a model: it must reach all these branches, and notice each of these steps if it is
/// broken. `test` is the path of the test that calls this.
fn explore(test: &str, model: fn(), branches: &[&str], steps: &[Step]) {
    // Processes are many times the work of one model: one after the other.
    static ONE: Mutex<()> = Mutex::new(());

    let mut builder = loom::model::Builder::new();
    // Without a bound the largest models take hours. Few faults need more than two preemptions.
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(model);
    if broken().is_some() {
        return;
    }
    let reached = REACHED.with_borrow(BTreeMap::clone);
    for branch in branches {
        assert!(reached.contains_key(*branch), "never reached: {branch}; only {reached:?}");
    }
    println!("{test}: {reached:?}");
    for step in steps {
        let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let test = test.trim_start_matches("mbuf::");
        // A process of its own: what has failed in a model leaves threads in the middle of things.
        let output = Command::new(std::env::current_exe().expect("the path of this program"))
            .args([test, "--exact", "--nocapture"])
            .env(BROKEN, format!("{step:?}"))
            .output()
            .expect("this program starts once more");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{test} does not notice that {step:?} is broken");
        // Loom's words, the models' own, and those of `watch.rs`.
        let signs = ["Causality violation", "a model's claim", "given out while it is in use"];
        assert!(
            signs.iter().any(|sign| said.contains(sign)),
            "{test} with {step:?} broken fails for another reason: {said}"
        );
    }
}
