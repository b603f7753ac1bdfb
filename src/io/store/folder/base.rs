//! The folder that a store keeps its files in, and the way to the folders beneath it.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::io::{
    error::{named, rename},
    store::Name,
    sys::{
        Errno,
        beneath::{self, Status, c_string},
        positional,
    },
};

const FOLDER: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
/// What folders get if nobody says otherwise, less the umask.
const MODE: u32 = 0o777;

/// Folders in which others were made, and the device of each.
pub(super) type Made = BTreeMap<Option<Box<str>>, u64>;

/// The folder itself, open.
pub(super) struct Base {
    fd: OwnedFd,
    device: u64,
    path: PathBuf,
    /// The permissions that files do not get (umask(2)).
    pub(super) umask: u32,
    /// Whether the kernel knows openat2(2), and no filter forbids it.
    openat2: AtomicBool,
    /// Whether renameat2(2) can refuse to replace; not every file system can.
    pub(super) noreplace: AtomicBool,
}

/// A folder beneath the base, open.
pub(super) struct Parent {
    fd: OwnedFd,
    /// Its name beneath the base; none for the base itself.
    name: Option<Box<str>>,
    id: (u64, u64),
}

impl Base {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NONBLOCK);
        let failed = |call| move |error| rename(call, path.display(), error);
        let file = options.open(path).map_err(failed("open of"))?;
        let device = file.metadata().map_err(failed("fstat of"))?.dev();
        Ok(Self {
            fd: file.into(),
            device,
            path: path.into(),
            umask: umask(),
            openat2: AtomicBool::new(true),
            noreplace: AtomicBool::new(true),
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The folder once more, opened anew: each descriptor hears once of an error that kept the file
    /// system from writing to the disk.
    pub(super) fn again(&self) -> io::Result<OwnedFd> {
        let fd = beneath::openat(self.fd(), c".", FOLDER, 0);
        fd.map_err(|errno| named("open of", self.path.display(), errno.0))
    }

    /// The device that it is on. A folder beneath it may be on another.
    pub(super) fn device(&self) -> u64 {
        self.device
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A name as errors show it: beneath the folder as it was given.
    pub(super) fn show(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Takes the ways that older kernels and other file systems leave.
    #[cfg(test)]
    pub(super) fn fall_back(&self) {
        self.openat2.store(false, Ordering::Relaxed);
        self.noreplace.store(false, Ordering::Relaxed);
    }

    /// The folder `name` (none: the base), which must be there unless `made` is told of those that
    /// were made on the way.
    pub(super) fn folder(
        &self,
        name: Option<&str>,
        made: Option<&mut Made>,
    ) -> io::Result<Arc<Parent>> {
        let fd = match name {
            None => self.fd.try_clone().map_err(|error| rename("dup of", self.show(""), error))?,
            Some(path) => match (self.open_beneath(path, FOLDER), made) {
                (Ok(fd), _) => fd,
                (Err(Errno(libc::ENOENT)), Some(made)) => return self.make(path, made),
                (Err(errno), _) => return Err(named("open of", self.show(path), errno.0)),
            },
        };
        self.parent(fd, name)
    }

    /// A file beneath the base, to be read.
    pub(super) fn open_file(&self, name: &Name) -> io::Result<File> {
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let fd = self.open_beneath(name.as_str(), flags);
        fd.map(File::from).map_err(|errno| named("open of", self.show(name.as_str()), errno.0))
    }

    /// Whether the folder is still what its name means: nobody has moved it away.
    pub(super) fn is_there(&self, parent: &Parent) -> io::Result<()> {
        let Some(name) = &parent.name else { return Ok(()) };
        let failed = |errno: Errno| named("open of", self.show(name), errno.0);
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let fd = self.open_beneath(name, flags).map_err(failed)?;
        if beneath::status_of(fd.as_fd()).map_err(failed)?.id == parent.id {
            return Ok(());
        }
        let text = format!("{} is not the folder any more that it was", self.show(name));
        Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, text))
    }

    /// One folder after another, each made if it is not there.
    fn make(&self, path: &str, made: &mut Made) -> io::Result<Arc<Parent>> {
        let mut at = self.folder(None, None)?;
        for (start, component) in components(path) {
            let (whole, name) = (&path[..start + component.len()], c_string(component));
            let failed = |call| move |errno: Errno| named(call, self.show(whole), errno.0);
            match beneath::mkdirat(at.fd(), &name, MODE) {
                Ok(()) => drop(made.insert(at.name.clone(), at.id.0)),
                Err(Errno(libc::EEXIST)) => {}
                Err(errno) => return Err(failed("mkdir of")(errno)),
            }
            let fd = enter(at.fd(), &name, FOLDER).map_err(failed("open of"))?;
            at = self.parent(fd, Some(whole))?;
        }
        Ok(at)
    }

    fn parent(&self, fd: OwnedFd, name: Option<&str>) -> io::Result<Arc<Parent>> {
        let failed = |errno: Errno| named("fstat of", self.show(name.unwrap_or("")), errno.0);
        let id = beneath::status_of(fd.as_fd()).map_err(failed)?.id;
        Ok(Arc::new(Parent { fd, name: name.map(Into::into), id }))
    }

    fn open_beneath(&self, path: &str, flags: i32) -> Result<OwnedFd, Errno> {
        if self.openat2.load(Ordering::Relaxed) {
            match beneath::open_beneath(self.fd(), &c_string(path), flags) {
                // A filter (seccomp) may say EPERM; EAGAIN is for whoever has the time to try again.
                Err(Errno(libc::ENOSYS | libc::EPERM)) => {
                    self.openat2.store(false, Ordering::Relaxed);
                }
                Err(Errno(libc::EAGAIN)) => {}
                answer => return answer,
            }
        }
        let through = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let mut at: Option<OwnedFd> = None;
        for (start, component) in components(path) {
            let last = start + component.len() == path.len();
            let dir = at.as_ref().map_or(self.fd(), AsFd::as_fd);
            at = Some(enter(dir, &c_string(component), if last { flags } else { through })?);
        }
        at.ok_or(Errno(libc::ENOENT))
    }
}

impl Parent {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its name beneath the base; none for the base itself.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn id(&self) -> (u64, u64) {
        self.id
    }

    pub(super) fn status(&self, name: &CString) -> Result<Option<Status>, Errno> {
        match beneath::status_at(self.fd(), name) {
            Ok(status) => Ok(Some(status)),
            Err(Errno(libc::ENOENT)) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// fsync(2): names that were given in it survive a loss of power.
    pub(super) fn sync(&self) -> io::Result<()> {
        // Of a file system that knows no such thing: it does what it can.
        match self.fd.try_clone().map(File::from).and_then(|file| positional::sync(&file, false)) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            result => result,
        }
    }
}

/// openat(2), which says ELOOP of a link as openat2(2) does, even if it was to be a folder.
fn enter(dir: BorrowedFd<'_>, name: &CString, flags: i32) -> Result<OwnedFd, Errno> {
    match beneath::openat(dir, name, flags, 0) {
        Err(Errno(libc::ENOTDIR)) => match beneath::status_at(dir, name) {
            Ok(status) if status.kind() == libc::S_IFLNK => Err(Errno(libc::ELOOP)),
            _ => Err(Errno(libc::ENOTDIR)),
        },
        answer => answer,
    }
}

/// The components of a path, with where each starts.
fn components(path: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    path.split('/').map(move |component| {
        let at = start;
        start += component.len() + 1;
        (at, component)
    })
}

/// The process's umask, which umask(2) cannot ask without setting it for a moment, for all threads.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    // Linux before 4.7, or no /proc: for nobody but the owner.
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o077)
}
