//! Names of files beneath a store's folder.

use std::fmt;

/// A name beneath a folder, checked: `photos/2026/cat.jpg`.
///
/// It is relative, in UTF-8, with `/` between its components, and cannot mean anything outside of
/// the folder or anything else to somebody else: no component is empty, `.` or `..`; there is no
/// NUL, no other control character, and no backslash (which is a separator elsewhere). Whoever holds
/// one need not look at it again.
///
/// ```
/// use mbuf::io::store::{BadName, Name};
///
/// let name = Name::parse(b"photos/2026/cat.jpg")?;
/// assert_eq!((name.folder(), name.last()), (Some("photos/2026"), "cat.jpg"));
/// assert_eq!(Name::parse(b"../secret"), Err(BadName::DotDot));
/// assert_eq!(Name::parse(b"/etc/passwd"), Err(BadName::Absolute));
/// # Ok::<(), BadName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadName {
    /// It has no characters, or a component has none.
    #[error("a component is empty")]
    Empty,
    /// It starts with a slash.
    #[error("it is absolute")]
    Absolute,
    /// A component is `.`.
    #[error("a component is `.`")]
    Dot,
    /// A component is `..`.
    #[error("a component is `..`")]
    DotDot,
    /// It has a NUL or another control character, at this byte.
    #[error("byte {0} is a control character")]
    Control(usize),
    /// It has a backslash, at this byte.
    #[error("byte {0} is a backslash")]
    Backslash(usize),
    /// It is not UTF-8 from this byte on.
    #[error("it is not UTF-8 from byte {0} on")]
    NotUtf8(usize),
    /// It is longer than [`Name::MAX_LEN`].
    #[error("it has {0} bytes, more than {max}", max = Name::MAX_LEN)]
    TooLong(usize),
    /// A component is longer than [`Name::MAX_COMPONENT`].
    #[error("a component has {0} bytes, more than {max}", max = Name::MAX_COMPONENT)]
    ComponentTooLong(usize),
    /// It has more components than [`Name::MAX_DEPTH`].
    #[error("it has {0} components, more than {max}", max = Name::MAX_DEPTH)]
    TooDeep(usize),
}

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 1024;
    /// The longest component, in bytes: NAME_MAX of Linux, less what [`Name::PART`] takes.
    pub const MAX_COMPONENT: usize = 255 - Self::PART.len();
    /// The most components.
    pub const MAX_DEPTH: usize = 64;
    /// What is added to a name while its file is not whole.
    pub const PART: &str = ".part";

    /// Checks a name as it came from a peer. O(bytes); one allocation.
    ///
    /// # Errors
    /// [`BadName`], which says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Name, BadName> {
        if bytes.is_empty() {
            return Err(BadName::Empty);
        }
        if bytes.len() > Self::MAX_LEN {
            return Err(BadName::TooLong(bytes.len()));
        }
        let text =
            std::str::from_utf8(bytes).map_err(|error| BadName::NotUtf8(error.valid_up_to()))?;
        if text.starts_with('/') {
            return Err(BadName::Absolute);
        }
        for (at, character) in text.char_indices() {
            match character {
                '\\' => return Err(BadName::Backslash(at)),
                character if character.is_control() => return Err(BadName::Control(at)),
                _ => {}
            }
        }
        let depth = text.split('/').count();
        if depth > Self::MAX_DEPTH {
            return Err(BadName::TooDeep(depth));
        }
        for component in text.split('/') {
            match component {
                "" => return Err(BadName::Empty),
                "." => return Err(BadName::Dot),
                ".." => return Err(BadName::DotDot),
                long if long.len() > Self::MAX_COMPONENT => {
                    return Err(BadName::ComponentTooLong(long.len()));
                }
                _ => {}
            }
        }
        Ok(Name(text.into()))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All but the last component, or `None` if there is but one.
    pub fn folder(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(folder, _)| folder)
    }

    /// The last component.
    pub fn last(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, last)| last)
    }

    /// The name and each folder on the way to it, from the outermost in.
    ///
    /// ```
    /// use mbuf::io::store::Name;
    ///
    /// let name = Name::parse(b"a/b/c").unwrap();
    /// assert!(name.prefixes().eq(["a", "a/b", "a/b/c"]));
    /// ```
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        let ends = self.0.match_indices('/').map(|(at, _)| at).chain([self.0.len()]);
        ends.map(|end| &self.0[..end])
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_fine() {
        let component = "x".repeat(Name::MAX_COMPONENT);
        let deep = ["a"; Name::MAX_DEPTH].join("/");
        for fine in ["a", "a/b", "..a", "a..", "...", ".hidden", "x.part", "ä/ß", &component, &deep]
        {
            assert_eq!(Name::parse(fine.as_bytes()).unwrap().as_str(), fine);
        }
    }

    #[test]
    fn names_that_escape_or_mislead_are_refused_by_reason() {
        let long = "x".repeat(Name::MAX_COMPONENT + 1);
        let longer = ["x"; Name::MAX_LEN].join("/");
        let deep = ["a"; Name::MAX_DEPTH + 1].join("/");
        let cases: &[(&[u8], BadName)] = &[
            (b"", BadName::Empty),
            (b"/", BadName::Absolute),
            (b"/etc/passwd", BadName::Absolute),
            (b"//x", BadName::Absolute),
            (b"a//b", BadName::Empty),
            (b"a/", BadName::Empty),
            (b".", BadName::Dot),
            (b"a/./b", BadName::Dot),
            (b"..", BadName::DotDot),
            (b"../x", BadName::DotDot),
            (b"a/../../x", BadName::DotDot),
            (b"a/..", BadName::DotDot),
            (b"a\0b", BadName::Control(1)),
            (b"a\nb", BadName::Control(1)),
            (b"a\x1b[2J", BadName::Control(1)),
            (b"a\x7f", BadName::Control(1)),
            ("a\u{9b}".as_bytes(), BadName::Control(1)),
            (b"..\\x", BadName::Backslash(2)),
            (b"C:\\x", BadName::Backslash(2)),
            (b"\xffx", BadName::NotUtf8(0)),
            (b"a\xc0\xaf", BadName::NotUtf8(1)), // an overlong slash
            (long.as_bytes(), BadName::ComponentTooLong(Name::MAX_COMPONENT + 1)),
            (longer.as_bytes(), BadName::TooLong(2 * Name::MAX_LEN - 1)),
            (deep.as_bytes(), BadName::TooDeep(Name::MAX_DEPTH + 1)),
        ];
        for (name, why) in cases {
            assert_eq!(Name::parse(name), Err(*why), "{}", String::from_utf8_lossy(name));
        }
    }
}
