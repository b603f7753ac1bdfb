//! A file that is being written: `LAST.part` beside where it will be.

use std::{
    ffi::CString,
    fs::{File, TryLockError},
    io,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use super::base::{Base, Parent};
use crate::{
    chain::Chain,
    io::{
        FileSink, SinkKind, WriteError,
        error::{named, rename},
        store::{Failure, Name},
        sys::{
            Errno,
            beneath::{self, Status, c_string},
            positional,
        },
    },
};

/// Of a part: nobody but the owner, and the sticky bit, which has no meaning for a file, and by
/// which a part that was left behind is told from a file that somebody wants to keep.
const MODE: u32 = libc::S_ISVTX | 0o600;
/// How often a name may be snatched away between two calls.
const TRIES: usize = 8;
/// No file system refuses a file for being so long: it is not asked.
const LARGE: u64 = 1 << 20;
/// What files get if nobody says otherwise, less the umask.
const FILE: u32 = 0o666;

/// A file that is being written. Dropped, it is removed.
pub(super) struct Part {
    sink: FileSink,
    place: Place,
}

/// One that was written, and waits for its name. Dropped without it, it is removed.
pub(super) struct Written {
    file: File,
    place: Place,
}

/// Where it is, and where it will be. Dropped, whatever is there of the part is removed.
struct Place {
    base: Arc<Base>,
    parent: Arc<Parent>,
    /// The final name, whole.
    name: Name,
    last: CString,
    part: CString,
    id: (u64, u64),
    overwrite: bool,
    /// There is nothing to remove.
    gone: bool,
}

impl Part {
    pub(super) fn create(
        base: &Arc<Base>,
        parent: Arc<Parent>,
        name: Name,
        length: Option<u64>,
        overwrite: bool,
        kind: SinkKind,
    ) -> io::Result<Self> {
        let last = c_string(name.last());
        let part = c_string(&format!("{}{}", name.last(), Name::PART));
        may_replace(base, &parent, &name, &last, overwrite)?;
        let shown = base.show(&format!("{name}{}", Name::PART));
        for _ in 0..TRIES {
            let Some(file) = create_or_clear(&parent, &part, &shown)? else { continue };
            let claimed = claim(&file, &parent, &part, &shown);
            let Some(id) = claimed.inspect_err(|_| take_back(&file, &parent, &part))? else {
                continue;
            };
            let base = Arc::clone(base);
            let gone = false;
            let place = Place { base, parent, name, last, part, id, overwrite, gone };
            // So that the file system says now if it knows no file so long; no room is reserved.
            if let Some(length) = length.filter(|&length| length >= LARGE) {
                let object = || format!("to {length} bytes of {shown}");
                positional::set_len(&file, length)
                    .map_err(|error| rename("ftruncate", object(), error))?;
            }
            return Ok(Self { sink: FileSink::from_new(file, shown.as_ref(), kind), place });
        }
        Err(busy(&shown))
    }

    pub(super) fn name(&self) -> &Name {
        &self.place.name
    }

    /// Writes all of the chain, or says what was not written.
    pub(super) fn write(&mut self, offset: u64, mut chain: Chain) -> Result<Chain, Failure> {
        let Err(WriteError { written, error }) = self.sink.write_at(offset, &chain) else {
            return Ok(chain);
        };
        // Taking bytes off the front cannot fail: the chain has them.
        let _ = chain.trim_front(written);
        Err(Failure { error, chain: Some(chain), item: None })
    }

    /// Cuts it to its length, and gives it its time.
    pub(super) fn finish(self, length: u64, modified: Option<SystemTime>) -> io::Result<Written> {
        let Self { sink, place } = self;
        let file = sink.finish(length, false)?;
        if let Some(modified) = modified {
            positional::set_modified(&file, modified)
                .map_err(|error| rename("futimens of", place.shown(), error))?;
        }
        Ok(Written { file, place })
    }

    /// Removes it.
    pub(super) fn discard(mut self) -> io::Result<()> {
        let removed = self.place.remove();
        removed.map_err(|errno| named("unlink of", self.place.shown(), errno.0))
    }
}

impl Written {
    pub(super) fn name(&self) -> &Name {
        &self.place.name
    }

    pub(super) fn parent(&self) -> &Parent {
        &self.place.parent
    }

    /// Starts writing it to the disk.
    pub(super) fn write_back(&self) {
        // If that cannot be had, the sync that follows takes longer.
        let _ = beneath::write_back(&self.file, false);
    }

    /// Its bytes are on the disk, as far as the disk says; its metadata may not be.
    pub(super) fn wait_written(&self) -> io::Result<()> {
        match beneath::write_back(&self.file, true) {
            Err(Errno(errno @ (libc::EIO | libc::ENOSPC | libc::EDQUOT))) => {
                Err(named("sync_file_range of", self.place.shown(), errno))
            }
            _ => Ok(()),
        }
    }

    /// fsync(2).
    pub(super) fn sync(&self) -> io::Result<()> {
        positional::sync(&self.file, false)
            .map_err(|error| rename("fsync of", self.place.shown(), error))
    }

    /// Gives it its permissions and its name. One is not long without the other: a part that is
    /// left behind must look like one.
    pub(super) fn commit(&mut self, mode: Option<u32>) -> io::Result<()> {
        let Self { file, place } = &*self;
        let Place { base, parent, last, part, .. } = place;
        // Somebody may have put something else in its place.
        match parent.status(part) {
            Ok(Some(status)) if status.id == place.id => {}
            Ok(_) => {
                let text = format!("{} is not the file any more that was written", place.shown());
                return Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, text));
            }
            Err(errno) => return Err(named("fstat of", place.shown(), errno.0)),
        }
        let mode = mode.map_or(FILE & !base.umask, |mode| mode & 0o777);
        beneath::chmod(file.as_fd(), mode)
            .map_err(|errno| named("fchmod of", place.shown(), errno.0))?;

        let dir = parent.fd();
        let mut answer = Err(Errno(libc::EINVAL));
        if place.overwrite || base.noreplace.load(Ordering::Relaxed) {
            answer = beneath::renameat(dir, part, last, !place.overwrite);
        }
        if !place.overwrite && matches!(answer, Err(Errno(libc::EINVAL | libc::ENOSYS))) {
            base.noreplace.store(false, Ordering::Relaxed);
            answer = beneath::linkat(dir, part, last).and_then(|()| beneath::unlinkat(dir, part));
        }
        let object = || format!("of {} to {}", place.shown(), place.name.last());
        answer.map_err(|errno| named("rename", object(), errno.0))?;
        self.place.gone = true;
        Ok(())
    }
}

