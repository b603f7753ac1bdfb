//! Errors of system calls, which name the call and its object.

use std::{error, fmt, io};

/// A system call that failed: `writev to 127.0.0.1:9000: EPIPE (broken pipe)`.
///
/// It travels inside a [`std::io::Error`] whose `kind()` is that of the error number. The standard
/// library keeps no raw error number beside a message, so `raw_os_error()` is `None` there:
/// [`errno`] finds the number in either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    call: &'static str,
    object: String,
    errno: i32,
    hint: Option<&'static str>,
}

impl CallError {
    /// The name of the call.
    pub fn call(&self) -> &str {
        self.call
    }

    /// What it was called for: a peer's address, a path.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The system's error number (errno(3)).
    pub fn errno(&self) -> i32 {
        self.errno
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.call)?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        // "Broken pipe (os error 32)": the words without the number, which the name says better.
        let words = io::Error::from_raw_os_error(self.errno).to_string();
        let words = words.split(" (os error").next().unwrap_or_default();
        match name(self.errno) {
            Some(name) => write!(f, ": {name} ({words})")?,
            None => write!(f, ": error {} ({words})", self.errno)?,
        }
        self.hint.map_or(Ok(()), |hint| write!(f, ": {hint}"))
    }
}

impl error::Error for CallError {}

/// The system's error number in `error`, whether it is bare or a [`CallError`].
///
/// ```
/// let error = mbuf::io::Stream::connect_unix("/nonexistent".as_ref()).unwrap_err();
/// assert_eq!(mbuf::io::errno(&error), Some(libc::ENOENT));
/// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
/// assert!(error.to_string().starts_with("connect to /nonexistent: ENOENT"));
/// ```
pub fn errno(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| call(error).map(|call| call.errno))
}

/// What says which call failed, if the error has that.
pub(crate) fn call(error: &io::Error) -> Option<&CallError> {
    error.get_ref()?.downcast_ref()
}

/// An error that names the call and its object. Allocates.
#[cold]
pub(crate) fn named(call: &'static str, object: impl fmt::Display, errno: i32) -> io::Error {
    let kind = io::Error::from_raw_os_error(errno).kind();
    io::Error::new(kind, CallError { call, object: object.to_string(), errno, hint: None })
}

/// As [`named`], with what is to be done about it.
#[cold]
pub(crate) fn advised(
    call: &'static str,
    object: impl fmt::Display,
    errno: i32,
    hint: Option<&'static str>,
) -> io::Error {
    let kind = io::Error::from_raw_os_error(errno).kind();
    io::Error::new(kind, CallError { call, object: object.to_string(), errno, hint })
}

/// Gives an error of the standard library (or of socket2 or mio) the name of its call and object.
#[cold]
pub(crate) fn rename(call: &'static str, object: impl fmt::Display, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => named(call, object, errno),
        None => io::Error::new(error.kind(), format!("{call} {object}: {error}")),
    }
}

/// The name of an error number: `EPIPE`.
pub(super) fn name(errno: i32) -> Option<&'static str> {
    macro_rules! names {
        ($($name:ident)*) => {
            match errno {
                $(libc::$name => Some(stringify!($name)),)*
                _ => None,
            }
        };
    }
    names! {
        EPERM ENOENT EINTR EIO EBADF EAGAIN ENOMEM EACCES EFAULT EEXIST ENODEV EINVAL EBUSY ENOTDIR EISDIR EXDEV EDQUOT ENXIO ENOTEMPTY ENOSYS ENFILE EMFILE
        EFBIG ENOSPC EROFS EPIPE ENAMETOOLONG ELOOP ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE
        ENOPROTOOPT EPROTONOSUPPORT EOPNOTSUPP EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN
        ENETUNREACH ENONET ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN
        ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ENODATA EPROTO
        EBADFD ENOTTY ERANGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_call_the_object_and_keeps_its_number() {
        let error = named("writev", "to 127.0.0.1:9000", libc::EPIPE);
        assert_eq!(error.to_string(), "writev to 127.0.0.1:9000: EPIPE (Broken pipe)");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(errno(&error), Some(libc::EPIPE));
        let error = rename("bind", "to /x", io::Error::from_raw_os_error(libc::EADDRINUSE));
        assert_eq!(errno(&error), Some(libc::EADDRINUSE));
        let error = advised("TUNSETIFF", "tap x0", libc::EPERM, Some("needs CAP_NET_ADMIN"));
        let text = "TUNSETIFF tap x0: EPERM (Operation not permitted): needs CAP_NET_ADMIN";
        assert_eq!((error.to_string().as_str(), errno(&error)), (text, Some(libc::EPERM)));
        let error = rename("bind", "to /x", io::Error::other("odd"));
        assert_eq!((error.to_string().as_str(), errno(&error)), ("bind to /x: odd", None));
    }
}
