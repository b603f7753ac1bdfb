//! Ctrl-C and SIGTERM.

use std::{
    io::Read,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use mbuf::io::reactor::Handle;
use signal_hook::{consts::TERM_SIGNALS, low_level::pipe};

use crate::report;

/// How long sessions may take to finish once the program shall end.
pub const GRACE: Duration = Duration::from_secs(5);
/// A signal that follows the first more quickly is the same wish once more: timeout(1), for one,
/// tells the process and its group.
const IMPATIENT: Duration = Duration::from_millis(500);

/// The wish to end: made by a signal, carried out by every reactor that was shown to it.
#[derive(Debug, Default)]
pub struct Stop {
    asked: AtomicBool,
    reactors: Mutex<Vec<Handle>>,
}

impl Stop {
    /// Shuts reactors down, orderly, at the first signal that asks the program to end (SIGINT,
    /// SIGTERM, SIGQUIT). A later one ends the program at once: an orderly end may take seconds.
    pub fn on_signals() -> anyhow::Result<Arc<Self>> {
        let stop = Arc::new(Self::default());
        let (mut told, tell) = UnixStream::pair().context("socketpair for signals")?;
        for &signal in TERM_SIGNALS {
            let tell = tell.try_clone().context("dup for signals")?;
            pipe::register(signal, tell).with_context(|| format!("handler of signal {signal}"))?;
        }
        let asked = stop.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            let mut byte = [0];
            let mut first = None;
            while told.read_exact(&mut byte).is_ok() {
                match first {
                    None => {
                        report::complain(format_args!(
                            "echo: ending, which may take up to {GRACE:?}; again to end at once"
                        ));
                        asked.ask();
                    }
                    Some(first) if Instant::now() - first < IMPATIENT => continue,
                    Some(_) => {
                        report::complain(format_args!("echo: ended by another signal"));
                        std::process::exit(1);
                    }
                }
                first = Some(Instant::now());
            }
        })?;
        Ok(stop)
    }

    /// The reactor ends when the program shall, which may have been said already.
    pub fn ends(&self, reactor: Handle) {
        self.reactors().push(reactor);
        if self.is_asked() {
            self.ask();
        }
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(SeqCst)
    }

    fn ask(&self) {
        self.asked.store(true, SeqCst);
        for reactor in self.reactors().iter() {
            if let Err(error) = reactor.shutdown() {
                report::complain(format_args!("echo: {error}"));
            }
        }
    }

    fn reactors(&self) -> std::sync::MutexGuard<'_, Vec<Handle>> {
        self.reactors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
