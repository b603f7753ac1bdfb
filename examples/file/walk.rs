//! What is sent: the files and folders that were named, and what is below them.

use std::{
    ffi::OsStr,
    fs::{self, File, FileType},
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::FileTypeExt},
    },
    path::{Path, PathBuf},
};

use mbuf::io::store::{Item, Name, What};
use walkdir::{DirEntry, WalkDir};

/// The path that means standard input.
pub const STDIN: &str = "-";

/// The items that these paths name, found one by one as they are asked for: each path under its
/// last component, or under `name`, folders before what is in them, in the order of their names.
pub fn items(paths: Vec<PathBuf>, name: Option<Name>) -> impl Iterator<Item = Item> + Send {
    paths.into_iter().flat_map(move |path| -> Box<dyn Iterator<Item = Item> + Send> {
        if path == Path::new(STDIN) {
            return Box::new(std::iter::once(stdin(name.as_ref())));
        }
        match top(&path, name.as_ref()) {
            Ok(top) => Box::new(below(path, top)),
            Err(error) => Box::new(std::iter::once(failed(&path, error))),
        }
    })
}

/// Bytes of the files that these paths name, as far as that can be told in advance.
pub fn total(paths: &[PathBuf]) -> Option<u64> {
    let mut sum = 0;
    for path in paths {
        if path == Path::new(STDIN) {
            return None;
        }
        for entry in walk(path).into_iter().flatten() {
            if entry.file_type().is_file() {
                sum += entry.metadata().map_or(0, |meta| meta.len());
            }
        }
    }
    Some(sum)
}

fn walk(path: &Path) -> WalkDir {
    // A link that is given as such is followed, and none below it.
    WalkDir::new(path).follow_root_links(true).follow_links(false).sort_by_file_name()
}

/// The name under which a path arrives.
fn top(path: &Path, name: Option<&Name>) -> io::Result<Vec<u8>> {
    if let Some(name) = name {
        return Ok(name.as_str().into());
    }
    if let Some(last) = path.file_name() {
        return Ok(last.as_bytes().into());
    }
    // `.`, `..`: the folder has a name all the same.
    let whole = fs::canonicalize(path)?;
    let last = whole.file_name().ok_or_else(|| invalid("has no name of its own: give --name"))?;
    Ok(last.as_bytes().into())
}

fn below(path: PathBuf, top: Vec<u8>) -> impl Iterator<Item = Item> + Send {
    walk(&path).into_iter().map(move |entry| match entry {
        Ok(entry) => item(&path, &top, &entry),
        Err(error) => {
            let shown = error.path().unwrap_or(&path).to_path_buf();
            let error = match error.io_error().and_then(io::Error::raw_os_error) {
                Some(errno) => io::Error::from_raw_os_error(errno),
                None => io::Error::other(error.to_string()),
            };
            failed(&shown, error)
        }
    })
}

fn item(path: &Path, top: &[u8], entry: &DirEntry) -> Item {
    let mut bytes = top.to_vec();
    if entry.depth() > 0 {
        let rest = entry.path().strip_prefix(path).unwrap_or(entry.file_name().as_ref());
        bytes.push(b'/');
        bytes.extend_from_slice(rest.as_os_str().as_bytes());
    }
    let name = match Name::parse(&bytes) {
        Ok(name) => name,
        Err(bad) => return failed(entry.path(), invalid(format!("cannot be sent: {bad}"))),
    };
    match kind(entry) {
        Ok(kind) if kind.is_dir() => made(name, entry, What::Folder(entry.path().into())),
        Ok(kind) if kind.is_file() => match real(entry) {
            Ok(path) => made(name, entry, What::File(path)),
            Err(error) => failed(entry.path(), error),
        },
        Ok(kind) => failed(entry.path(), invalid(format!("is {}, not a file", describe(kind)))),
        Err(error) => failed(entry.path(), error),
    }
}

/// What an entry is; of a link that was given as a path, what it leads to.
fn kind(entry: &DirEntry) -> io::Result<FileType> {
    if entry.depth() == 0 && entry.path_is_symlink() {
        return Ok(fs::metadata(entry.path())?.file_type());
    }
    Ok(entry.file_type())
}

/// Where a file is. Stores do not follow links.
fn real(entry: &DirEntry) -> io::Result<PathBuf> {
    if entry.path_is_symlink() { fs::canonicalize(entry.path()) } else { Ok(entry.path().into()) }
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something else",
    }
}

fn stdin(name: Option<&Name>) -> Item {
    let path = Path::new(STDIN);
    let Some(name) = name.cloned() else {
        return failed(path, invalid("standard input has no name of its own: give --name"));
    };
    // Without the buffer that the standard library puts in front of it.
    match io::stdin().as_fd().try_clone_to_owned() {
        Ok(fd) => {
            let what = What::Stream(Box::new(File::from(fd)));
            Item { name, shown: "standard input".into(), what }
        }
        Err(error) => failed(path, error),
    }
}

