//! A store in memory.

mod disk;
mod item;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    io::store::{Answer, Attributes, FileNo, Request, Store},
    pool::Pool,
    stack::Waker,
};

use disk::Disk;
pub use item::MemoryItem;

/// A [`Store`] in memory, which fails, fills up and answers late when a test wants it to.
///
/// It carries a request out at once, in the thread that asks, so that nothing is left to chance.
/// Its [handle](MemoryStore::handle) stays with the test. Dropped, it removes the parts that were
/// neither committed nor discarded, as every store does.
///
/// ```
/// use mbuf::io::store::{Done, Name, Request, Store};
/// use mbuf::testing::{MemoryStore, assert_all_free, pool};
///
/// let pool = pool();
/// let mut store = MemoryStore::new();
/// let test = store.handle();
/// let name = Name::parse(b"a/b").unwrap();
/// store.ask(1, Request::Create { name, length: None, overwrite: false });
/// store.ask(1, Request::Write { offset: 0, chain: pool.chain_from(b"bytes")? });
/// assert_eq!(test.parts()["a/b.part"], b"bytes");
/// store.ask(1, Request::Commit { length: 5, mode: None, modified: None });
/// assert_eq!(test.files()["a/b"], b"bytes");
/// assert!(test.parts().is_empty() && test.folders().contains("a"));
///
/// assert!(matches!(store.answer().unwrap().result, Ok(Done::Created)));
/// assert!(matches!(store.answer().unwrap().result, Ok(Done::Written(_))));
/// assert!(matches!(store.answer().unwrap().result, Ok(Done::Committed)));
/// assert!(store.answer().is_none());
/// assert_all_free(&pool);
/// # Ok::<(), mbuf::Error>(())
/// ```
pub struct MemoryStore(MemoryHandle);

/// What a test keeps of a [`MemoryStore`] that it has given away. A clone is a handle of the same
/// store.
#[derive(Clone)]
pub struct MemoryHandle(Arc<Mutex<Disk>>);

