//! Both ends, over a stream in memory.

use std::time::{Duration, SystemTime};

use mbuf::{
    Pool,
    io::store::{Attributes, Name},
    testing::{MemoryItem, MemoryStore, Pair, Rng},
};

use super::*;
use crate::file::{CHUNK, CHUNK_MIN, FileReceiver, FileSender};

/// What a transfer came to.
struct Outcome {
    files: std::collections::BTreeMap<String, Vec<u8>>,
    store: mbuf::testing::MemoryHandle,
    sender: Heard,
    receiver: Heard,
}

fn transfer(items: Vec<MemoryItem>, chunk: usize, capacity: usize, holes: bool) -> Outcome {
    let pool = Pool::with_memory(32 << 20).unwrap();
    let source = MemoryStore::sending(&pool, items);
    source.handle().holes(holes);
    let target = MemoryStore::new();
    let store = target.handle();
    let (sender, receiver) = (Heard::default(), Heard::default());
    let a = FileSender::new(Box::new(source))
        .chunk(chunk)
        .preserve(true)
        .on_event(sender.listener())
        .stack(&pool)
        .unwrap();
    let b = FileReceiver::new(Box::new(target)).on_event(receiver.listener()).stack(&pool).unwrap();
    let mut pair = Pair::stream(&pool, a, b, 7, capacity);
    pair.run_for(Duration::from_secs(2)).unwrap();
    for stack in [&pair.a, &pair.b] {
        for layer in stack.stats().layers {
            assert_eq!(layer.imbalance(), 0, "{layer:?}");
        }
        assert_eq!(stack.timers(), 0);
    }
    drop(pair);
    mbuf::testing::assert_all_free(&pool);
    Outcome { files: store.files(), store, sender, receiver }
}

#[test]
fn files_of_every_size_arrive_and_the_root_is_what_b3sum_prints() {
    for (chunk, sizes) in [
        (CHUNK_MIN, vec![0, 1, 1023, 1024, 1025, 4095, 20_000]),
        (CHUNK, vec![0, 1, 4095, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK / 2]),
    ] {
        for capacity in [100, 70_000] {
            if (chunk, capacity) == (CHUNK, 100) {
                continue; // a million steps
            }
            for &size in &sizes {
                let bytes = Rng::new(size as u64).bytes(size);
                for (item, length) in [
                    (MemoryItem::file("name", &bytes), Some(size as u64)),
                    (MemoryItem::stream("name", &bytes), None),
                ] {
                    let outcome = transfer(vec![item], chunk, capacity, false);
                    assert!(
                        outcome.files.get("name") == Some(&bytes),
                        "{size} bytes of {length:?}, chunk {chunk}, capacity {capacity}: {:?} {:?}",
                        outcome.sender.notes(),
                        outcome.receiver.notes()
                    );
                    let root = blake3::hash(&bytes);
                    let (here, there) = (outcome.sender.summary(), outcome.receiver.summary());
                    assert_eq!((here.root, here.bytes), (root, size as u64));
                    assert_eq!(here, there);
                    let started = Note::Started("name".into(), length);
                    assert_eq!(outcome.receiver.notes()[0], started);
                    assert_eq!(outcome.sender.notes()[0], started);
                }
            }
        }
    }
}

#[test]
fn two_thousand_small_files_and_folders_arrive_in_one_go() {
    let mut lines = String::new();
    let mut items = vec![MemoryItem::folder("tree"), MemoryItem::folder("tree/empty")];
    for n in 0..2000 {
        let (name, bytes) = (format!("tree/{}/{n}", n % 7), Rng::new(n).bytes(n as usize % 1500));
        lines += &format!("{}  {name}\n", blake3::hash(&bytes));
        items.push(MemoryItem::file(&name, &bytes));
    }
    let outcome = transfer(items, CHUNK, 1 << 20, false);
    assert_eq!(outcome.files.len(), 2000);
    assert!(outcome.store.folders().contains("tree/empty"));
    for n in 0..2000 {
        assert!(
            outcome.files[&format!("tree/{}/{n}", n % 7)] == Rng::new(n).bytes(n as usize % 1500)
        );
    }
    let summary = outcome.receiver.summary();
    assert_eq!((summary.files, summary.folders, summary.failed), (2000, 2, 0));
    assert_eq!(summary.root, blake3::hash(lines.as_bytes()));
    assert_eq!(summary, outcome.sender.summary());
}

#[test]
fn holes_modes_and_times_arrive() {
    let mut bytes = vec![0; 9 * CHUNK_MIN];
    bytes[4 * CHUNK_MIN + 3] = 1;
    let attributes = Attributes {
        length: Some(bytes.len() as u64),
        mode: 0o600,
        modified: Some(SystemTime::UNIX_EPOCH - Duration::from_millis(1_234_567)),
    };
    let name = Name::parse(b"sparse").unwrap();
    let item = MemoryItem::File { name, bytes: bytes.clone(), attributes };
    let outcome = transfer(vec![item], CHUNK_MIN, 1 << 16, true);
    assert!(outcome.files["sparse"] == bytes);
    assert_eq!(outcome.store.attributes("sparse"), Some(attributes));
}

#[test]
fn a_file_that_fails_at_one_end_fails_at_both_and_the_others_arrive() {
    let items = || {
        ["one", "TWO", "two", "three"].map(|name| MemoryItem::file(name, name.as_bytes())).into()
    };
    let outcome = transfer(items(), CHUNK, 1 << 16, false);
    assert_eq!(outcome.files.keys().collect::<Vec<_>>(), ["TWO", "one", "three"]);
    let (here, there) = (outcome.sender.failed(), outcome.receiver.failed());
    assert_eq!((here.len(), there.len()), (1, 1));
    assert_eq!((here[0].0.as_str(), there[0].0.as_str()), ("two", "two"));
    assert_eq!((here[0].1.code, here[0].1.from_peer), (Code::Name, true));
    assert_eq!(outcome.sender.summary(), outcome.receiver.summary());
}
