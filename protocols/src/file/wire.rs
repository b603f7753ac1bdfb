//! The messages as they are on the wire. The [module above](super) draws them.

use mbuf::{
    Chain,
    io::store::{BadName, Name},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{I64, U16, U32, U64},
};

use super::trouble::{Code, Trouble};

/// The first bytes of a conversation.
pub(super) const MAGIC: [u8; 8] = *b"mbuffile";
/// The version that is spoken here.
pub(super) const VERSION: u16 = 1;
/// The number of no file: what concerns the whole transfer.
pub(super) const ALL: u32 = u32::MAX;
/// The longest text of a failure, in bytes.
pub(super) const MAX_TEXT: usize = 512;

/// What a message says.
pub(super) mod kind {
    pub(in super::super) const HELLO: u8 = 1;
    pub(in super::super) const FILE: u8 = 2;
    pub(in super::super) const FOLDER: u8 = 3;
    pub(in super::super) const DATA: u8 = 4;
    pub(in super::super) const END: u8 = 5;
    pub(in super::super) const DONE: u8 = 6;
    pub(in super::super) const FAIL: u8 = 7;
    pub(in super::super) const FINISH: u8 = 8;
    pub(in super::super) const BYE: u8 = 9;
    pub(in super::super) const ALIVE: u8 = 10;
}

/// FILE, FOLDER: the length is known.
pub(super) const HAS_LENGTH: u8 = 1;
/// FILE, FOLDER: the mode is to be kept.
pub(super) const HAS_MODE: u8 = 2;
/// FILE: the time is to be kept.
pub(super) const HAS_TIME: u8 = 4;
/// DATA: the bytes are zero and are not sent.
pub(super) const HOLE: u8 = 1;

/// How every message begins.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) reserved: U16,
    pub(super) file: U32,
}

impl Head {
    pub(super) fn new(kind: u8, flags: u8, file: u32) -> Self {
        Self { kind, flags, reserved: U16::ZERO, file: file.into() }
    }
}

/// HELLO.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Hello {
    pub(super) magic: [u8; 8],
    pub(super) version: U16,
    pub(super) chunk_log2: u8,
    pub(super) reserved: u8,
    pub(super) features: U32,
}

/// FILE and FOLDER; the name follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct File {
    pub(super) length: U64,
    pub(super) seconds: I64,
    pub(super) nanos: U32,
    pub(super) mode: U16,
    pub(super) reserved: U16,
}

/// DATA; the bytes follow, unless they are a hole.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Data {
    pub(super) offset: U64,
    pub(super) len: U32,
    pub(super) reserved: U32,
    pub(super) hash: [u8; 32],
}

/// END.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct End {
    pub(super) length: U64,
    pub(super) root: [u8; 32],
}

/// FAIL; the text follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Fail {
    pub(super) code: U16,
    pub(super) reserved: [u8; 6],
}

/// BYE.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Bye {
    pub(super) files: U64,
    pub(super) folders: U64,
    pub(super) bytes: U64,
    pub(super) root: [u8; 32],
}

/// DATA's bytes on the wire before the payload: the most that is put before a chain.
pub(super) const DATA_HEADER: usize = size_of::<Head>() + size_of::<Data>();

/// A message that was received. A file's bytes stay in the chain.
#[derive(Debug)]
pub(super) enum Message {
    Hello(Hello),
    /// FILE or FOLDER, and the name as it came.
    File {
        folder: bool,
        flags: u8,
        file: File,
        name: RawName,
    },
    Data {
        hole: bool,
        data: Data,
    },
    End(End),
    Done,
    Fail(Trouble),
    Finish,
    Bye(Bye),
    Alive,
}

/// A name as it came.
#[derive(Debug)]
pub(super) struct RawName {
    /// All of it, or the first bytes of one that is too long.
    start: Vec<u8>,
    len: usize,
}

impl RawName {
    pub(super) fn parse(&self) -> Result<Name, BadName> {
        if self.len > Name::MAX_LEN {
            return Err(BadName::TooLong(self.len));
        }
        Name::parse(&self.start)
    }

    /// Its start, for a person.
    pub(super) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.start).chars().take(200).collect()
    }
}

impl Message {
    /// What it is called.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "HELLO",
            Message::File { folder: false, .. } => "FILE",
            Message::File { folder: true, .. } => "FOLDER",
            Message::Data { .. } => "DATA",
            Message::End(_) => "END",
            Message::Done => "DONE",
            Message::Fail(_) => "FAIL",
            Message::Finish => "FINISH",
            Message::Bye(_) => "BYE",
            Message::Alive => "ALIVE",
        }
    }
}

