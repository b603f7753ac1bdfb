//! Files into a folder: reactors that send and receive them, and the book in which both ends write
//! down what they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context;
use mbuf::{
    BuildError, Pool,
    io::{
        SinkKind, SourceKind,
        reactor::{Accepted, CloseReason, Closed, Reactor, ReactorStats, SessionId},
        store::{self, Folder, Item, Name, What},
    },
    stack::{DropReason, PortId, Stack, StackStats},
};
use mbuf_protocols::file::{Event, FileReceiver, FileSender};

use super::shared::{PATIENCE, Shared, Worker, add, lock};
use crate::tcp_many::{Random, fill};

/// What is small enough for the pool, and for many transfers at once.
const CHUNK: usize = 64 << 10;
const AHEAD: usize = 256 << 10;
/// Transfers at once.
const TRANSFERS: usize = 3;

/// The files that are sent.
#[derive(Debug)]
pub struct Sources(Vec<PathBuf>);

impl Sources {
    /// Makes them: of nothing, of odd lengths, and one with holes.
    pub fn make(folder: &Path, seed: u64) -> anyhow::Result<Self> {
        let lengths = [0, 1, 777, 4_096, 65_536, 100_001, 300_000, 1 << 20, 2_500_000];
        let mut paths = Vec::new();
        for (at, length) in lengths.into_iter().enumerate() {
            let mut bytes = vec![0; length];
            fill(seed ^ at as u64, 0, &mut bytes);
            let path = folder.join(format!("source{at}"));
            fs::write(&path, bytes).with_context(|| path.display().to_string())?;
            paths.push(path);
        }
        let path = folder.join("sparse");
        let file = File::create(&path)?;
        file.set_len(1_500_000)?;
        file.write_all_at(&[7; 5_000], 700_000)?;
        paths.push(path);
        Ok(Self(paths))
    }
}

/// What both ends of all transfers have said.
#[derive(Debug, Default)]
pub struct Book {
    /// By number, until they are checked.
    pub sent: BTreeMap<u64, Sending>,
    pub receiving: Vec<Receiving>,
}

/// The sender's end of a transfer.
#[derive(Debug)]
pub struct Sending {
    /// Which source each file is, by its name.
    pub files: BTreeMap<String, PathBuf>,
    pub end: Arc<Mutex<End>>,
}

/// The receiver's end.
#[derive(Debug)]
pub struct Receiving {
    pub peer: String,
    pub folder: Folder,
    pub end: Arc<Mutex<End>>,
}

/// What one end was told.
#[derive(Debug)]
pub struct End {
    /// The transfer, as far as it is known from the names.
    pub no: Option<u64>,
    pub moved: Instant,
    pub done: BTreeSet<String>,
    pub failed: Vec<String>,
    /// Files that are whole, and that failed, as it was said in the end.
    pub finished: Option<(u64, u64)>,
    pub broken: Option<String>,
    /// Why the session has ended, and when.
    pub closed: Option<(CloseReason, Instant)>,
}

impl End {
    fn new(no: Option<u64>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            no,
            moved: Instant::now(),
            done: BTreeSet::new(),
            failed: Vec::new(),
            finished: None,
            broken: None,
            closed: None,
        }))
    }

    fn hear(&mut self, event: &Event<'_>) {
        self.moved = Instant::now();
        match event {
            Event::Started { name, .. } => self.no = self.no.or(number(name.as_str())),
            Event::Done { name, .. } => _ = self.done.insert(name.to_string()),
            Event::Failed { trouble, .. } => self.failed.push(trouble.to_string()),
            Event::Finished(summary) => self.finished = Some((summary.files, summary.failed)),
            Event::Broken(trouble) => self.broken = Some(trouble.to_string()),
            _ => {}
        }
    }
}

/// The number of the transfer that a name belongs to: `t17/3`.
fn number(name: &str) -> Option<u64> {
    name.strip_prefix('t')?.split_once('/')?.0.parse().ok()
}

pub type Shelf = Arc<Mutex<Book>>;

