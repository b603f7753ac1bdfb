//! The sender: one connection, and a layer from `mbuf-protocols` over the files that were named.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context;
use mbuf::{
    Pool,
    io::{
        CallError,
        reactor::{Closed, Reactor},
        store,
    },
};
use mbuf_protocols::file::FileSender;
use serde_json::json;

use crate::{
    Status,
    cli::SendArgs,
    common::stop::{self, Stop},
    printer::{Lines, Printer},
    transfer::{End, Figures, Transfer},
    walk,
};

/// The command `send`.
pub fn run(args: &SendArgs) -> anyhow::Result<Status> {
    let pool = Pool::with_memory(args.common.memory).context("--memory")?;
    let stop = Stop::on_signals("file", Status::Interrupted as i32)?;
    let printer = Printer::start(&args.common)?;
    let result = send(args, &pool, &stop, printer.lines());
    printer.finish();
    Ok(result?.0)
}

/// Sends to the first of the receiver's addresses that answers. The figures are there if the
/// transfer has come to its end.
pub fn send(
    args: &SendArgs,
    pool: &Pool,
    stop: &Stop,
    lines: &Lines,
) -> anyhow::Result<(Status, Option<Figures>)> {
    let addresses = match args.to.to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return Ok((unreachable_at(args, &error.to_string(), lines), None)),
    };
    let mut why = "it has no address".to_owned();
    for address in addresses {
        if stop.is_asked() {
            break;
        }
        match attempt(args, address, pool, stop, lines)? {
            Attempt::Connected(status, figures) => return Ok((status, figures)),
            Attempt::Refused(error) => why = error,
        }
    }
    let interrupted = stop.is_asked();
    let status = if interrupted { Status::Interrupted } else { unreachable_at(args, &why, lines) };
    Ok((status, None))
}

fn unreachable_at(args: &SendArgs, why: &str, lines: &Lines) -> Status {
    let to = &args.to;
    lines.json("broken", || json!({ "peer": to, "error": why, "status": Status::Broken as u8 }));
    lines.complain(format!("file: no connection to {to}: {why}"));
    lines.remark(format!("file: is `file receive --listen {to} --into DIR` running there?"));
    Status::Broken
}

/// What came of an address.
enum Attempt {
    Connected(Status, Option<Figures>),
    /// There was no connection, and why.
    Refused(String),
}

/// What came of the session.
type Outcome = Arc<Mutex<Option<Attempt>>>;

fn attempt(
    args: &SendArgs,
    address: SocketAddr,
    pool: &Pool,
    stop: &Stop,
    lines: &Lines,
) -> anyhow::Result<Attempt> {
    let transfer = Transfer::new(End::Sender, address, lines);
    let outcome = Outcome::default();
    let idle = args.common.idle;
    let on_close = {
        let (transfer, outcome) = (transfer.clone(), outcome.clone());
        move |closed: &Closed<'_>| {
            let attempt = match closed.error {
                Some(error) if is_of_connect(error) => Attempt::Refused(reason(error)),
                _ => {
                    let status = transfer.closed(closed, idle);
                    Attempt::Connected(status, transfer.state().figures.take())
                }
            };
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(attempt);
        }
    };
    let mut reactor = Reactor::builder(pool)
        .max_connections(1)
        .idle_timeout((!idle.is_zero()).then_some(idle))
        .grace(stop::GRACE)
        // There is one session, and its layers are bounded.
        .quota(usize::MAX)
        .on_close(on_close)
        .build()
        .context("reactor")?;
    let items = walk::items(args.paths.clone(), args.name.clone());
    let store = store::sender(pool, args.source.kind(), items).context("the thread that reads")?;
    let stack = FileSender::new(store)
        .preserve(args.preserve)
        .silent_after(if idle.is_zero() { Duration::MAX } else { idle })
        .on_event(transfer.listener())
        .stack(pool)?;
    if let Err(error) = reactor.connect_tcp(address, stack) {
        return Ok(Attempt::Refused(reason(&error)));
    }
    stop.ends(reactor.handle());
    if !address.ip().is_loopback() {
        lines
            .remark(format!("file: what goes to {address} is neither encrypted nor authenticated"));
    }
    if lines.has_progress() {
        count_ahead(args, &transfer)?;
    }
    while !reactor.is_idle() && reactor.poll(None)? {}
    drop(reactor);
    let attempt = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    // Refused, it has no end of its own.
    let status = *transfer.state().status.get_or_insert(Status::Broken);
    // Where it was broken off, a thread may still wait for standard input, with room for it.
    if status == Status::Whole {
        lines.check(pool);
    }
    Ok(attempt.unwrap_or(Attempt::Connected(Status::Interrupted, None)))
}

/// Adds up in a thread of its own what there is to send, so that progress knows its end.
fn count_ahead(args: &SendArgs, transfer: &Transfer) -> io::Result<()> {
    let (paths, transfer) = (args.paths.clone(), transfer.clone());
    let count = move || {
        let total = walk::total(&paths);
        transfer.state().total = total;
    };
    thread::Builder::new().name("count".into()).spawn(count).map(|_| ())
}

/// Whether there was no connection yet.
fn is_of_connect(error: &io::Error) -> bool {
    call_error(error).is_some_and(|error| error.call() == "connect to")
}

/// `connect to 127.0.0.1:7070: ECONNREFUSED (Connection refused)` without the address.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match call_error(error) {
        Some(call) => text.replacen(&format!("{} {}: ", call.call(), call.object()), "", 1),
        None => text,
    }
}

fn call_error(error: &io::Error) -> Option<&CallError> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_is_told_from_one_that_was_lost() {
        let error = mbuf::io::Stream::connect_unix("/nonexistent".as_ref()).unwrap_err();
        assert!(is_of_connect(&error));
        assert_eq!(reason(&error), "ENOENT (No such file or directory)");
        assert!(!is_of_connect(&io::Error::other("odd: very")));
        assert_eq!(reason(&io::Error::other("odd: very")), "odd: very");
    }
}