/// Takes a message's headers off the chain, and answers which file it concerns and what it says.
/// Whatever is left in the chain is a file's bytes.
///
/// # Errors
/// What is malformed, with the numbers.
pub(super) fn parse(chain: &mut Chain) -> Result<(u32, Message), Trouble> {
    let len = chain.len();
    let head: Head = take(chain, "header")?;
    if head.reserved.get() != 0 {
        return Err(malformed(format_args!("reserved bits are set in a message of {len} bytes")));
    }
    let flags_allowed = match head.kind {
        kind::FILE => HAS_LENGTH | HAS_MODE | HAS_TIME,
        kind::FOLDER => HAS_MODE,
        kind::DATA => HOLE,
        _ => 0,
    };
    if head.flags & !flags_allowed != 0 {
        let (kind, flags) = (head.kind, head.flags);
        return Err(malformed(format_args!("a message of kind {kind} has the flags {flags:#x}")));
    }
    let message = match head.kind {
        kind::HELLO => {
            let hello: Hello = take(chain, "HELLO")?;
            if hello.reserved != 0 {
                return Err(reserved(head.kind));
            }
            Message::Hello(hello)
        }
        kind::FILE | kind::FOLDER => {
            let file: File = take(chain, "FILE")?;
            let len = chain.len();
            let mut start = vec![0; len.min(Name::MAX_LEN)];
            chain.peek(0, &mut start).map_err(|error| malformed(format_args!("{error}")))?;
            advance(chain, len);
            let name = RawName { start, len };
            let folder = head.kind == kind::FOLDER;
            if file.reserved.get() != 0 {
                return Err(reserved(head.kind));
            }
            Message::File { folder, flags: head.flags, file, name }
        }
        kind::DATA => {
            let data: Data = take(chain, "DATA")?;
            if data.reserved.get() != 0 {
                return Err(reserved(head.kind));
            }
            let hole = head.flags & HOLE != 0;
            let (declared, there) = (data.len.get() as usize, chain.len());
            if declared == 0 || there != if hole { 0 } else { declared } {
                return Err(malformed(format_args!(
                    "DATA declares {declared} bytes and has {there}"
                )));
            }
            return Ok((head.file.get(), Message::Data { hole, data }));
        }
        kind::END => Message::End(take(chain, "END")?),
        kind::DONE => Message::Done,
        kind::FAIL => {
            let fail: Fail = take(chain, "FAIL")?;
            if fail.reserved != [0; 6] {
                return Err(reserved(head.kind));
            }
            if chain.len() > MAX_TEXT {
                return Err(malformed(format_args!("FAIL has a text of {} bytes", chain.len())));
            }
            let text = chain.to_vec().map_err(|error| malformed(format_args!("{error}")))?;
            advance(chain, text.len());
            Message::Fail(Trouble::from_peer(fail.code.get(), &text))
        }
        kind::FINISH => Message::Finish,
        kind::BYE => Message::Bye(take(chain, "BYE")?),
        kind::ALIVE => Message::Alive,
        other => return Err(malformed(format_args!("there is no message of kind {other}"))),
    };
    let of_all = matches!(head.kind, kind::HELLO | kind::FINISH | kind::BYE | kind::ALIVE);
    if of_all && head.file.get() != ALL {
        let file = head.file.get();
        return Err(malformed(format_args!("{} of file {file}", message.name())));
    }
    match chain.len() {
        0 => Ok((head.file.get(), message)),
        extra => {
            let kind = head.kind;
            Err(malformed(format_args!("{extra} bytes too many in a message of kind {kind}")))
        }
    }
}

#[cold]
fn reserved(kind: u8) -> Trouble {
    malformed(format_args!("reserved bits are set in a message of kind {kind}"))
}

fn take<H: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned>(
    chain: &mut Chain,
    what: &str,
) -> Result<H, Trouble> {
    let there = chain.len();
    chain.strip::<H>().map_err(|error| match error {
        mbuf::Error::TooShort { .. } => {
            let wanted = size_of::<H>();
            malformed(format_args!("{what}: {there} bytes where {wanted} are needed"))
        }
        error => Trouble::new(Code::Io, format_args!("{what}: {error}")),
    })
}

fn advance(chain: &mut Chain, n: usize) {
    let advanced = chain.advance(n);
    debug_assert_eq!(advanced, Ok(()), "a chain holds its own length");
}

