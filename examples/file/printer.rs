//! Lines and progress, printed by a thread of their own, so that no layer waits for a terminal.

use std::{
    io::{self, IsTerminal},
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mbuf::Pool;
use serde_json::{Value, json};

use crate::{
    bars::Bars,
    cli::CommonArgs,
    common::{print, stop::GRACE},
    transfer::Transfer,
};

/// Lines that may wait to be printed. Where standard output is not read that long, the program
/// waits: else lines would pile up in memory.
const WAITING: usize = 4096;
/// How often progress is drawn.
const REDRAW: Duration = Duration::from_millis(100);

enum Message {
    Say(String),
    Complain(String),
    Show(Transfer),
    End,
}

/// The thread that prints.
#[derive(Debug)]
pub struct Printer {
    lines: Lines,
    thread: JoinHandle<()>,
}

/// Where lines are left to be printed.
#[derive(Debug, Clone)]
pub struct Lines {
    tell: SyncSender<Message>,
    json: bool,
    quiet: bool,
    progress: bool,
}

impl Printer {
    pub fn start(args: &CommonArgs) -> anyhow::Result<Self> {
        Self::with(args, args.quiet)
    }

    /// Draws progress, and prints only what goes wrong.
    pub fn silent(args: &CommonArgs) -> anyhow::Result<Self> {
        Self::with(args, true)
    }

    fn with(args: &CommonArgs, quiet: bool) -> anyhow::Result<Self> {
        let (tell, told) = mpsc::sync_channel(WAITING);
        let lines = Lines {
            tell,
            json: args.json,
            quiet,
            progress: !args.quiet && io::stderr().is_terminal(),
        };
        let mut bars = Bars::new(lines.progress);
        let thread = thread::Builder::new().name("printer".into()).spawn(move || {
            loop {
                match told.recv_timeout(REDRAW) {
                    Ok(Message::Say(line)) => bars.suspend(|| print::say(format_args!("{line}"))),
                    Ok(Message::Complain(line)) => {
                        bars.suspend(|| print::complain(format_args!("{line}")));
                    }
                    Ok(Message::Show(transfer)) => bars.add(transfer),
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => break bars.clear(),
                }
                bars.draw(REDRAW);
            }
        })?;
        Ok(Self { lines, thread })
    }

    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Prints what is left.
    pub fn finish(self) {
        self.lines.tell(Message::End);
        // What it has printed is all that it could.
        let _ = self.thread.join();
    }
}

impl Lines {
    /// For people, on standard output.
    pub fn say(&self, line: String) {
        if !self.json && !self.quiet {
            self.tell(Message::Say(line));
        }
    }

    /// The same, also when there is to be little.
    pub fn announce(&self, line: String) {
        if !self.json {
            self.tell(Message::Say(line));
        }
    }

    /// For people, on standard error: what they should know, but not what has gone wrong.
    pub fn remark(&self, line: String) {
        if !self.quiet {
            self.tell(Message::Complain(line));
        }
    }

    /// For people, on standard error.
    pub fn complain(&self, line: String) {
        self.tell(Message::Complain(line));
    }

    /// For scripts, on standard output.
    pub fn json(&self, event: &str, rest: impl FnOnce() -> Value) {
        if self.json {
            let mut object = json!({ "event": event });
            if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest()) {
                object.extend(rest);
            }
            self.tell(Message::Say(object.to_string()));
        }
    }

    /// Whether progress is drawn.
    pub fn has_progress(&self) -> bool {
        self.progress
    }

    /// Complains if buffers are in use that nobody has any more. Stores give theirs back in threads
    /// of their own.
    pub fn check(&self, pool: &Pool) {
        let until = Instant::now() + GRACE;
        let in_use = || {
            pool.flush();
            pool.stats().in_use()
        };
        while in_use() > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        let leaked = in_use();
        if leaked > 0 {
            self.complain(format!("file: LEAK: {leaked} buffers are still in use"));
        }
    }

    /// Shows a transfer's progress until it has ended.
    pub fn show(&self, transfer: &Transfer) {
        self.tell(Message::Show(transfer.clone()));
    }

    fn tell(&self, message: Message) {
        // Without its thread nothing can be printed any more.
        let _ = self.tell.send(message);
    }
}