impl MemoryStore {
    /// A store to write to. It has no pool, so nothing can be opened there.
    ///
    /// ```
    /// use mbuf::testing::MemoryStore;
    ///
    /// assert!(MemoryStore::new().handle().files().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::over(Disk::default())
    }

    /// A store to send from: [`Request::Next`] opens the items, one after another. Files that were
    /// [put](MemoryHandle::put) into it can be opened by name too. It reads into buffers of `pool`,
    /// and can be written to.
    ///
    /// ```
    /// use mbuf::io::store::{Done, Request, Store};
    /// use mbuf::testing::{MemoryItem, MemoryStore, pool};
    ///
    /// let mut store = MemoryStore::sending(&pool(), [MemoryItem::file("cat.jpg", b"meow")]);
    /// store.ask(1, Request::Next);
    /// let Ok(Done::Opened { name, attributes }) = store.answer().unwrap().result else { panic!() };
    /// assert_eq!((name.unwrap().as_str(), attributes.length), ("cat.jpg", Some(4)));
    /// store.ask(1, Request::Read { offset: 0, len: 100, look: None });
    /// let Ok(Done::Read { chain, .. }) = store.answer().unwrap().result else { panic!() };
    /// assert_eq!(chain.to_vec()?, b"meow");
    /// store.ask(2, Request::Next);
    /// assert!(matches!(store.answer().unwrap().result, Ok(Done::NoMore)));
    /// # Ok::<(), mbuf::Error>(())
    /// ```
    pub fn sending(pool: &Pool, items: impl IntoIterator<Item = MemoryItem>) -> Self {
        Self::over(Disk::sending(pool.clone(), items.into_iter().collect()))
    }

    fn over(disk: Disk) -> Self {
        Self(MemoryHandle(Arc::new(Mutex::new(disk))))
    }

    /// A handle, to look at the files and to make things fail.
    ///
    /// ```
    /// use mbuf::{io::store::Store, testing::MemoryStore};
    ///
    /// let store = MemoryStore::new();
    /// let test = store.handle();
    /// let _given_away: Box<dyn Store> = Box::new(store);
    /// assert_eq!(test.requests(), 0);
    /// ```
    pub fn handle(&self) -> MemoryHandle {
        self.0.clone()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn attach(&mut self, waker: Waker) {
        self.0.lock().waker = Some(waker);
    }

    fn ask(&mut self, file: FileNo, request: Request) {
        let mut disk = self.0.lock();
        let answer = disk.carry_out(file, request);
        disk.kept.push_back(answer);
        let kept = disk.kept.len();
        if !disk.delayed {
            MemoryHandle::give(disk, kept);
        }
    }

    fn answer(&mut self) -> Option<Answer> {
        self.0.lock().answers.pop_front()
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        let mut disk = self.0.lock();
        disk.give_up();
        // Chains are dropped without the lock, for a pool may be anybody's.
        let left = (std::mem::take(&mut disk.answers), std::mem::take(&mut disk.kept));
        drop(disk);
        drop(left);
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl MemoryHandle {
    /// The files that are whole, by name. Copies them.
    ///
    /// ```
    /// use mbuf::testing::MemoryStore;
    ///
    /// let test = MemoryStore::new().handle();
    /// test.put("a", b"bytes");
    /// assert_eq!(test.files()["a"], b"bytes");
    /// ```
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.lock();
        disk.files.iter().map(|(name, file)| (name.clone(), file.bytes.clone())).collect()
    }

    /// The files that are being written, by the name of their part: `NAME.part`. Copies them.
    ///
    /// ```
    /// use mbuf::{io::store::{Name, Request, Store}, testing::MemoryStore};
    ///
    /// let mut store = MemoryStore::new();
    /// let name = Name::parse(b"a").unwrap();
    /// store.ask(1, Request::Create { name, length: None, overwrite: false });
    /// assert!(store.handle().parts()["a.part"].is_empty());
    /// ```
    pub fn parts(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.lock();
        disk.parts().map(|(name, bytes)| (name, bytes.to_vec())).collect()
    }

    /// The folders, those made on the way to a file included.
    ///
    /// ```
    /// use mbuf::testing::MemoryStore;
    ///
    /// let test = MemoryStore::new().handle();
    /// test.put("a/b/c", b"bytes");
    /// assert!(test.folders().iter().eq(["a", "a/b"]));
    /// ```
    pub fn folders(&self) -> BTreeSet<String> {
        self.lock().folders.keys().cloned().collect()
    }

    /// What a whole file, or a folder, is like. The mode is what was asked for, else 0644 (0755);
    /// a time is there only if one was given.
    ///
    /// ```
    /// use mbuf::testing::MemoryStore;
    ///
    /// let test = MemoryStore::new().handle();
    /// test.put("a/b", b"bytes");
    /// let attributes = test.attributes("a/b").unwrap();
    /// assert_eq!((attributes.length, attributes.mode), (Some(5), 0o644));
    /// assert_eq!(test.attributes("a").unwrap().mode, 0o755);
    /// assert_eq!(test.attributes("b"), None);
    /// ```
    pub fn attributes(&self, name: &str) -> Option<Attributes> {
        let disk = self.lock();
        let file = disk.files.get(name).map(|file| file.attributes());
        file.or_else(|| disk.folders.get(name).map(|&mode| Attributes { mode, ..FOLDER }))
    }

    /// Puts a file there, whole, in place of what had its name: one that was there before.
    ///
    /// # Panics
    /// If `name` is not a [`Name`](crate::io::store::Name).
    ///
    /// ```
    /// use mbuf::testing::MemoryStore;
    ///
    /// let test = MemoryStore::new().handle();
    /// test.put("a", b"bytes");
    /// test.put("a", b"others");
    /// assert_eq!(test.files()["a"], b"others");
    /// ```
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.lock().put(&item::name(name), bytes);
    }

    /// How many requests there have been.
    ///
    /// ```
    /// use mbuf::{io::store::{Request, Store}, testing::MemoryStore};
    ///
    /// let mut store = MemoryStore::new();
    /// store.ask(7, Request::Discard);
    /// assert_eq!(store.handle().requests(), 1);
    /// ```
    pub fn requests(&self) -> usize {
        self.lock().requests
    }

    /// Makes the `n`-th request fail, counted from 0 over all files, with an `io::ErrorKind` or
    /// `io::Error`. It is not carried out; the number of a file that was to be committed,
    /// discarded or closed stays in use. Several can be set.
    ///
    /// ```
    /// use std::io::ErrorKind;
    ///
    /// use mbuf::{io::store::{Name, Request, Store}, testing::MemoryStore};
    ///
    /// let mut store = MemoryStore::new();
    /// store.handle().fail_at(1, ErrorKind::PermissionDenied);
    /// for (file, name) in [(1, "a"), (2, "b")] {
    ///     let name = Name::parse(name.as_bytes()).unwrap();
    ///     store.ask(file, Request::Create { name, length: None, overwrite: false });
    /// }
    /// store.ask(2, Request::Commit { length: 0, mode: None, modified: None }); // fails as well
    /// assert!(store.answer().unwrap().result.is_ok());
    /// for _ in 0..2 {
    ///     let failure = store.answer().unwrap().result.unwrap_err();
    ///     assert_eq!(failure.error.kind(), ErrorKind::PermissionDenied);
    /// }
    /// ```
    pub fn fail_at(&self, n: usize, error: impl Into<io::Error>) {
        self.lock().faults.insert(n, error.into());
    }

    /// Stores at most so many bytes, parts included. A write beyond stores what there is room for
    /// and fails with ENOSPC; the failure has the rest of the chain.
    ///
    /// ```
    /// use std::io::ErrorKind;
    ///
    /// use mbuf::{io::store::{Name, Request, Store}, testing::{MemoryStore, pool}};
    ///
    /// let mut store = MemoryStore::new();
    /// store.handle().limit(3);
    /// let name = Name::parse(b"a").unwrap();
    /// store.ask(1, Request::Create { name, length: None, overwrite: false });
    /// store.ask(1, Request::Write { offset: 0, chain: pool().chain_from(b"bytes")? });
    /// assert!(store.answer().unwrap().result.is_ok());
    /// let failure = store.answer().unwrap().result.unwrap_err();
    /// assert_eq!(failure.error.kind(), ErrorKind::StorageFull);
    /// assert_eq!(failure.chain.unwrap().to_vec()?, b"es");
    /// # Ok::<(), mbuf::Error>(())
    /// ```
    pub fn limit(&self, bytes: usize) {
        self.lock().limit = Some(bytes);
    }

    /// Whether a read of nothing but zeros is answered by
    /// [`Done::Hole`](crate::io::store::Done::Hole). It is not, unless this says so.
    ///
    /// ```
    /// use mbuf::io::store::{Done, Request, Store};
    /// use mbuf::testing::{MemoryItem, MemoryStore, pool};
    ///
    /// let mut store = MemoryStore::sending(&pool(), [MemoryItem::file("zeros", &[0; 5000])]);
    /// store.handle().holes(true);
    /// store.ask(1, Request::Next);
    /// store.ask(1, Request::Read { offset: 4096, len: 4096, look: None });
    /// assert!(matches!(store.answer().unwrap().result, Ok(Done::Opened { .. })));
    /// let hole = store.answer().unwrap().result;
    /// assert!(matches!(hole, Ok(Done::Hole { offset: 4096, len: 904 })));
    /// ```
    pub fn holes(&self, yes: bool) {
        self.lock().holes = yes;
    }

    /// Makes the file look changed: closing it after reading fails.
    ///
    /// ```
    /// use mbuf::io::store::{Request, Store};
    /// use mbuf::testing::{MemoryItem, MemoryStore, pool};
    ///
    /// let mut store = MemoryStore::sending(&pool(), [MemoryItem::file("log", b"...")]);
    /// store.ask(1, Request::Next);
    /// store.handle().change("log");
    /// store.ask(1, Request::Close);
    /// assert!(store.answer().unwrap().result.is_ok());
    /// let error = store.answer().unwrap().result.unwrap_err().error;
    /// assert_eq!(error.to_string(), "log was modified while it was read");
    /// ```
    pub fn change(&self, name: &str) {
        self.lock().changed.insert(name.into());
    }

    /// Whether answers are kept until they are released. Those that are kept when this is turned
    /// off still are.
    ///
    /// ```
    /// use mbuf::{io::store::{Request, Store}, testing::MemoryStore};
    ///
    /// let mut store = MemoryStore::new();
    /// let test = store.handle();
    /// test.delay(true);
    /// store.ask(1, Request::Next);
    /// store.ask(1, Request::Next);
    /// assert!(store.answer().is_none());
    /// test.release(1); // and wakes the layer
    /// assert!(store.answer().is_some() && store.answer().is_none());
    /// assert_eq!(test.kept(), 1);
    /// test.release_all();
    /// assert!(store.answer().is_some());
    /// ```
    pub fn delay(&self, yes: bool) {
        self.lock().delayed = yes;
    }

    /// Gives the oldest `n` of the answers that are kept, or all if there are fewer; wakes the
    /// layer if there was one.
    ///
    /// ```
    /// use mbuf::testing::MemoryStore;
    ///
    /// let test = MemoryStore::new().handle();
    /// test.release(7); // there are none
    /// assert_eq!(test.kept(), 0);
    /// ```
    pub fn release(&self, n: usize) {
        Self::give(self.lock(), n);
    }

    /// Gives all answers that are kept.
    ///
    /// ```
    /// use mbuf::{io::store::{Request, Store}, testing::MemoryStore};
    ///
    /// let mut store = MemoryStore::new();
    /// store.handle().delay(true);
    /// store.ask(1, Request::Next);
    /// store.handle().release_all();
    /// assert!(store.answer().is_some());
    /// ```
    pub fn release_all(&self) {
        self.release(usize::MAX);
    }

    /// How many answers are kept.
    ///
    /// ```
    /// use mbuf::{io::store::{Request, Store}, testing::MemoryStore};
    ///
    /// let mut store = MemoryStore::new();
    /// store.handle().delay(true);
    /// store.ask(1, Request::Next);
    /// assert_eq!(store.handle().kept(), 1);
    /// ```
    pub fn kept(&self) -> usize {
        self.lock().kept.len()
    }

    fn give(mut disk: MutexGuard<'_, Disk>, n: usize) {
        let n = n.min(disk.kept.len());
        let Disk { kept, answers, .. } = &mut *disk;
        answers.extend(kept.drain(..n));
        let waker = if n > 0 { disk.waker.clone() } else { None };
        drop(disk);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const FOLDER: Attributes = Attributes { length: None, mode: 0o755, modified: None };

impl fmt::Debug for MemoryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.lock();
        f.debug_struct("MemoryStore")
            .field("files", &disk.files.len())
            .field("items", &disk.items.len())
            .field("requests", &disk.requests)
            .field("kept", &disk.kept.len())
            .field("answers", &disk.answers.len())
            .finish_non_exhaustive()
    }
}
