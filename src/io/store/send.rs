//! A store that sends what it is given.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    Answer, Done, Failure, FileNo, Name, Request, Store,
    reading::{self, Readings},
    refusal,
    worker::{Work, Worker},
};
use crate::{
    io::{SourceKind, error::rename},
    pool::Pool,
};

/// Something to send.
///
/// ```
/// use mbuf::io::store::{Item, Name, What};
///
/// let item = Item {
///     name: Name::parse(b"photos/cat.jpg").unwrap(),
///     shown: "photos/cat.jpg".into(),
///     what: What::File("photos/cat.jpg".into()),
/// };
/// assert!(format!("{item:?}").contains("cat.jpg"));
/// ```
#[derive(Debug)]
pub struct Item {
    /// What the other side shall call it.
    pub name: Name,
    /// What a person calls it: for errors.
    pub shown: String,
    /// What it is.
    pub what: What,
}

/// What an [`Item`] is.
#[non_exhaustive]
pub enum What {
    /// A regular file; what else the path leads to (a folder, a FIFO, a socket, a device) is
    /// refused by name. A link is followed. A file that has no length before it is read (/proc) is
    /// sent as a stream.
    File(PathBuf),
    /// A folder, without what is in it.
    Folder(PathBuf),
    /// A stream: a pipe, say.
    Stream(Box<dyn Read + Send>),
    /// What could not be found out: it is answered in its turn.
    Failed(io::Error),
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::File(path) => f.debug_tuple("File").field(path).finish(),
            What::Folder(path) => f.debug_tuple("Folder").field(path).finish(),
            What::Stream(_) => f.write_str("Stream(..)"),
            What::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

/// A store that sends `items`, one for each [`Request::Next`], in buffers that a receiver of `pool`
/// lends, or as pieces of a mapping. (What is looked at of a mapping is read by a call as well.) It
/// has a thread of its own, which also asks for the items: they may be found one by one as they are
/// sent. Nothing can be written to it.
///
/// Dropping it never waits: its thread finishes the request that it is at, and ends; one that waits
/// for a stream does so once the stream brings something.
///
/// # Errors
/// What the system says if there can be no thread.
///
/// ```
/// use std::{io::Cursor, thread, time::Duration};
///
/// use mbuf::io::{SourceKind, store::{Done, Item, Name, Request, What, sender}};
///
/// let pool = mbuf::testing::pool();
/// let item = Item {
///     name: Name::parse(b"stdin").unwrap(),
///     shown: "-".into(),
///     what: What::Stream(Box::new(Cursor::new("piped"))),
/// };
/// let mut store = sender(&pool, SourceKind::Preadv, [item].into_iter())?;
/// store.ask(1, Request::Next);
/// store.ask(1, Request::Read { offset: 0, len: 100, look: None });
/// let mut answers = Vec::new();
/// while answers.len() < 2 {
///     answers.extend(store.answer());
///     thread::sleep(Duration::from_millis(1)); // a layer waits for its waker instead
/// }
/// let Ok(Done::Read { chain, .. }) = &answers[1].result else { panic!() };
/// assert_eq!(chain.to_vec()?, b"piped");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn sender(
    pool: &Pool,
    kind: SourceKind,
    items: impl Iterator<Item = Item> + Send + 'static,
) -> io::Result<Box<dyn Store>> {
    let receiver = pool.receiver();
    let worker = Worker::start("mbuf-send", move |patience| Sender {
        items,
        readings: Readings::new(receiver, kind, patience),
    });
    Ok(Box::new(worker?))
}

struct Sender<I> {
    items: I,
    readings: Readings,
}

impl<I: Iterator<Item = Item> + Send + 'static> Work for Sender<I> {
    fn may_wait(&self, file: FileNo, request: &Request) -> bool {
        matches!(request, Request::Read { .. }) && self.readings.is_stream(file)
    }

    fn carry_out(&mut self, file: FileNo, request: Request, out: &mut Vec<Answer>) {
        let done = match request {
            Request::Next => {
                out.push(Answer { file, result: self.next(file) });
                return;
            }
            Request::Read { offset, len, look } => self.readings.read(file, offset, len, look),
            Request::Close => self.readings.close(file),
            other => {
                out.push(refusal(file, other, "the store only sends"));
                return;
            }
        };
        let result = done.map_err(|error| Failure { error, chain: None, item: None });
        out.push(Answer { file, result });
    }

    fn rest(&mut self) {
        self.readings.rest();
    }
}

impl<I: Iterator<Item = Item>> Sender<I> {
    fn next(&mut self, file: FileNo) -> Result<Done, Failure> {
        self.readings.forget(file);
        let Some(Item { name, shown, what }) = self.items.next() else { return Ok(Done::NoMore) };
        self.open(file, name, &shown, what).map_err(|error| {
            self.readings.failed(file, &error);
            Failure { error, chain: None, item: Some(shown) }
        })
    }

    fn open(&mut self, file: FileNo, name: Name, shown: &str, what: What) -> io::Result<Done> {
        match what {
            What::File(path) => {
                let shown = path.display().to_string();
                let attributes = self.readings.file(file, open(&path), shown)?;
                Ok(Done::Opened { name: Some(name), attributes })
            }
            What::Folder(path) => {
                let metadata = fs::metadata(&path);
                let metadata =
                    metadata.map_err(|error| rename("stat of", path.display(), error))?;
                if !metadata.is_dir() {
                    return Err(crate::io::error::named("stat of", path.display(), libc::ENOTDIR));
                }
                Ok(Done::Folder { name, attributes: reading::attributes(&metadata) })
            }
            What::Stream(reader) => {
                self.readings.stream(file, reader, shown.into());
                let attributes = super::Attributes { mode: 0o644, ..Default::default() };
                Ok(Done::Opened { name: Some(name), attributes })
            }
            What::Failed(error) => Err(error),
        }
    }
}

/// Opens a file to be read; a FIFO is not waited for, and a terminal not made ours.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = File::options().read(true).custom_flags(flags).open(path);
    opened.map_err(|error| {
        // Of a socket open(2) says no more than ENXIO.
        let kind = fs::metadata(path).ok().filter(|_| error.raw_os_error() == Some(libc::ENXIO));
        let shown = path.display().to_string();
        let refused = kind.and_then(|metadata| reading::regular(&metadata, &shown).err());
        refused.unwrap_or_else(|| rename("open of", shown, error))
    })
}
