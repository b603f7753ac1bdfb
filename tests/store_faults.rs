//! A store whose calls fail, in its own thread: each kind of call, at each place where it is made,
//! with each error that it may meet. One test, because such faults are for the whole process.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use mbuf::{
    Pool,
    io::{
        SinkKind, SourceKind,
        faults::{self, Call, Fault},
        store::{Answer, Done, Folder, Name, Request, Store},
    },
};

const BYTES: usize = 10_000;

/// The answers to everything that is asked at once.
fn answers(store: &mut dyn Store, requests: Vec<(u32, Request)>) -> Vec<Answer> {
    let count = requests.len();
    requests.into_iter().for_each(|(file, request)| store.ask(file, request));
    let (mut answers, began) = (Vec::new(), Instant::now());
    while answers.len() < count {
        assert!(began.elapsed() < Duration::from_secs(30), "{count} asked: {answers:?}");
        match store.answer() {
            Some(answer) => answers.push(answer),
            None => thread::sleep(Duration::from_micros(50)),
        }
    }
    answers
}

/// Writes a file into a folder of its own, and reads it. Whether all went well; what is left is
/// checked.
fn job(inbox: &Path, pool: &Pool, sink: SinkKind, source: SourceKind) -> bool {
    let folder = Folder::open(inbox).unwrap().sink(sink).source(source);
    let bytes = [7; BYTES];
    let name = || Name::parse(b"a/b").unwrap();
    let mut whole = false;
    let mut committed = false;
    if let Ok(mut store) = folder.store(pool) {
        let chain = |from: usize, to: usize| pool.chain_from(&bytes[from..to]).unwrap();
        let modified = Some(SystemTime::UNIX_EPOCH);
        let create = Request::Create { name: name(), length: Some(2 << 20), overwrite: false };
        let written = answers(
            &mut store,
            vec![
                (1, create),
                (1, Request::Write { offset: 0, chain: chain(0, 4_000) }),
                (1, Request::Write { offset: 4_000, chain: chain(4_000, BYTES) }),
                (1, Request::Commit { length: BYTES as u64, mode: None, modified }),
            ],
        );
        committed = written.iter().all(|answer| answer.result.is_ok());
        // What failed fails on: nothing is said to be done after it.
        let mut failed = false;
        for answer in &written {
            assert!(!failed || answer.result.is_err(), "{written:?}");
            failed |= answer.result.is_err();
        }
        let read = Request::Read { offset: 0, len: BYTES, look: None };
        let requests = vec![(2, Request::Open { name: name() }), (2, read), (2, Request::Close)];
        let read = answers(&mut store, requests);
        whole = committed && read.iter().all(|answer| answer.result.is_ok());
        for answer in read {
            if let Ok(Done::Read { chain, .. }) = answer.result {
                // Of a mapping, that takes a call, which may be the one that fails.
                assert!(chain.to_vec().map_or(true, |read| read == bytes));
            }
        }
    }
    assert!(folder.wait(Duration::from_secs(30)), "the thread does not end");
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
    let found = fs::read(inbox.join("a/b"));
    assert!(found.as_ref().map_or(!committed, |found| *found == bytes), "a file that is not whole");
    assert!(!inbox.join("a/b.part").exists(), "a part is left behind");
    whole
}

#[test]
fn whatever_call_fails_a_file_is_whole_or_not_there_and_nothing_is_left() {
    let pool = Pool::with_memory(4 << 20).unwrap();
    let mut met = BTreeSet::new();
    for (sink, source) in
        [(SinkKind::Pwritev, SourceKind::Preadv), (SinkKind::Mapped, SourceKind::Mapped)]
    {
        for call in Call::ALL {
            for &errno in call.errors() {
                for nth in 0.. {
                    let inbox = tempfile::tempdir().unwrap();
                    let made = Arc::new(AtomicUsize::new(0));
                    let counter = Arc::clone(&made);
                    let guard = faults::inject_everywhere(move |attempt| {
                        let hit = attempt.call == call && counter.fetch_add(1, SeqCst) == nth;
                        if hit { Fault::Errno(errno) } else { Fault::None }
                    });
                    let trouble = format!("{call:?} number {nth}: errno {errno}");
                    let whole = job(inbox.path(), &pool, sink, source);
                    drop(guard);
                    if made.load(SeqCst) <= nth {
                        assert!(whole, "{trouble}");
                        break;
                    }
                    if errno == libc::EINTR {
                        assert!(whole, "{trouble}: is to be made again");
                    }
                    met.insert(call.name());
                }
            }
        }
    }
    let calls = [
        "fallocate",
        "fchmod",
        "flock",
        "fsync",
        "fstatat",
        "ftruncate",
        "futimens",
        "madvise",
        "mkdirat",
        "mmap",
        "openat",
        "preadv",
        "pwritev",
        "renameat",
        "sync_file_range",
    ];
    assert!(calls.iter().all(|call| met.contains(call)), "{met:?}");
}
