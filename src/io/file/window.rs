//! The part of a file that a sink has mapped, which moves along with what is written.

use std::{fmt::Display, fs::File, io, path::Path};

use crate::io::{
    error::rename,
    sys::{
        Errno,
        room::{NoRoom, Room},
    },
};

/// What a mapping begins and ends at a multiple of, on every machine that Linux runs on.
const PAGE: usize = 64 << 10;

/// One window at a time. Sequential writes get larger ones, each twice the one before, so that a
/// small file does not take room (nor time) for a large one.
pub(super) struct Windows {
    /// Bytes of the largest: a multiple of `PAGE`.
    pub(super) most: usize,
    pub(super) populate: bool,
    /// Bytes of the last one: 0 before the first.
    size: usize,
    /// Where the last one ended, at most.
    next: u64,
    room: Option<Room>,
}

/// Why there is no window.
pub(super) enum NoWindow {
    /// The disk is full, or the file too large, or nearly: a call finds out how much still fits.
    Full,
    /// Not for mappings on this file system.
    Unsupported(&'static str),
    /// Not here.
    Failed(io::Error),
}

impl Windows {
    pub(super) fn new(most: usize, populate: bool) -> Self {
        Self { most: whole(most), populate, size: 0, next: 0, room: None }
    }

    pub(super) fn set_most(&mut self, bytes: usize) {
        self.most = whole(bytes);
    }

    /// The window around an offset of the file, at which `need` bytes are to be written. `path` is
    /// for messages.
    pub(super) fn at(
        &mut self,
        file: &File,
        path: &Path,
        at: u64,
        need: usize,
    ) -> Result<&mut Room, NoWindow> {
        let room = match self.room.take() {
            Some(room) if room.contains(at) => room,
            last => {
                drop(last);
                let room = self.reserve(file, path, at, need)?;
                if self.populate {
                    self.populate(&room, file, path)?;
                }
                room
            }
        };
        Ok(self.room.insert(room))
    }

    /// Nothing is mapped from here on.
    pub(super) fn unmap(&mut self) {
        self.room = None;
    }

    /// msync(2).
    pub(super) fn flush(&self) -> io::Result<()> {
        self.room.as_ref().map_or(Ok(()), Room::flush)
    }

    /// A window, or, where the disk has no room for a whole one, what is needed of it.
    fn reserve(
        &mut self,
        file: &File,
        path: &Path,
        at: u64,
        need: usize,
    ) -> Result<Room, NoWindow> {
        let before = at as usize % PAGE;
        self.size = match self.size {
            0 => whole(before.saturating_add(need)),
            size if at == self.next => size.saturating_mul(2),
            size => size,
        }
        .min(self.most);
        // One that goes on after the last begins there. Others are cut so that they do not overlap,
        // for writes may come in any order.
        let within = if at == self.next { before } else { (at % self.size as u64) as usize };
        let least = before + need.min(self.size - within);
        let room = match Room::new(file, at - within as u64, self.size) {
            Err(NoRoom::Reserve(Errno(errno))) if is_full(errno) => {
                Room::new(file, at - before as u64, least)
            }
            room => room,
        };
        let failed =
            |call, object: &dyn Display, error| NoWindow::Failed(rename(call, object, error));
        let room = room.map_err(|error| match error {
            NoRoom::Reserve(Errno(errno)) if is_full(errno) => NoWindow::Full,
            NoRoom::Reserve(Errno(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                NoWindow::Unsupported("there is no fallocate")
            }
            NoRoom::Reserve(errno) => {
                let object = format!("{} at {at}", path.display());
                failed("fallocate of", &object, errno.into())
            }
            NoRoom::Map(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOMEM)) =>
            {
                NoWindow::Unsupported("it cannot be mapped")
            }
            NoRoom::Map(error) => failed("mmap of", &path.display(), error),
        })?;
        self.next = room.end();
        Ok(room)
    }

    fn populate(&mut self, room: &Room, file: &File, path: &Path) -> Result<(), NoWindow> {
        match room.populate(file) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                tracing::debug!(path = %path.display(), "there is no MADV_POPULATE_WRITE");
                self.populate = false;
            }
            // Above all EFAULT, a SIGBUS that was spared us. A call says what the matter is.
            Err(_) => return Err(NoWindow::Unsupported("its pages cannot be had")),
        }
        Ok(())
    }
}

fn is_full(errno: i32) -> bool {
    matches!(errno, libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
}

fn whole(bytes: usize) -> usize {
    bytes.clamp(1, usize::MAX - PAGE).next_multiple_of(PAGE)
}
