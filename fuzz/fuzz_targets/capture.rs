//! The reader of captures: whatever bytes it is given, in whatever pieces, it neither panics nor
//! takes more memory than it says; pieces make no difference; and what it reads is read again the
//! same once it has been written.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use mbuf::{
    Batch, Pool,
    io::{
        Received, Source,
        capture::{CaptureSource, CaptureWriter, Interface, MAX_PACKET, Record},
    },
};

/// Gives out a few bytes at a time.
struct Pieces<'a> {
    bytes: &'a [u8],
    most: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // A reader that keeps to its bound never offers more room than that.
        assert!(out.len() <= 2 * MAX_PACKET);
        let n = out.len().min(self.most).min(self.bytes.len());
        out[..n].copy_from_slice(&self.bytes[..n]);
        self.bytes = &self.bytes[n..];
        Ok(n)
    }
}

type Packets = Vec<(Record, Vec<u8>)>;

/// Everything, and what ended it.
fn read(pool: &Pool, bytes: &[u8], most: usize) -> (Packets, Vec<Interface>, Option<String>) {
    let mut packets = Packets::new();
    let mut source = match CaptureSource::new(Pieces { bytes, most }, "fuzz") {
        Ok(source) => source,
        Err(error) => return (packets, Vec::new(), Some(error.to_string())),
    };
    let (receiver, mut batch) = (pool.receiver(), Batch::new());
    let error = loop {
        match source.recv(&receiver, &mut batch) {
            Ok(Received::Chains(n)) => {
                assert_eq!((n, n), (batch.len(), source.records().len()));
                for (chain, record) in batch.drain().zip(source.records()) {
                    assert_eq!(chain.check(), Ok(()));
                    assert!(chain.len() == record.captured as usize && chain.len() <= MAX_PACKET);
                    packets.push((record.clone(), chain.to_vec().expect("it is readable")));
                }
            }
            Ok(Received::Closed) => break None,
            Ok(Received::NoBuffers) => assert!(!batch.is_empty(), "the pool holds one packet"),
            Ok(Received::WouldBlock) => panic!("a file is always ready"),
            Err(error) => break Some(error.to_string()),
        }
    };
    (packets, source.interfaces().to_vec(), error)
}

fuzz_target!(|bytes: &[u8]| {
    let pool = Pool::with_memory(8 << 20).expect("a pool of 8 MiB");
    let whole = read(&pool, bytes, usize::MAX);
    assert!(whole == read(&pool, bytes, 7), "pieces make a difference");

    let (packets, interfaces, _) = whole;
    let mut writer = CaptureWriter::pcapng(Vec::new()).expect("memory takes all");
    for interface in &interfaces {
        // What was longer than its own limit is none of this file's lies.
        let interface = Interface { snap_len: 0, ..interface.clone() };
        writer.interface(interface).expect("there are no more than that");
    }
    for (record, bytes) in &packets {
        let chain = pool.chain_from(bytes).expect("the pool holds one packet");
        writer.write(record, &chain).expect("memory takes all");
    }
    let (again, ..) = read(&pool, &writer.into_inner(), usize::MAX);
    assert_eq!(again.len(), packets.len());
    for ((was, bytes), (is, again)) in packets.iter().zip(&again) {
        assert_eq!(bytes, again);
        assert_eq!((was.interface, was.direction), (is.interface, is.direction));
        assert_eq!(
            (was.time.unwrap_or(0), was.original.max(was.captured)),
            (is.time.unwrap(), is.original)
        );
    }
    assert_eq!(pool.stats().in_use(), 0);
});