impl Place {
    fn remove(&mut self) -> Result<(), Errno> {
        if self.gone {
            return Ok(());
        }
        match self.parent.status(&self.part)? {
            Some(status) if status.id == self.id => {
                beneath::unlinkat(self.parent.fd(), &self.part)?;
            }
            _ => {} // somebody else was faster, or has put something else there
        }
        self.gone = true;
        Ok(())
    }

    fn shown(&self) -> String {
        self.base.show(&format!("{}{}", self.name, Name::PART))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(errno) = self.remove() {
            let error = named("unlink of", self.shown(), errno.0);
            tracing::warn!(%error, "a part is left behind");
        }
    }
}

/// Whether the final name is free, or holds what may be replaced.
fn may_replace(
    base: &Base,
    parent: &Parent,
    name: &Name,
    last: &CString,
    overwrite: bool,
) -> io::Result<()> {
    let shown = || base.show(name.as_str());
    let found = parent.status(last).map_err(|errno| named("fstat of", shown(), errno.0))?;
    match found.map(|status| status.kind()) {
        None => Ok(()),
        Some(libc::S_IFDIR) => Err(named("create", shown(), libc::EISDIR)),
        Some(_) if !overwrite => Err(named("create", shown(), libc::EEXIST)),
        Some(libc::S_IFREG | libc::S_IFLNK) => Ok(()),
        Some(kind) => Err(in_the_way(&shown(), kind_name(kind))),
    }
}