/// The reactor that receives, and where it listens.
pub fn receiver(
    shared: &Arc<Shared>,
    book: &Shelf,
    inbox: &Path,
) -> anyhow::Result<(Reactor, SocketAddr)> {
    let on_close = {
        let book = Arc::clone(book);
        move |closed: &Closed<'_>| {
            let peer = closed.peer.to_string();
            let book = lock(&book);
            let open = |end: &Arc<Mutex<End>>| lock(end).closed.is_none();
            let mut its = book.receiving.iter().filter(|it| it.peer == peer && open(&it.end));
            if let Some(receiving) = its.next() {
                lock(&receiving.end).closed = Some((closed.reason, Instant::now()));
            }
        }
    };
    let mut reactor = Reactor::builder(&shared.pool)
        .max_connections(2 * TRANSFERS + 2)
        .quota(usize::MAX)
        .patience(Duration::from_secs(3))
        .on_close(on_close)
        .build()?;
    let (book, inbox) = (Arc::clone(book), inbox.to_owned());
    let mut random = shared.random(100);
    let factory = move |accepted: &Accepted, pool: &Pool| -> Result<Stack, BuildError> {
        let failed = |error: std::io::Error| BuildError::Stack(error.to_string());
        let sink = if random.below(2) == 0 { SinkKind::Pwritev } else { SinkKind::Mapped };
        // Its own, so that the end of its thread can be waited for.
        let folder = Folder::open(&inbox).map_err(failed)?.sink(sink).sync(random.below(3) == 0);
        let end = End::new(None);
        let told = Arc::clone(&end);
        let stack = FileReceiver::new(Box::new(folder.store(pool).map_err(failed)?))
            .chunk(CHUNK)
            .in_store(2 * AHEAD)
            .on_event(move |event| lock(&told).hear(&event))
            .stack(pool)?;
        let peer = accepted.peer.to_string();
        lock(&book).receiving.push(Receiving { peer, folder, end });
        Ok(stack)
    };
    let address = reactor.listen_tcp("127.0.0.1:0".parse()?, factory)?;
    Ok((reactor, address))
}

/// The reactor that sends. Its ends are told by number.
pub struct Sender {
    reactor: Reactor,
    to: SocketAddr,
    sources: Sources,
    book: Shelf,
    random: Random,
    /// Those that go on: the session, the number, and when they are to be cut.
    going: Vec<(SessionId, u64, Option<Instant>)>,
    ended: Arc<Mutex<Vec<(SessionId, CloseReason)>>>,
    next: u64,
}

impl Sender {
    pub fn new(
        shared: &Arc<Shared>,
        book: &Shelf,
        sources: Sources,
        to: SocketAddr,
    ) -> anyhow::Result<Self> {
        let ended = Arc::<Mutex<Vec<_>>>::default();
        let told = Arc::clone(&ended);
        let reactor = Reactor::builder(&shared.pool)
            .max_connections(TRANSFERS)
            .quota(usize::MAX)
            .patience(Duration::from_secs(3))
            .on_close(move |closed| lock(&told).push((closed.id, closed.reason)))
            .build()?;
        let (book, random) = (Arc::clone(book), shared.random(101));
        Ok(Self { reactor, to, sources, book, random, going: Vec::new(), ended, next: 0 })
    }

    pub fn handle(&self) -> mbuf::io::reactor::Handle {
        self.reactor.handle()
    }

    /// Sends until the end, and then what is on its way.
    pub fn run(mut self, shared: &Shared, worker: &Worker) -> (ReactorStats, StackStats) {
        let mut next = Instant::now();
        while !(shared.is_over() && self.going.is_empty()) {
            if !shared.is_over() && self.going.len() < TRANSFERS && Instant::now() >= next {
                if let Err(error) = self.begin(shared) {
                    shared.found(format!("a transfer cannot begin: {error:#}"));
                }
                next = Instant::now() + Duration::from_millis(20 + self.random.next() % 200);
            }
            if let Err(error) = self.reactor.poll(Some(Duration::from_millis(10))) {
                shared.found(format!("the sending reactor: {error}"));
                break;
            }
            self.settle(shared, worker);
            self.cut();
            let going = self.going.iter().map(|&(_, no, _)| no).collect::<Vec<_>>();
            worker.at(format!("transfers {going:?} on their way"));
            if self.going.is_empty() {
                worker.moved();
            }
        }
        self.reactor.shutdown();
        while self.reactor.poll(Some(Duration::from_millis(50))).unwrap_or(false) {}
        (self.reactor.stats(), self.reactor.stack_stats())
    }

