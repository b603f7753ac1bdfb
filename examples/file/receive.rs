//! The receiver: a listener, a folder, and a layer from `mbuf-protocols` for each connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::Context;
use mbuf::{
    BuildError, Pool,
    io::{
        raise_file_limit,
        reactor::{Accepted, Closed, Handle, Reactor},
        store::Folder,
    },
    stack::Stack,
};
use mbuf_protocols::file::FileReceiver;
use serde_json::json;

use crate::{
    Status,
    cli::ReceiveArgs,
    common::stop::{self, Stop},
    printer::{Lines, Printer},
    transfer::{End, Transfer},
};

/// Transfers at once. Further connections are closed as soon as they are made.
const TRANSFERS: usize = 64;

/// The command `receive`.
pub fn run(args: &ReceiveArgs) -> anyhow::Result<Status> {
    let folder =
        Folder::open(&args.into).context("--into")?.sink(args.sink.kind()).sync(!args.no_sync);
    let pool = Pool::with_memory(args.common.memory).context("--memory")?;
    let stop = Stop::on_signals("file", Status::Interrupted as i32)?;
    let printer = Printer::start(&args.common)?;
    let result = receive(args, folder, &pool, &stop, printer.lines());
    printer.finish();
    result
}

fn receive(
    args: &ReceiveArgs,
    folder: Folder,
    pool: &Pool,
    stop: &Stop,
    lines: &Lines,
) -> anyhow::Result<Status> {
    raise_file_limit().context("limit of open files")?;
    let idle = (!args.common.idle.is_zero()).then_some(args.common.idle);
    let transfers = Transfers::new(args, lines);
    let on_close = {
        let transfers = transfers.clone();
        move |closed: &Closed<'_>| transfers.ended(closed)
    };
    let mut builder = Reactor::builder(pool)
        .max_connections(if args.once { 1 } else { TRANSFERS })
        .idle_timeout(idle)
        .grace(stop::GRACE)
        // What a session may have with its store bounds it more closely; and a disk that stands
        // still for a second is no reason to close anything.
        .quota(usize::MAX)
        .on_close(on_close);
    if let Some(idle) = idle {
        builder = builder.patience(idle);
    }
    let mut reactor = builder.build().context("reactor")?;
    let folder = Arc::new(folder);
    let factory = {
        let (transfers, folder) = (transfers.clone(), folder.clone());
        move |accepted: &Accepted, pool: &Pool| transfers.begin(accepted, &folder, pool)
    };
    let address = reactor.listen_tcp(args.listen, factory).context("--listen")?;
    transfers.0.reactor.get_or_init(|| reactor.handle());
    stop.ends(reactor.handle());

    let into = args.into.display();
    if address.ip().is_loopback() {
        lines.remark(format!(
            "file: neither encrypted nor authenticated: whoever uses this machine can put files \
             into {into}; Ctrl-C ends it"
        ));
    } else {
        lines.complain(format!(
            "file: WARNING: {address} IS REACHED FROM OTHER MACHINES. Neither encrypted nor \
             authenticated: whoever reaches it can put files into {into}, and whoever is on the \
             way can read and change them. Ctrl-C ends it"
        ));
    }
    lines.json("listening", || json!({ "address": address.to_string() }));
    lines.announce(format!("listening on tcp {address}"));

    reactor.run().context("epoll_wait")?;
    drop(reactor);
    // What was not finished is removed.
    folder.wait(stop::GRACE);
    lines.check(pool);
    let interrupted = if stop.is_asked() { Status::Interrupted } else { Status::Local };
    Ok(transfers.first().unwrap_or(interrupted))
}

/// The transfers that are going on, shared by the listener and whoever is told of ends.
#[derive(Debug, Clone)]
struct Transfers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    once: bool,
    overwrite: bool,
    mix_case: bool,
    idle: Duration,
    in_store: usize,
    lines: Lines,
    reactor: OnceLock<Handle>,
    going: Mutex<HashMap<String, Transfer>>,
    /// With `--once`: how the transfer ended.
    first: OnceLock<Status>,
}

impl Transfers {
    fn new(args: &ReceiveArgs, lines: &Lines) -> Self {
        Self(Arc::new(Shared {
            once: args.once,
            overwrite: args.overwrite,
            mix_case: args.mix_case,
            idle: args.common.idle,
            // Several transfers must leave each other room.
            in_store: (args.common.memory / 8).min(2 << 20),
            lines: lines.clone(),
            reactor: OnceLock::new(),
            going: Mutex::default(),
            first: OnceLock::new(),
        }))
    }

    /// The stack of a connection: each has a store of its own.
    fn begin(
        &self,
        accepted: &Accepted,
        folder: &Folder,
        pool: &Pool,
    ) -> Result<Stack, BuildError> {
        let shared = &*self.0;
        let store = folder.store(pool).map_err(|error| {
            shared.lines.complain(format!("file: {}: {error}", accepted.peer));
            BuildError::Stack(error.to_string())
        })?;
        let transfer = Transfer::new(End::Receiver, &accepted.peer, &shared.lines);
        let stack = FileReceiver::new(Box::new(store))
            .overwrite(shared.overwrite)
            .mix_case(shared.mix_case)
            .in_store(shared.in_store)
            .silent_after(if shared.idle.is_zero() { Duration::MAX } else { shared.idle })
            .on_event(transfer.listener())
            .stack(pool)?;
        self.going().insert(accepted.peer.to_string(), transfer);
        Ok(stack)
    }

    fn ended(&self, closed: &Closed<'_>) {
        let shared = &*self.0;
        let Some(transfer) = self.going().remove(&closed.peer.to_string()) else { return };
        let status = transfer.closed(closed, shared.idle);
        // Whoever only looks whether somebody listens has sent nothing.
        let silent = closed.stack.ports.iter().all(|port| port.received == 0);
        if shared.once && (!silent || status == Status::Interrupted) {
            let _ = shared.first.set(status);
            if let Some(reactor) = shared.reactor.get()
                && let Err(error) = reactor.shutdown()
            {
                shared.lines.complain(format!("file: {error}"));
            }
        }
    }

    fn first(&self) -> Option<Status> {
        self.0.first.get().copied()
    }

    fn going(&self) -> MutexGuard<'_, HashMap<String, Transfer>> {
        self.0.going.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