fn made(name: Name, entry: &DirEntry, what: What) -> Item {
    Item { name, shown: entry.path().display().to_string(), what }
}

/// An item that cannot be sent, under whatever name comes close.
fn failed(path: &Path, error: io::Error) -> Item {
    let last = path.file_name().unwrap_or(OsStr::new("?")).to_string_lossy();
    let Ok(name) = Name::parse(last.as_bytes()).or_else(|_| Name::parse(b"?")) else {
        unreachable!("`?` is a name")
    };
    let shown = path.display().to_string();
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let error = io::Error::new(error.kind(), format!("{shown}: {text}"));
    Item { name, shown, what: What::Failed(error) }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::{ffi::OsStringExt, fs::symlink, net::UnixListener};

    use super::*;

    /// A line for each item: what it is, and its name, or why it fails.
    fn list(paths: &[PathBuf], name: Option<&str>) -> Vec<String> {
        let name = name.map(|name| Name::parse(name.as_bytes()).unwrap());
        let line = |item: Item| match item.what {
            What::File(_) => format!("file {}", item.name),
            What::Folder(_) => format!("folder {}", item.name),
            What::Stream(_) => format!("stream {}", item.name),
            What::Failed(error) => {
                assert!(error.to_string().contains(&item.shown), "{error}: {}", item.shown);
                format!("{:?} {}", error.kind(), item.name)
            }
            _ => format!("{item:?}"),
        };
        items(paths.to_vec(), name).map(line).collect()
    }

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("t/b/empty")).unwrap();
        fs::write(at("t/b/2"), "22").unwrap();
        fs::write(at("t/b/1"), "1").unwrap();
        fs::write(at("t/a"), "333").unwrap();
        folder
    }

    #[test]
    fn a_folder_comes_before_what_is_in_it_and_all_in_order() {
        let folder = tree();
        let paths = [folder.path().join("t"), folder.path().join("t/b/2")];
        let expected = [
            "folder t",
            "file t/a",
            "folder t/b",
            "file t/b/1",
            "file t/b/2",
            "folder t/b/empty",
            "file 2",
        ];
        assert_eq!(list(&paths, None), expected);
        assert_eq!(total(&paths), Some(8));
    }

    #[test]
    fn the_last_component_is_the_name_unless_told() {
        let folder = tree();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(list(&[at("t/b/")], None)[0], "folder b");
        assert_eq!(list(&[at("t/b/.")], None)[0], "folder b");
        assert_eq!(list(&[at("t/b/empty/..")], None)[0], "folder b");
        assert_eq!(list(&[at("t/b/1")], Some("x/y")), ["file x/y"]);
        assert_eq!(list(&[at("t/b")], Some("x"))[..2], ["folder x", "file x/1"]);
        assert_eq!(list(&["/".into()], None), ["InvalidInput ?"]);
    }

    #[test]
    fn links_are_followed_where_they_are_given_and_fail_below() {
        let folder = tree();
        let at = |name: &str| folder.path().join(name);
        symlink("a", at("t/link")).unwrap();
        symlink("t/b", at("way")).unwrap();
        symlink("t/a", at("short")).unwrap();
        symlink("nothing", at("broken")).unwrap();
        assert_eq!(list(&[at("t")], None).last().unwrap(), "InvalidInput link");
        assert_eq!(
            list(&[at("way")], None),
            ["folder way", "file way/1", "file way/2", "folder way/empty"]
        );
        assert_eq!(list(&[at("short")], None), ["file short"]);
        assert_eq!(list(&[at("broken")], None), ["NotFound broken"]);
        let Some(What::File(real)) = items(vec![at("short")], None).next().map(|item| item.what)
        else {
            panic!("a file")
        };
        assert_eq!(real, fs::canonicalize(at("t/a")).unwrap());
    }

    #[test]
    fn what_is_no_file_fails_by_name_and_the_others_go_on() {
        let folder = tree();
        let at = |name: &str| folder.path().join(name);
        let _socket = UnixListener::bind(at("t/a.socket")).unwrap();
        let odd = OsStr::from_bytes(b"odd\xff").to_os_string();
        fs::write(at("t").join(&odd), "").unwrap();
        fs::write(at("t").join("back\\slash"), "").unwrap();
        let _ = odd.into_vec();
        let found = list(&[at("gone"), at("t"), "/dev/null".into()], None);
        let expected = [
            "NotFound gone",
            "folder t",
            "file t/a",
            "InvalidInput a.socket",
            "folder t/b",
            "file t/b/1",
            "file t/b/2",
            "folder t/b/empty",
            "InvalidInput ?",
            "InvalidInput odd\u{fffd}",
            "InvalidInput null",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn standard_input_needs_a_name() {
        assert_eq!(list(&["-".into()], Some("x.tar")), ["stream x.tar"]);
        assert_eq!(list(&["-".into()], None), ["InvalidInput -"]);
        assert_eq!(total(&["-".into()]), None);
    }
}