#[cold]
fn malformed(text: std::fmt::Arguments<'_>) -> Trouble {
    Trouble::new(Code::Malformed, text)
}

#[cfg(test)]
mod tests {
    use mbuf::Pool;

    use super::*;

    fn parsed(bytes: &[u8]) -> Result<(u32, Message), Trouble> {
        let pool = Pool::with_memory(1 << 20).unwrap();
        parse(&mut pool.chain_from(bytes).unwrap())
    }

    #[test]
    fn headers_are_as_long_as_they_are_drawn() {
        assert_eq!(size_of::<Head>(), 8);
        assert_eq!(size_of::<Hello>(), 16);
        assert_eq!(size_of::<File>(), 24);
        assert_eq!(size_of::<Data>(), 48);
        assert_eq!(size_of::<End>(), 40);
        assert_eq!(size_of::<Fail>(), 8);
        assert_eq!(size_of::<Bye>(), 56);
    }

    #[test]
    fn every_message_is_read_back_and_none_of_its_prefixes_is() {
        let hello = Hello {
            magic: MAGIC,
            version: 1.into(),
            chunk_log2: 18,
            reserved: 0,
            features: 0.into(),
        };
        let file = File {
            length: 5.into(),
            seconds: (-1).into(),
            nanos: 7.into(),
            mode: 0o644.into(),
            reserved: 0.into(),
        };
        let data = Data { offset: 0.into(), len: 3.into(), reserved: 0.into(), hash: [7; 32] };
        let end = End { length: 5.into(), root: [1; 32] };
        let fail = Fail { code: 3.into(), reserved: [0; 6] };
        let bye = Bye { files: 1.into(), folders: 2.into(), bytes: 3.into(), root: [9; 32] };
        let cases: [(u8, u8, &[u8], &[u8]); 9] = [
            (kind::HELLO, 0, hello.as_bytes(), b""),
            (kind::FILE, HAS_LENGTH | HAS_MODE | HAS_TIME, file.as_bytes(), b"name"),
            (kind::FOLDER, HAS_MODE, file.as_bytes(), b"name"),
            (kind::DATA, 0, data.as_bytes(), b"abc"),
            (kind::DATA, HOLE, data.as_bytes(), b""),
            (kind::END, 0, end.as_bytes(), b""),
            (kind::FAIL, 0, fail.as_bytes(), b"text"),
            (kind::BYE, 0, bye.as_bytes(), b""),
            (kind::FINISH, 0, b"", b""),
        ];
        for (kind, flags, body, tail) in cases {
            let of_all = matches!(kind, kind::HELLO | kind::FINISH | kind::BYE);
            let file = if of_all { ALL } else { 42 };
            let head = Head::new(kind, flags, file);
            let whole = [head.as_bytes(), body, tail].concat();
            assert_eq!(parsed(&whole).unwrap().0, file, "kind {kind}");
            let other = [Head::new(kind, flags, 43).as_bytes(), body, tail].concat();
            assert_eq!(parsed(&other).is_err(), of_all, "kind {kind}");
            for cut in 0..8 + body.len() {
                assert!(parsed(&whole[..cut]).is_err(), "kind {kind}, cut at {cut}");
            }
            if tail.is_empty() || kind == kind::DATA {
                let longer = [&whole[..], b"x"].concat();
                assert_eq!(parsed(&longer).unwrap_err().code, Code::Malformed, "kind {kind}");
            }
            let mut flagged = whole.clone();
            flagged[1] |= 0x80;
            assert!(parsed(&flagged).is_err(), "kind {kind}");
            flagged = whole.clone();
            flagged[2] = 1;
            assert!(parsed(&flagged).is_err(), "kind {kind}");
        }
        // What is reserved within the bodies.
        for (case, at) in [(0, 8 + 11), (1, 8 + 23), (2, 8 + 23), (3, 8 + 15), (6, 8 + 7)] {
            let (kind, flags, body, tail) = cases[case];
            let file = if kind == kind::HELLO { ALL } else { 42 };
            let mut whole = [Head::new(kind, flags, file).as_bytes(), body, tail].concat();
            whole[at] = 1;
            let trouble = parsed(&whole).unwrap_err();
            assert!(trouble.text.contains("reserved"), "kind {kind}: {trouble}");
        }
        assert!(parsed(Head::new(0, 0, 0).as_bytes()).is_err());
        assert!(parsed(Head::new(11, 0, 0).as_bytes()).is_err());
    }
}
