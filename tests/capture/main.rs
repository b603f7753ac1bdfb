//! Captures, against what others write and read: every cut and every bit of small files, round trips
//! of random packets, and Wireshark's own tools.

mod files;
mod peers;
mod tap;

use std::io::Read;

use mbuf::{
    Batch, Chain, Class, Pool,
    io::{
        Received, Source,
        capture::{CaptureSource, Interface, Record},
    },
};

fn pool() -> Pool {
    Pool::builder()
        .count(Class::Small, 8192)
        .count(Class::K2, 512)
        .count(Class::K4, 64)
        .count(Class::K16, 32)
        .count(Class::K64, 32)
        .build()
        .unwrap()
}

/// What a capture gave: packets, then perhaps an error.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    packets: Vec<(Record, Vec<u8>)>,
    interfaces: Vec<Interface>,
    skipped: u64,
    error: Option<String>,
    kind: Option<std::io::ErrorKind>,
}

/// Reads all of a capture.
fn read(pool: &Pool, input: impl Read) -> Outcome {
    let mut got = Outcome::default();
    let mut source = match CaptureSource::new(input, "test") {
        Ok(source) => source,
        Err(error) => {
            (got.error, got.kind) = (Some(error.to_string()), Some(error.kind()));
            return got;
        }
    };
    let receiver = pool.receiver();
    let mut batch = Batch::new();
    loop {
        match source.recv(&receiver, &mut batch) {
            Ok(Received::Chains(n)) => {
                assert_eq!((n, n), (batch.len(), source.records().len()));
                for (chain, record) in batch.drain().zip(source.records()) {
                    assert_eq!(u32::from(chain.meta().ingress()), record.interface);
                    assert_eq!(chain.len(), record.captured as usize);
                    assert_eq!(chain.check(), Ok(()));
                    got.packets.push((record.clone(), chain.to_vec().unwrap()));
                }
            }
            Ok(Received::Closed) => break,
            Ok(other) => panic!("{other:?} of a file and a full pool"),
            Err(error) => {
                assert!(batch.is_empty(), "what comes before an error is given before it");
                (got.error, got.kind) = (Some(error.to_string()), Some(error.kind()));
                assert_eq!(source.recv(&receiver, &mut batch).unwrap(), Received::Closed);
                break;
            }
        }
    }
    got.interfaces = source.interfaces().to_vec();
    got.skipped = source.skipped();
    got
}

fn chain(pool: &Pool, bytes: &[u8]) -> Chain {
    pool.chain_from(bytes).unwrap()
}
