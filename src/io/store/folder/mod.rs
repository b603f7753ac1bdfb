//! Files in a real folder: [`Folder`].

mod base;
mod group;
mod part;
mod work;

use std::{
    fmt, io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Answer, FileNo, Request, Store, reading::Readings, worker::Worker};
use crate::{
    io::{SinkKind, SourceKind},
    pool::Pool,
    stack::Waker,
};

use base::Base;
use group::Group;
use work::{FolderWork, How};

/// A folder, for [stores](Store) to keep files in, or to take them from.
///
/// - **Nothing outside of it is touched.** It is held open; beneath it no link is followed, neither
///   on the way nor at the end (openat2(2), or one component after another where there is no such
///   call). A link that has a file's name is replaced if files may be replaced, and never written
///   through. A folder that is moved away while files are written to it fails their commit.
/// - **A file that is being written** is called `NAME.part`, has mode 0600 and the sticky bit, and
///   is locked (flock(2)). One that nobody locks was left behind by a receiver that was killed, and
///   is replaced; another receiver's is `ResourceBusy`; whatever else has that name is
///   `AlreadyExists`, and stays.
/// - **A committed file** replaces another only if it was created so; that holds even if somebody
///   else makes one of that name meanwhile. A folder is never replaced. Its mode is the one that was
///   asked for, less all but the lowest nine bits, or 0666 less the umask; a folder's owner may
///   always enter it and write to it, for more files may have to go there.
/// - **It is durable** once it is said to be committed, with its name and the folders on the way,
///   unless [`Folder::sync`] says otherwise: its bytes are on the disk before it has its name.
///   Commits that are asked for together wait for the disk together; many at once take one syncfs(2),
///   which also writes what others have written to that file system. While there is other work a
///   commit may be put off for 50 ms to find company.
/// - Each file that is being written or read takes a descriptor, and so does each folder that files
///   are being written to; a store has two. Whoever asks must bound them. A file is closed when it is
///   committed.
///
/// ```
/// use std::{fs, thread, time::Duration};
///
/// use mbuf::io::store::{Folder, Name, Request, Store};
///
/// # let here = std::env::temp_dir().join(format!("mbuf-doc-folder-{}", std::process::id()));
/// # fs::create_dir(&here)?;
/// let pool = mbuf::testing::pool();
/// let mut store = Folder::open(&here)?.store(&pool)?;
/// let name = Name::parse(b"a/b").unwrap();
/// store.ask(1, Request::Create { name, length: None, overwrite: false });
/// store.ask(1, Request::Write { offset: 0, chain: pool.chain_from(b"bytes")? });
/// store.ask(1, Request::Commit { length: 5, mode: None, modified: None });
/// let mut answers = Vec::new();
/// while answers.len() < 3 {
///     answers.extend(store.answer());
///     thread::sleep(Duration::from_millis(1)); // a layer waits for its waker instead
/// }
/// assert!(answers.iter().all(|answer| answer.result.is_ok()));
/// assert_eq!(fs::read(here.join("a/b"))?, b"bytes");
/// # fs::remove_dir_all(&here)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Folder {
    base: Arc<Base>,
    sync: bool,
    make_folders: bool,
    sink: SinkKind,
    source: SourceKind,
    threads: Arc<Threads>,
}

