//! Ctrl-C and SIGTERM.

use std::{
    fs,
    io::Read,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use mbuf::io::reactor::Handle;
use signal_hook::{consts::TERM_SIGNALS, low_level::pipe};

use super::print;

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
    scrap: Mutex<Vec<PathBuf>>,
}

impl Stop {
    /// Shuts reactors down, orderly, at the first signal that asks the program to end (SIGINT,
    /// SIGTERM, SIGQUIT). A later one ends the program at once, with that exit status: an orderly
    /// end may take seconds.
    pub fn on_signals(program: &'static str, status: i32) -> anyhow::Result<Arc<Self>> {
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
                        print::complain(format_args!(
                            "{program}: ending, which may take up to {GRACE:?}; again to end at once"
                        ));
                        asked.ask(program);
                    }
                    Some(first) if Instant::now() - first < IMPATIENT => continue,
                    Some(_) => {
                        print::complain(format_args!("{program}: ended by another signal"));
                        for path in lock(&asked.scrap).drain(..) {
                            let _ = fs::remove_dir_all(path);
                        }
                        std::process::exit(status);
                    }
                }
                first = Some(Instant::now());
            }
        })?;
        Ok(stop)
    }

    /// The reactor ends when the program shall, which may have been said already.
    pub fn ends(&self, reactor: Handle) {
        let mut reactors = lock(&self.reactors);
        if self.is_asked() {
            let _ = reactor.shutdown();
        }
        reactors.push(reactor);
    }

    /// A folder that is not to be left behind, not even when the program ends at once.
    pub fn leaves_without(&self, folder: impl Into<PathBuf>) {
        lock(&self.scrap).push(folder.into());
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(SeqCst)
    }

    fn ask(&self, program: &str) {
        let reactors = lock(&self.reactors);
        self.asked.store(true, SeqCst);
        for reactor in reactors.iter() {
            if let Err(error) = reactor.shutdown() {
                print::complain(format_args!("{program}: {error}"));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