    fn begin(&mut self, shared: &Shared) -> anyhow::Result<()> {
        let no = self.next;
        let mut files = BTreeMap::new();
        let mut items = Vec::new();
        for at in 0..1 + self.random.below(4) {
            let source = &self.sources.0[self.random.below(self.sources.0.len())];
            let name = format!("t{no}/{at}");
            let what = match self.random.below(4) {
                0 => What::Stream(Box::new(File::open(source)?)),
                _ => What::File(source.clone()),
            };
            items.push(Item { name: Name::parse(name.as_bytes())?, shown: name.clone(), what });
            files.insert(name, source.clone());
        }
        let mapped = self.random.below(2) == 0;
        let kind = if mapped { SourceKind::Mapped } else { SourceKind::Preadv };
        let store = store::sender(&shared.pool, kind, items.into_iter())?;
        let end = End::new(Some(no));
        let told = Arc::clone(&end);
        let stack = FileSender::new(store)
            .chunk(CHUNK)
            .read_ahead(AHEAD)
            .preserve(self.random.below(2) == 0)
            .on_event(move |event| lock(&told).hear(&event))
            .stack(&shared.pool)?;
        let Ok(id) = self.reactor.connect_tcp(self.to, stack) else {
            return Ok(()); // an injected fault; the next one may be luckier
        };
        self.next += 1;
        add(&shared.counts.transfers, 1);
        lock(&self.book).sent.insert(no, Sending { files, end });
        let after = Duration::from_millis(self.random.next() % 150);
        let cut = (self.random.below(6) == 0).then(|| Instant::now() + after);
        self.going.push((id, no, cut));
        Ok(())
    }

    /// Writes down which have ended.
    fn settle(&mut self, shared: &Shared, worker: &Worker) {
        for (id, reason) in lock(&self.ended).drain(..) {
            let Some(at) = self.going.iter().position(|&(its, ..)| its == id) else { continue };
            let (_, no, _) = self.going.swap_remove(at);
            worker.moved();
            if let Some(sending) = lock(&self.book).sent.get(&no) {
                lock(&sending.end).closed = Some((reason, Instant::now()));
            }
        }
        for &(_, no, _) in &self.going {
            let book = lock(&self.book);
            let Some(sending) = book.sent.get(&no) else { continue };
            let end = lock(&sending.end);
            if end.moved.elapsed() > PATIENCE {
                let files = &sending.files;
                shared.found(format!("HANG: transfer {no} stands still: {files:?}\n{end:#?}"));
                self.going.clear();
                return;
            }
        }
    }

    /// Cuts those whose time has come: by a reset, or in order but halfway.
    fn cut(&mut self) {
        let now = Instant::now();
        for (id, _, cut) in &mut self.going {
            if cut.is_none_or(|at| at > now) {
                continue;
            }
            *cut = None;
            if self.random.below(2) == 0 {
                self.reactor.close(*id);
            } else if let Some(stack) = self.reactor.stack_mut(*id) {
                stack.abort(PortId(0), DropReason("cut"));
            }
        }
    }
}

