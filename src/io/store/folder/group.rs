//! Commits that go together: many small files wait for the disk once.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    base::{Base, Made},
    part::{Part, Written},
};
use crate::io::{
    error::{named, rename},
    store::{Answer, Done, Failure, FileNo, Name, again},
    sys::beneath,
};

/// A group is carried out when it has so many files or folders ...
const FILES: usize = 256;
/// ... or so many bytes, or its first has waited for so long, or there is nothing else to do.
const BYTES: u64 = 64 << 20;
const AGE: Duration = Duration::from_millis(50);
/// From so many files (or folders) on, one syncfs(2) is taken for faster than an fsync(2) for each.
const MANY: usize = 8;

/// What is to be made durable.
pub(super) struct Group {
    base: Arc<Base>,
    /// The folder, for syncfs(2).
    disk: OwnedFd,
    sync: bool,
    files: Vec<Commit>,
    /// Folders that were asked for; they are there already.
    folders: Vec<FileNo>,
    /// Folders in which others were made.
    made: Made,
    bytes: u64,
    since: Option<Instant>,
}

struct Commit {
    file: FileNo,
    written: Written,
    mode: Option<u32>,
    /// What went wrong with it so far.
    result: io::Result<()>,
}

impl Group {
    pub(super) fn new(base: Arc<Base>, sync: bool) -> io::Result<Self> {
        let disk = base.again()?;
        let (files, folders, made) = (Vec::new(), Vec::new(), Made::new());
        Ok(Self { base, disk, sync, files, folders, made, bytes: 0, since: None })
    }

    /// A part is whole. It is answered with the group, unless it fails at once: then it is gone.
    pub(super) fn add(
        &mut self,
        file: FileNo,
        part: Part,
        length: u64,
        mode: Option<u32>,
        modified: Option<SystemTime>,
    ) -> io::Result<()> {
        let written = part.finish(length, modified)?;
        if self.sync {
            written.write_back();
        }
        self.bytes = self.bytes.saturating_add(length);
        self.since.get_or_insert_with(Instant::now);
        self.files.push(Commit { file, written, mode, result: Ok(()) });
        Ok(())
    }

    /// A folder was made, or was there.
    pub(super) fn add_folder(&mut self, file: FileNo) {
        self.since.get_or_insert_with(Instant::now);
        self.folders.push(file);
    }

    /// Where those that make folders say in which.
    pub(super) fn made(&mut self) -> &mut Made {
        &mut self.made
    }

    /// Whether a file of that number or of that name is in it, or one whose part has that name.
    pub(super) fn has(&self, file: FileNo, name: Option<&Name>) -> bool {
        let name = name.map(Name::as_str);
        let part = name.and_then(|name| name.strip_suffix(Name::PART));
        self.folders.contains(&file)
            || self.files.iter().any(|it| {
                let its = Some(it.written.name().as_str());
                it.file == file || its == name || its == part
            })
    }

    pub(super) fn is_due(&self) -> bool {
        self.files.len() + self.folders.len() >= FILES
            || self.bytes >= BYTES
            || self.since.is_some_and(|since| since.elapsed() >= AGE)
    }

    /// Makes all of it durable, gives the files their names, and answers.
    pub(super) fn carry_out(&mut self, out: &mut Vec<Answer>) {
        let (mut files, folders) =
            (std::mem::take(&mut self.files), std::mem::take(&mut self.folders));
        (self.bytes, self.since) = (0, None);
        if !self.sync {
            self.made.clear();
        }
        if files.is_empty() && folders.is_empty() {
            return;
        }
        if self.sync {
            self.sync_files(&mut files);
        }
        self.check_parents(&mut files);
        good(&mut files).for_each(|commit| commit.result = commit.written.commit(commit.mode));
        let mut failed = Vec::new();
        if self.sync {
            failed = self.sync_folders(&files);
        }
        for commit in files {
            let parent = commit.written.parent().name();
            let result = commit.result.and_then(|()| {
                let its =
                    failed.iter().find(|(folder, _)| is_on_the_way(folder.as_deref(), parent));
                its.map_or(Ok(()), |(_, error)| Err(again(error)))
            });
            out.push(answer(commit.file, result, Done::Committed));
        }
        // Which of them it was is not known.
        let all = || failed.first().map_or(Ok(()), |(_, error)| Err(again(error)));
        let made = |file| answer(file, all(), Done::FolderMade);
        out.extend(folders.into_iter().map(made));
    }

