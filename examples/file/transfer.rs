//! One transfer, as its layer tells of it, and what is said of it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, HumanCount};
use mbuf::io::reactor::{CloseReason, Closed};
use mbuf_protocols::file::{Code, Event, Summary, Trouble};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{Status, printer::Lines};

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Sender,
    Receiver,
}

/// A transfer, shared by its layer, its reactor and the thread that shows its progress.
#[derive(Debug, Clone)]
pub struct Transfer(Arc<Mutex<State>>);

/// What is known of a transfer.
#[derive(Debug)]
pub struct State {
    end: End,
    pub peer: String,
    lines: Lines,
    began: Instant,
    /// CPU time of the process when it began.
    cpu: Duration,
    pub moved: u64,
    /// Bytes in all, once they are known.
    pub total: Option<u64>,
    pub current: Current,
    /// Files were refused because they are there already.
    existing: bool,
    pub status: Option<Status>,
    pub figures: Option<Figures>,
}

/// What a transfer has come to, in numbers.
#[derive(Debug, Clone)]
pub struct Figures {
    pub bytes: u64,
    pub elapsed: Duration,
    /// CPU time of this process.
    pub cpu: Duration,
    pub root: String,
}

/// The file that is on its way.
#[derive(Debug, Clone, Default)]
pub struct Current {
    /// It is the n-th.
    pub number: u64,
    pub name: String,
    pub length: Option<u64>,
    pub moved: u64,
}

impl Transfer {
    pub fn new(end: End, peer: impl fmt::Display, lines: &Lines) -> Self {
        let transfer = Self(Arc::new(Mutex::new(State {
            end,
            peer: peer.to_string(),
            lines: lines.clone(),
            began: Instant::now(),
            cpu: cpu(),
            moved: 0,
            total: None,
            current: Current::default(),
            existing: false,
            status: None,
            figures: None,
        })));
        lines.show(&transfer);
        transfer
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the layer tells things to.
    pub fn listener(&self) -> impl FnMut(Event<'_>) + Send + 'static {
        let transfer = self.clone();
        move |event| transfer.state().hear(event)
    }

    /// The connection has ended. How the transfer has.
    pub fn closed(&self, closed: &Closed<'_>, idle: Duration) -> Status {
        let mut state = self.state();
        if let Some(status) = state.status {
            return status;
        }
        let why = match (closed.error, closed.reason) {
            (Some(error), _) => error.to_string(),
            (None, CloseReason::IDLE) => format!("nothing has moved for {idle:?}"),
            (None, CloseReason::SHUTDOWN | CloseReason::GRACE_OVER) => "stopped".into(),
            (None, reason) => format!("the connection ended ({reason})"),
        };
        let stopped = [CloseReason::SHUTDOWN, CloseReason::GRACE_OVER].contains(&closed.reason);
        let status = if stopped { Status::Interrupted } else { Status::Broken };
        state.broken(&why, status)
    }
}

impl State {
    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Started { name, length } => {
                let number = self.current.number + 1;
                self.current = Current { number, name: name.to_string(), length, moved: 0 };
                self.json("started", || json!({ "name": name.as_str(), "length": length }));
            }
            Event::Moved { bytes } => {
                self.moved += bytes;
                self.current.moved += bytes;
            }
            Event::Done { name, length, root } => {
                let root = root.to_hex();
                self.json(
                    "done",
                    || json!({ "name": name.as_str(), "bytes": length, "root": root.as_str() }),
                );
            }
            Event::Failed { name, trouble } => self.failed(name, trouble),
            Event::Finished(summary) => self.finished(summary),
            Event::Broken(trouble) => {
                let stopped = trouble.code == Code::Cancelled && !trouble.from_peer;
                let status = if stopped { Status::Interrupted } else { Status::Broken };
                self.broken(&trouble.to_string(), status);
            }
            _ => {}
        }
    }

    fn failed(&mut self, name: &str, trouble: &Trouble) {
        self.json("failed", || {
            json!({
                "name": name,
                "code": code(trouble.code),
                "error": trouble.text,
                "from_peer": trouble.from_peer,
            })
        });
        self.existing |= trouble.code == Code::Exists;
        let name = printable(name);
        // Most of what goes wrong is told with the name in it.
        if trouble.text.contains(&name) {
            self.lines.complain(format!("file: failed: {trouble}"));
        } else {
            self.lines.complain(format!("file: failed: {name}: {trouble}"));
        }
    }