/// Looks, without mbuf, at what has come of the transfers, until the sender has ended and all are
/// looked at.
pub fn check(
    shared: &Shared,
    worker: &Worker,
    book: &Shelf,
    inbox: &Path,
    ended: impl Fn() -> bool,
) {
    loop {
        let last = ended();
        let closed = |end: &Mutex<End>| lock(end).closed;
        let ready: Vec<u64> = {
            let book = lock(book);
            let sent = book.sent.iter().filter(|(_, sending)| closed(&sending.end).is_some());
            sent.map(|(&no, _)| no).collect()
        };
        worker.at(format!("to be checked: {ready:?}"));
        for no in ready {
            match check_one(shared, book, no, inbox) {
                Ok(true) => worker.moved(),
                Ok(false) => {}
                Err(what) => {
                    return shared.found(format!("transfer {no}: {what}"));
                }
            }
        }
        let left = lock(book).sent.len();
        if left == 0 {
            worker.moved();
            if last {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the transfer could be checked already. An error is a finding.
fn check_one(shared: &Shared, book: &Shelf, no: u64, inbox: &Path) -> Result<bool, String> {
    let (there, folder, unknown, since) = {
        let book = lock(book);
        let its = book.receiving.iter().find(|it| lock(&it.end).no == Some(no));
        let Some(since) = book.sent.get(&no).and_then(|it| lock(&it.end).closed) else {
            return Ok(false);
        };
        let unknown = book.receiving.iter().any(|it| {
            let end = lock(&it.end);
            end.no.is_none() && end.closed.is_none()
        });
        let closed = its.map(|it| lock(&it.end).closed);
        (closed, its.map(|it| it.folder.clone()), unknown, since.1)
    };
    match (there, folder) {
        (Some(None), _) if since.elapsed() < PATIENCE => return Ok(false),
        (Some(None), _) => return Err("HANG: the receiver does not see the end".into()),
        (Some(Some(_)), Some(folder)) if !folder.wait(PATIENCE / 2) => {
            return Err("HANG: the store's thread does not end".into());
        }
        (Some(Some(_)), _) => {}
        // It did not come so far, or was not looked at yet.
        (None, _) if since.elapsed() < Duration::from_secs(3) => return Ok(false),
        (None, _) if unknown && since.elapsed() < PATIENCE => return Ok(false),
        (None, _) => {}
    }
    let mut book = lock(book);
    let Some(sending) = book.sent.remove(&no) else { return Ok(false) };
    let receiving = book.receiving.iter().position(|it| lock(&it.end).no == Some(no));
    let receiving = receiving.map(|at| book.receiving.swap_remove(at));
    // Those of connections on which nothing was ever begun.
    book.receiving.retain(|it| {
        let end = lock(&it.end);
        end.no.is_some() || end.closed.is_none_or(|(_, at)| at.elapsed() < PATIENCE)
    });
    drop(book);
    let sender = lock(&sending.end);
    let receiver = receiving.as_ref().map(|it| lock(&it.end));
    let ends = || format!("\nsender {sender:#?}\nreceiver {receiver:#?}");

    let mut found = BTreeSet::new();
    let folder = inbox.join(format!("t{no}"));
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.to_string()),
    };
    for entry in entries {
        let name = format!("t{no}/{}", entry.file_name().to_string_lossy());
        let Some(source) = sending.files.get(&name) else {
            return Err(format!("LEFT BEHIND: {name}{}", ends()));
        };
        match same(source, &entry.path()) {
            Ok(Some(bytes)) => add(&shared.counts.file_bytes, bytes),
            Ok(None) => return Err(format!("WRONG BYTES in {name}{}", ends())),
            Err(error) => return Err(format!("{name}: {error}")),
        }
        add(&shared.counts.files, 1);
        found.insert(name);
    }
    let told = receiver.iter().flat_map(|end| &end.done).chain(&sender.done);
    if let Some(missing) = told.into_iter().find(|name| !found.contains(*name)) {
        return Err(format!("MISSING: {missing}, which was said to be there{}", ends()));
    }
    add(&shared.counts.files_failed, sender.failed.len() as u64);
    match sender.finished {
        Some((files, failed)) => {
            let all = sending.files.len() as u64;
            if files + failed != all || failed != sender.failed.len() as u64 {
                return Err(format!("{all} files were sent{}", ends()));
            }
            if failed == 0 {
                add(&shared.counts.transfers_whole, 1);
            }
        }
        None => {
            let orderly = sender.closed.is_some_and(|(reason, _)| reason == CloseReason::FINISHED);
            if orderly && sender.broken.is_none() {
                return Err(format!("SILENT: neither finished nor broken{}", ends()));
            }
            add(&shared.counts.transfers_broken, 1);
        }
    }
    if let Err(error) = fs::remove_dir_all(&folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(format!("{}: {error}", folder.display()));
    }
    Ok(true)
}

/// The bytes of two files, if they are the same.
fn same(source: &Path, other: &Path) -> std::io::Result<Option<u64>> {
    let (mut source, mut other) = (File::open(source)?, File::open(other)?);
    let length = source.metadata()?.len();
    if other.metadata()?.len() != length {
        return Ok(None);
    }
    let (mut here, mut there) = ([0; 16 << 10], [0; 16 << 10]);
    loop {
        let n = source.read(&mut here)?;
        if n == 0 {
            return Ok(Some(length));
        }
        other.read_exact(&mut there[..n])?;
        if here[..n] != there[..n] {
            return Ok(None);
        }
    }
}