impl Folder {
    /// Opens a folder, which must be there and may be listed. Links on the way to it are followed.
    ///
    /// # Errors
    /// What the system says, as `open of PATH: ...`.
    ///
    /// ```
    /// let error = mbuf::io::store::Folder::open("/nonexistent".as_ref()).unwrap_err();
    /// assert!(error.to_string().starts_with("open of /nonexistent: ENOENT"));
    /// ```
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            base: Arc::new(Base::open(path)?),
            sync: true,
            make_folders: true,
            sink: SinkKind::default(),
            source: SourceKind::default(),
            threads: Arc::default(),
        })
    }

    /// Whether files are made durable before they are said to be committed: yes, unless this says
    /// no. A loss of power may then leave files that are empty, or cut short, under their names.
    ///
    /// ```
    /// let folder = mbuf::io::store::Folder::open(&std::env::temp_dir())?.sync(false);
    /// assert!(format!("{folder:?}").contains("sync: false"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn sync(mut self, yes: bool) -> Self {
        self.sync = yes;
        self
    }

    /// Whether a file that is created has the folders on its way made: yes, unless this says no. They
    /// stay when the file is discarded, so whoever creates files for strangers says no.
    ///
    /// ```
    /// let folder = mbuf::io::store::Folder::open(&std::env::temp_dir())?.make_folders(false);
    /// assert!(format!("{folder:?}").contains("make_folders: false"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn make_folders(mut self, yes: bool) -> Self {
        self.make_folders = yes;
        self
    }

    /// How files are written: by pwritev(2), unless this says otherwise.
    ///
    /// ```
    /// use mbuf::io::{SinkKind, store::Folder};
    ///
    /// let folder = Folder::open(&std::env::temp_dir())?.sink(SinkKind::Mapped);
    /// assert!(format!("{folder:?}").contains("sink: Mapped"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn sink(mut self, kind: SinkKind) -> Self {
        self.sink = kind;
        self
    }

    /// How files are read: by preadv(2), unless this says otherwise.
    ///
    /// ```
    /// use mbuf::io::{SourceKind, store::Folder};
    ///
    /// let folder = Folder::open(&std::env::temp_dir())?.source(SourceKind::Mapped);
    /// assert!(format!("{folder:?}").contains("source: Mapped"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn source(mut self, kind: SourceKind) -> Self {
        self.source = kind;
        self
    }

    /// A store in this folder, with a thread of its own. It reads into buffers that a receiver of
    /// `pool` lends.
    ///
    /// # Errors
    /// What the system says if there can be no thread, or no further descriptor.
    ///
    /// ```
    /// use mbuf::{io::store::{Folder, Store}, testing::pool};
    ///
    /// let mut store = Folder::open(&std::env::temp_dir())?.store(&pool())?;
    /// assert!(store.answer().is_none()); // nothing was asked
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn store(&self, pool: &Pool) -> io::Result<FolderStore> {
        let (base, receiver) = (Arc::clone(&self.base), pool.receiver());
        let Self { sync, make_folders, sink, source, .. } = *self;
        let group = Group::new(Arc::clone(&base), sync)?;
        let running = Running::new(&self.threads);
        let worker = Worker::start("mbuf-store", move |patience| {
            let readings = Readings::new(receiver, source, patience);
            let how = How { sync, make_folders, kind: sink };
            FolderWork::new(base, group, readings, how, running)
        })?;
        Ok(FolderStore(worker))
    }

    /// Takes the ways that older kernels and other file systems leave.
    #[cfg(test)]
    pub(super) fn fall_back(self) -> Self {
        self.base.fall_back();
        self
    }

    /// Waits until all stores in this folder have been dropped and their threads have ended, so
    /// that no part is left behind by a program that ends; at most for so long. Whether they have.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use mbuf::{io::store::Folder, testing::pool};
    ///
    /// let folder = Folder::open(&std::env::temp_dir())?;
    /// let store = folder.store(&pool())?;
    /// assert!(!folder.wait(Duration::ZERO));
    /// drop(store);
    /// assert!(folder.wait(Duration::from_secs(5)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait(&self, at_most: Duration) -> bool {
        let until = Instant::now().checked_add(at_most);
        let mut running = self.threads.lock();
        while *running > 0 {
            let left =
                until.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            let waited = self.threads.ended.wait_timeout(running, left);
            running = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder")
            .field("path", &self.base.path())
            .field("sync", &self.sync)
            .field("make_folders", &self.make_folders)
            .field("sink", &self.sink)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// A store in a [`Folder`]. Dropping it never waits: its thread finishes the request that it is at,
/// removes the parts that were neither committed nor discarded, and ends; what else was asked is not
/// done. [`Folder::wait`] waits for that.
#[derive(Debug)]
pub struct FolderStore(Worker);

impl Store for FolderStore {
    fn attach(&mut self, waker: Waker) {
        self.0.attach(waker);
    }

    fn ask(&mut self, file: FileNo, request: Request) {
        self.0.ask(file, request);
    }

    fn answer(&mut self) -> Option<Answer> {
        self.0.answer()
    }
}

/// How many threads work in a folder.
#[derive(Default)]
struct Threads {
    running: Mutex<usize>,
    ended: Condvar,
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them.
struct Running(Arc<Threads>);

impl Running {
    fn new(threads: &Arc<Threads>) -> Self {
        *threads.lock() += 1;
        Self(Arc::clone(threads))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.ended.notify_all();
    }
}
