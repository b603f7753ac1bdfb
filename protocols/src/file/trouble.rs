//! What can go wrong with a file or with the whole transfer.

use std::{fmt, io};

use super::wire::MAX_TEXT;

/// What kind of trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum Code {
    /// The peer does not keep to the protocol.
    Malformed = 1,
    /// The peer speaks another version, or another protocol.
    Version = 2,
    /// A name is refused.
    Name = 3,
    /// Something of that name is there already.
    Exists = 4,
    /// The disk is full, or the quota, or the file would be too large (ENOSPC, EDQUOT, EFBIG).
    NoSpace = 5,
    /// Not allowed (EACCES, EPERM, EROFS).
    Permission = 6,
    /// Bytes do not have the hash that was declared.
    Hash = 7,
    /// Bytes overlap others, leave a gap, or lie beyond the file's end.
    Offset = 8,
    /// The file's length is not the one that was declared.
    Length = 9,
    /// A limit was passed.
    Limit = 10,
    /// The file was changed while it was sent.
    Changed = 11,
    /// Reading or writing failed otherwise.
    Io = 12,
    /// Somebody stopped the transfer.
    Cancelled = 13,
    /// It is not a file: a folder, a FIFO, a device, a socket.
    NotAFile = 14,
    /// The peer went away, or a code that is not known here.
    Other = 15,
}

impl Code {
    const ALL: [Code; 15] = [
        Code::Malformed,
        Code::Version,
        Code::Name,
        Code::Exists,
        Code::NoSpace,
        Code::Permission,
        Code::Hash,
        Code::Offset,
        Code::Length,
        Code::Limit,
        Code::Changed,
        Code::Io,
        Code::Cancelled,
        Code::NotAFile,
        Code::Other,
    ];
}

/// What went wrong: the kind, and the words, with the thing and the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The kind.
    pub code: Code,
    /// The words. No control characters, whoever wrote them.
    pub text: String,
    /// Whether the peer said it.
    pub from_peer: bool,
}

impl Trouble {
    #[cold]
    pub(super) fn new(code: Code, text: impl fmt::Display) -> Self {
        Self { code, text: clean(&text.to_string()), from_peer: false }
    }

    /// What the system says, with the kind that its number has.
    #[cold]
    pub(super) fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let code = match error.kind() {
            Kind::AlreadyExists | Kind::ResourceBusy => Code::Exists,
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Code::NoSpace,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Code::Permission,
            Kind::UnexpectedEof => Code::Changed,
            Kind::InvalidInput | Kind::IsADirectory | Kind::NotADirectory => Code::NotAFile,
            Kind::InvalidData => Code::Changed,
            _ => Code::Io,
        };
        Self::new(code, error)
    }

    #[cold]
    pub(super) fn from_peer(code: u16, text: &[u8]) -> Self {
        let code = Code::ALL.into_iter().find(|known| *known as u16 == code);
        let text = clean(&String::from_utf8_lossy(text));
        Self { code: code.unwrap_or(Code::Other), text, from_peer: true }
    }

    /// The words as they go on the wire.
    pub(super) fn on_wire(&self) -> &str {
        let mut end = self.text.len().min(MAX_TEXT);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        &self.text[..end]
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = if self.from_peer { "the other end says: " } else { "" };
        write!(f, "{by}{}", self.text)
    }
}

impl std::error::Error for Trouble {}

/// Text that does nothing to a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peer_says_cannot_drive_a_terminal_and_is_cut_between_characters() {
        let trouble = Trouble::from_peer(7, b"\x1b[2Jgone\n\xff");
        assert_eq!(trouble.code, Code::Hash);
        assert!(!trouble.text.contains('\x1b') && !trouble.text.contains('\n'), "{trouble}");
        assert!(trouble.to_string().starts_with("the other end says: "));
        assert_eq!(Trouble::from_peer(999, b"").code, Code::Other);
        let long = Trouble::new(Code::Io, "ä".repeat(MAX_TEXT));
        assert_eq!(long.on_wire().len(), MAX_TEXT);
        let odd = Trouble::new(Code::Io, format!("a{}", "ä".repeat(MAX_TEXT)));
        assert_eq!(odd.on_wire().len(), MAX_TEXT - 1);
    }

    #[test]
    fn errors_of_the_system_have_their_kind() {
        let code = |errno| Trouble::of(&io::Error::from_raw_os_error(errno)).code;
        assert_eq!(code(28), Code::NoSpace); // ENOSPC
        assert_eq!(code(122), Code::NoSpace); // EDQUOT
        assert_eq!(code(27), Code::NoSpace); // EFBIG
        assert_eq!(code(13), Code::Permission); // EACCES
        assert_eq!(code(17), Code::Exists); // EEXIST
        assert_eq!(code(5), Code::Io); // EIO
    }
}
