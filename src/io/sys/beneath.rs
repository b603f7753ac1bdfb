//! Names beneath a folder, none of which is a link: openat2(2) and the *at calls.

use std::{
    ffi::{CStr, CString},
    fs::File,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use super::{Errno, attempt, nothing_about};
use crate::io::faults::{Attempt, Call};

/// What fstatat(2) says of a name, which may be a link itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// Device and inode: the same for two names of one file.
    pub(crate) id: (u64, u64),
    /// Type and permissions, as in `st_mode`.
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    /// It has no other name.
    pub(crate) lone: bool,
}

impl Status {
    /// The type: S_IFREG and its like.
    pub(crate) fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
}

/// openat2(2) of a path of several components, none of which may be a link, nor lead out of `dir`.
pub(crate) fn open_beneath(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the structure is plain integers, for which zeros are valid.
    let mut how: libc::open_how = unsafe { MaybeUninit::zeroed().assume_init() };
    // RESOLVE_NO_SYMLINKS is for the last component too, and then says ELOOP and not ENOTDIR.
    how.flags = ((flags | libc::O_CLOEXEC) & !libc::O_NOFOLLOW) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    let size = size_of::<libc::open_how>();
    // SAFETY: the path ends in a NUL, `how` is `size` bytes, and both outlive the call.
    let call = || unsafe {
        let (how, path) = (&raw const how, path.as_ptr());
        libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), path, how, size)
    };
    let fd = answered(Call::Open, dir, call)?;
    // SAFETY: the call has just made the descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// openat(2) of one component. A link is not followed if `flags` say O_NOFOLLOW.
pub(crate) fn openat(
    dir: BorrowedFd<'_>,
    name: &CStr,
    flags: i32,
    mode: u32,
) -> Result<OwnedFd, Errno> {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: the name ends in a NUL and outlives the call.
    let call = || unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags, mode) }.into();
    let fd = answered(Call::Open, dir, call)?;
    // SAFETY: the call has just made the descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// mkdirat(2) of one component.
pub(crate) fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the name ends in a NUL and outlives the call.
    let call = || unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }.into();
    answered(Call::Mkdir, dir, call).map(drop)
}

/// unlinkat(2) of one component that is no folder.
pub(crate) fn unlinkat(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name ends in a NUL and outlives the call.
    let call = || unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) }.into();
    answered(Call::Unlink, dir, call).map(drop)
}

/// fstatat(2) of one component, not following it.
pub(crate) fn status_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Status, Errno> {
    status(dir, name, libc::AT_SYMLINK_NOFOLLOW)
}

/// fstat(2), of O_PATH descriptors too.
pub(crate) fn status_of(fd: BorrowedFd<'_>) -> Result<Status, Errno> {
    status(fd, c"", libc::AT_EMPTY_PATH)
}

fn status(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> Result<Status, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    let (at, name, out) = (dir.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr());
    // SAFETY: the name ends in a NUL, `out` has room for the structure, and both outlive the call.
    answered(Call::Stat, dir, || unsafe { libc::fstatat(at, name, out, flags) }.into())?;
    // SAFETY: the call succeeded, so it has filled the structure in.
    let stat = unsafe { stat.assume_init() };
    Ok(Status {
        id: (stat.st_dev, stat.st_ino),
        mode: stat.st_mode,
        owner: stat.st_uid,
        lone: stat.st_nlink == 1,
    })
}

/// fchmod(2).
pub(crate) fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    let call = || unsafe { libc::fchmod(fd.as_raw_fd(), mode) }.into();
    answered(Call::Chmod, fd, call).map(drop)
}

/// renameat2(2) within a folder, replacing what is there unless `keep` says that it must not.
pub(crate) fn renameat(
    dir: BorrowedFd<'_>,
    from: &CStr,
    to: &CStr,
    keep: bool,
) -> Result<(), Errno> {
    let at = dir.as_raw_fd();
    let flags = if keep { libc::RENAME_NOREPLACE } else { 0 };
    let (from, to) = (from.as_ptr(), to.as_ptr());
    // SAFETY: both names end in a NUL and outlive the call.
    let call = || unsafe { libc::syscall(libc::SYS_renameat2, at, from, at, to, flags) };
    answered(Call::Rename, dir, call).map(drop)
}

/// linkat(2) within a folder: fails if the new name is there.
pub(crate) fn linkat(dir: BorrowedFd<'_>, from: &CStr, to: &CStr) -> Result<(), Errno> {
    let at = dir.as_raw_fd();
    let (from, to) = (from.as_ptr(), to.as_ptr());
    // SAFETY: both names end in a NUL and outlive the call.
    answered(Call::Link, dir, || unsafe { libc::linkat(at, from, at, to, 0) }.into()).map(drop)
}

/// syncfs(2): all that the file system of `fd` has in memory goes to the disk.
pub(crate) fn syncfs(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    answered(Call::Syncfs, fd, || unsafe { libc::syncfs(fd.as_raw_fd()) }.into()).map(drop)
}

/// sync_file_range(2) of a whole file: starts writing its bytes to the disk, and waits for that if
/// asked to. Says nothing of its metadata, nor of the disk's own cache.
pub(crate) fn write_back(file: &File, wait: bool) -> Result<(), Errno> {
    let before_after = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let flags = libc::SYNC_FILE_RANGE_WRITE | if wait { before_after } else { 0 };
    // SAFETY: no memory is passed.
    let call = || unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) }.into();
    answered(Call::SyncRange, file.as_fd(), call).map(drop)
}

/// The effective user.
pub(crate) fn user() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// A name for these calls. A NUL, which no name here has, would end it.
pub(crate) fn c_string(name: &str) -> CString {
    let bytes = name.as_bytes();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

/// Makes a call until no signal interrupts it.
fn answered(
    call: Call,
    fd: BorrowedFd<'_>,
    make: impl Fn() -> libc::c_long,
) -> Result<libc::c_long, Errno> {
    let about = Attempt { call, ..nothing_about(fd, 0) };
    attempt(&about, |_| make() as isize).map(|answer| answer as libc::c_long)
}