/// A new file, or none if what had its name has just been removed.
fn create_or_clear(parent: &Parent, part: &CString, shown: &str) -> io::Result<Option<File>> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NOFOLLOW;
    match beneath::openat(parent.fd(), part, flags, MODE) {
        Ok(fd) => return Ok(Some(fd.into())),
        Err(Errno(libc::EEXIST)) => {}
        Err(errno) => return Err(named("create", shown, errno.0)),
    }
    let failed = |errno: Errno| named("open of", shown, errno.0);
    let Some(status) = parent.status(part).map_err(failed)? else { return Ok(None) };
    is_left_behind(&status).map_err(|what| in_the_way(shown, what))?;
    // Its type can have changed since: nothing is followed, waited for or written to.
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let old = match beneath::openat(parent.fd(), part, flags, 0) {
        Ok(fd) => File::from(fd),
        Err(Errno(libc::ENOENT)) => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    let status = beneath::status_of(old.as_fd()).map_err(failed)?;
    is_left_behind(&status).map_err(|what| in_the_way(shown, what))?;
    match positional::try_lock(&old) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(busy(shown)),
        Err(TryLockError::Error(error)) => return Err(rename("flock of", shown, error)),
    }
    if parent.status(part).map_err(failed)?.is_some_and(|now| now.id == status.id) {
        tracing::info!(part = shown, "a part that was left behind is removed");
        beneath::unlinkat(parent.fd(), part).map_err(|errno| named("unlink of", shown, errno.0))?;
    }
    Ok(None)
}

/// Locks a new file, and looks whether it still has its name: then what it is known by. None:
/// somebody who found it before it was locked has removed it, or is about to.
fn claim(
    file: &File,
    parent: &Parent,
    part: &CString,
    shown: &str,
) -> io::Result<Option<(u64, u64)>> {
    match positional::try_lock(file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => no_locks(error, shown)?,
    }
    let failed = |errno: Errno| named("fstat of", shown, errno.0);
    let id = beneath::status_of(file.as_fd()).map_err(failed)?.id;
    let there = parent.status(part).map_err(failed)?;
    Ok(there.is_some_and(|status| status.id == id).then_some(id))
}

/// Removes a new file that cannot be used, if it still has its name.
#[cold]
fn take_back(file: &File, parent: &Parent, part: &CString) {
    if let (Ok(ours), Ok(Some(there))) = (beneath::status_of(file.as_fd()), parent.status(part))
        && ours.id == there.id
    {
        // If it stays, it is a part that nobody locks: the next one replaces it.
        let _ = beneath::unlinkat(parent.fd(), part);
    }
}

/// Whether it is a part that a receiver made; else what it is.
fn is_left_behind(status: &Status) -> Result<(), &'static str> {
    match status.kind() {
        libc::S_IFREG => {}
        kind => return Err(kind_name(kind)),
    }
    if status.owner != beneath::user() {
        return Err("somebody else's file");
    }
    if !status.lone {
        return Err("a file of several names");
    }
    if status.mode & 0o7777 != MODE {
        return Err("a file that is no part");
    }
    Ok(())
}

/// What a type of file is called.
pub(in crate::io::store) fn kind_name(kind: u32) -> &'static str {
    match kind {
        libc::S_IFDIR => "a folder",
        libc::S_IFLNK => "a link",
        libc::S_IFIFO => "a FIFO",
        libc::S_IFSOCK => "a socket",
        libc::S_IFBLK | libc::S_IFCHR => "a device",
        libc::S_IFREG => "a file",
        _ => "of an unknown type",
    }
}

/// Not every file system knows locks. Without them, what is left behind there is not told from what
/// is being written, and stays.
fn no_locks(error: io::Error, shown: &str) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOLCK) => Ok(()),
        _ => Err(rename("flock of", shown, error)),
    }
}

fn in_the_way(shown: &str, what: &str) -> io::Error {
    let text = format!("create {shown}: {what} has that name");
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}

fn busy(shown: &str) -> io::Error {
    let text = format!("create {shown}: another receiver is writing it");
    io::Error::new(io::ErrorKind::ResourceBusy, text)
}