    fn finished(&mut self, summary: &Summary) {
        let status = if summary.failed == 0 { Status::Whole } else { Status::Partly };
        self.status = Some(status);
        let figures = Figures {
            bytes: summary.bytes,
            elapsed: self.began.elapsed(),
            cpu: cpu() - self.cpu,
            root: summary.root.to_hex().to_string(),
        };
        self.json("finished", || {
            json!({
                "files": summary.files,
                "folders": summary.folders,
                "failed": summary.failed,
                "bytes": figures.bytes,
                "seconds": figures.elapsed.as_secs_f64(),
                "cpu_seconds": figures.cpu.as_secs_f64(),
                "root": figures.root,
                "status": status as u8,
            })
        });
        let (verb, way) = match self.end {
            End::Sender => ("sent", "to"),
            End::Receiver => ("received", "from"),
        };
        let failed = match summary.failed {
            0 => String::new(),
            failed => format!("; {} FAILED", HumanCount(failed)),
        };
        self.lines.say(format!(
            "{verb} {}{} {way} {}: {} in {:.3} s, {}, {:.3} s of CPU{failed}",
            count(summary.files, "file"),
            match summary.folders {
                0 => String::new(),
                folders => format!(" and {}", count(folders, "folder")),
            },
            self.peer,
            HumanBytes(figures.bytes),
            figures.elapsed.as_secs_f64(),
            rate(figures.bytes, figures.elapsed),
            figures.cpu.as_secs_f64(),
        ));
        self.lines.say(format!("root {}", figures.root));
        self.figures = Some(figures);
        if self.existing {
            let text = "file: with `receive --overwrite` files that are there are replaced";
            self.lines.remark(text.into());
        }
    }

    fn broken(&mut self, why: &str, status: Status) -> Status {
        self.status = Some(status);
        self.json("broken", || json!({ "error": why, "status": status as u8 }));
        let way = if self.end == End::Sender { "to" } else { "from" };
        self.lines.complain(format!("file: transfer {way} {} broke off: {why}", self.peer));
        status
    }

    fn json(&self, event: &str, rest: impl FnOnce() -> Value) {
        self.lines.json(event, || {
            let mut object = rest();
            object["peer"] = self.peer.as_str().into();
            object
        });
    }
}

impl Figures {
    /// From what another process has said at the end of its transfer.
    pub fn from_json(finished: &Value) -> Option<Self> {
        let seconds = |key: &str| Duration::try_from_secs_f64(finished[key].as_f64()?).ok();
        Some(Self {
            bytes: finished["bytes"].as_u64()?,
            elapsed: seconds("seconds")?,
            cpu: seconds("cpu_seconds")?,
            root: finished["root"].as_str()?.into(),
        })
    }
}

/// CPU time of this process so far, that of all its threads.
pub fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// `825.8 MB/s`.
pub fn rate(bytes: u64, time: Duration) -> String {
    format!("{:.1} MB/s", bytes as f64 / 1e6 / time.as_secs_f64().max(1e-6))
}

/// `1 file`, `300 files`.
fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", HumanCount(n), if n == 1 { "" } else { "s" })
}

/// `NotAFile` as scripts like it: `not_a_file`.
fn code(code: Code) -> String {
    let mut out = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

/// Names may come from the other end, refused for what is in them: nothing that does something to
/// a terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_people_and_scripts_want_them() {
        assert_eq!(code(Code::NotAFile), "not_a_file");
        assert_eq!(code(Code::Exists), "exists");
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(10_000, "file"), "10,000 files");
        assert_eq!(rate(250_000_000, Duration::from_millis(500)), "500.0 MB/s");
        assert_eq!(printable("a\x1b[2Jb"), "a\u{fffd}[2Jb");
    }

    #[test]
    fn work_takes_cpu_time() {
        let before = cpu();
        let mut x = 1u64;
        while cpu() == before {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(cpu() > before);
    }
}