    /// The bytes come before the name: whoever finds the name finds all of them.
    fn sync_files(&self, files: &mut [Commit]) {
        let device = self.base.device();
        let here = good(files).all(|commit| commit.written.parent().id().0 == device);
        if !here || good(files).count() <= MANY {
            good(files).for_each(|commit| commit.result = commit.written.sync());
            return;
        }
        // So that an error is that of the file which has it.
        good(files).for_each(|commit| commit.result = commit.written.wait_written());
        if let Err(error) = self.sync_all() {
            good(files).for_each(|commit| commit.result = Err(again(&error)));
        }
    }

    /// No file is given its name in a folder that has been moved away meanwhile.
    fn check_parents(&self, files: &mut [Commit]) {
        let mut checked: Vec<((u64, u64), io::Result<()>)> = Vec::new();
        for commit in good(files) {
            let parent = commit.written.parent();
            let known = checked.iter().position(|(id, _)| *id == parent.id());
            let at = known.unwrap_or_else(|| {
                checked.push((parent.id(), self.base.is_there(parent)));
                checked.len() - 1
            });
            commit.result = copy(&checked[at].1);
        }
    }

    /// The names are durable, and those of the folders on the way, but for those beneath the folders
    /// that it answers: they are tried again with the next group.
    fn sync_folders(&mut self, files: &[Commit]) -> Vec<(Option<Box<str>>, io::Error)> {
        let mut folders = std::mem::take(&mut self.made);
        let committed = files.iter().filter(|commit| commit.result.is_ok());
        let parents = committed.map(|commit| commit.written.parent());
        folders.extend(parents.map(|parent| (parent.name().map(Into::into), parent.id().0)));
        let here = folders.values().all(|&device| device == self.base.device());
        if here && folders.len() > MANY {
            // No folder at all is known to be durable then.
            return self.sync_all().err().map(|error| (None, error)).into_iter().collect();
        }
        let mut failed = Vec::new();
        for (name, device) in folders {
            match self.sync_folder(name.as_deref()) {
                Ok(()) => {}
                // One that was made and has been removed since is nobody's way.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && !files.iter().any(|commit| {
                            is_on_the_way(name.as_deref(), commit.written.parent().name())
                        }) => {}
                Err(error) => {
                    self.made.insert(name.clone(), device);
                    failed.push((name, error));
                }
            }
        }
        failed
    }

    fn sync_folder(&self, name: Option<&str>) -> io::Result<()> {
        let folder = self.base.folder(name, None)?;
        let shown = || self.base.show(name.unwrap_or(""));
        folder.sync().map_err(|error| rename("fsync of", shown(), error))
    }

    fn sync_all(&self) -> io::Result<()> {
        beneath::syncfs(self.disk.as_fd())
            .map_err(|errno| named("syncfs of", self.base.path().display(), errno.0))
    }
}

/// Whether a folder is another one or above it; `None` is the base, which is above all.
fn is_on_the_way(folder: Option<&str>, to: Option<&str>) -> bool {
    let Some(folder) = folder else { return true };
    to.and_then(|to| to.strip_prefix(folder))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Those with which nothing went wrong yet.
fn good(files: &mut [Commit]) -> impl Iterator<Item = &mut Commit> {
    files.iter_mut().filter(|commit| commit.result.is_ok())
}

fn answer(file: FileNo, result: io::Result<()>, done: Done) -> Answer {
    let result = result.map(|()| done);
    Answer { file, result: result.map_err(|error| Failure { error, chain: None, item: None }) }
}

fn copy(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(again(error)),
    }
}
