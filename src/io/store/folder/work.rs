//! What a folder's helper thread does.

use std::{collections::HashMap, io, os::fd::AsFd, sync::Arc};

use super::{
    Running,
    base::{Base, Parent},
    group::Group,
    part::Part,
};
use crate::{
    chain::Chain,
    io::{
        SinkKind,
        error::rename,
        store::{
            Answer, Done, Failure, FileNo, Name, Request, again, not_open, reading::Readings,
            worker::Work,
        },
        sys::beneath::{self, c_string},
    },
};

/// A folder is made so that what belongs into it can be put there.
const ENTER: u32 = 0o700;

pub(super) struct FolderWork {
    base: Arc<Base>,
    parts: HashMap<FileNo, Slot>,
    readings: Readings,
    group: Group,
    how: How,
    /// The folder that was used last: as a rule the next file goes there too.
    last: Option<Arc<Parent>>,
    /// Dropped last: there are no parts any more.
    _running: Running,
}

/// How it was told to work.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) sync: bool,
    pub(super) make_folders: bool,
    pub(super) kind: SinkKind,
}

/// What a number stands for that was created.
enum Slot {
    Part(Part),
    /// Why whatever is asked of it fails; and what is left of it.
    Failed(io::Error, Option<Part>),
}

impl FolderWork {
    pub(super) fn new(
        base: Arc<Base>,
        group: Group,
        readings: Readings,
        how: How,
        running: Running,
    ) -> Self {
        let parts = HashMap::new();
        Self { base, parts, readings, group, how, last: None, _running: running }
    }
}

impl Work for FolderWork {
    fn carry_out(&mut self, file: FileNo, request: Request, out: &mut Vec<Answer>) {
        let name = match &request {
            Request::Create { name, .. } | Request::Open { name } => Some(name),
            _ => None,
        };
        if self.group.has(file, name) {
            self.put_off(out); // in order
        }
        let done = match request {
            Request::Write { offset, chain } => {
                let result = self.write(file, offset, chain).map(Done::Written);
                out.push(Answer { file, result });
                return;
            }
            Request::Commit { length, mode, modified } => match self.parts.remove(&file) {
                Some(Slot::Part(part)) => {
                    match self.group.add(file, part, length, mode, modified) {
                        Ok(()) => return,
                        Err(error) => {
                            self.parts.insert(file, Slot::Failed(again(&error), None));
                            Err(error)
                        }
                    }
                }
                Some(failed @ Slot::Failed(..)) => {
                    let error = failed.error();
                    self.parts.insert(file, failed);
                    Err(error)
                }
                None => Err(not_open(file)),
            },
            Request::MakeFolder { name, mode } => match self.make_folder(&name, mode) {
                Ok(()) if self.how.sync => return self.group.add_folder(file),
                result => result.map(|()| Done::FolderMade),
            },
            Request::Create { name, length, overwrite } => {
                self.create(file, name, length, overwrite)
            }
            Request::Discard => self.discard(file),
            Request::Open { name } => self.open(file, &name),
            // Nothing was given to it to send.
            Request::Next => Ok(Done::NoMore),
            Request::Read { offset, len, look } => self.readings.read(file, offset, len, look),
            Request::Close => self.readings.close(file),
        };
        let result = done.map_err(|error| Failure { error, chain: None, item: None });
        out.push(Answer { file, result });
    }

    fn is_due(&self) -> bool {
        self.group.is_due()
    }

    fn put_off(&mut self, out: &mut Vec<Answer>) {
        let from = out.len();
        self.group.carry_out(out);
        for Answer { file, result } in &out[from..] {
            if let Err(failure) = result {
                // Its part is gone already. (Of a folder, nothing else is asked.)
                self.parts.insert(*file, Slot::Failed(again(&failure.error), None));
                self.last = None;
            }
        }
    }

    fn rest(&mut self) {
        self.readings.rest();
    }
}

impl FolderWork {
    fn create(
        &mut self,
        file: FileNo,
        name: Name,
        length: Option<u64>,
        overwrite: bool,
    ) -> io::Result<Done> {
        self.readings.forget(file);
        self.parts.remove(&file);
        match self.new_part(name, length, overwrite) {
            Ok(part) => {
                self.parts.insert(file, Slot::Part(part));
                Ok(Done::Created)
            }
            Err(error) => {
                self.parts.insert(file, Slot::Failed(again(&error), None));
                Err(error)
            }
        }
    }

    fn new_part(&mut self, name: Name, length: Option<u64>, overwrite: bool) -> io::Result<Part> {
        let parent = match &self.last {
            Some(last) if last.name() == name.folder() => Arc::clone(last),
            _ => {
                let made = self.how.make_folders.then(|| self.group.made());
                self.base.folder(name.folder(), made)?
            }
        };
        self.last = Some(Arc::clone(&parent));
        Part::create(&self.base, parent, name, length, overwrite, self.how.kind)
    }

    fn write(&mut self, file: FileNo, offset: u64, chain: Chain) -> Result<Chain, Failure> {
        let failed = |error, chain| Err(Failure { error, chain: Some(chain), item: None });
        match self.parts.remove(&file) {
            Some(Slot::Part(mut part)) => {
                let result = part.write(offset, chain);
                let slot = match &result {
                    Ok(_) => Slot::Part(part),
                    Err(failure) => Slot::Failed(again(&failure.error), Some(part)),
                };
                self.parts.insert(file, slot);
                result
            }
            Some(slot @ Slot::Failed(..)) => {
                let error = slot.error();
                self.parts.insert(file, slot);
                failed(error, chain)
            }
            None => failed(not_open(file), chain),
        }
    }

    fn discard(&mut self, file: FileNo) -> io::Result<Done> {
        match self.parts.remove(&file) {
            Some(Slot::Part(part) | Slot::Failed(_, Some(part))) => part.discard()?,
            Some(Slot::Failed(_, None)) => {}
            None => return Err(not_open(file)),
        }
        Ok(Done::Discarded)
    }

    fn make_folder(&mut self, name: &Name, mode: Option<u32>) -> io::Result<()> {
        let made = self.group.made();
        let parent = self.base.folder(name.folder(), Some(made))?;
        let is_there = parent.status(&c_string(name.last())).is_ok_and(|found| found.is_some());
        let folder = self.base.folder(Some(name.as_str()), Some(made))?;
        if let (false, Some(mode)) = (is_there, mode) {
            let shown = || self.base.show(name.as_str());
            beneath::chmod(folder.fd().as_fd(), mode & 0o777 | ENTER)
                .map_err(|errno| crate::io::error::named("fchmod of", shown(), errno.0))?;
        }
        Ok(())
    }

    fn open(&mut self, file: FileNo, name: &Name) -> io::Result<Done> {
        self.parts.remove(&file);
        let shown = self.base.show(name.as_str());
        let attributes = self.readings.file(file, self.base.open_file(name), shown)?;
        Ok(Done::Opened { name: None, attributes })
    }
}

impl Slot {
    fn error(&self) -> io::Error {
        match self {
            Slot::Failed(error, _) => again(error),
            Slot::Part(part) => rename("write of", part.name(), io::ErrorKind::Other.into()),
        }
    }
}
