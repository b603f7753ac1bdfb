use std::io::ErrorKind;

use super::*;
use crate::{
    io::store::{Done, Failure, Looked, Name},
    stack::{Context, Edge, LayerInfo, Outcome, Protocol, Signal, Stack},
    testing::{assert_all_free, plain_pool},
};

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn create(text: &str, overwrite: bool) -> Request {
    Request::Create { name: name(text), length: None, overwrite }
}

fn commit(length: u64) -> Request {
    Request::Commit { length, mode: Some(0o4_640), modified: None }
}

fn ask(store: &mut MemoryStore, file: FileNo, request: Request) -> Result<Done, Failure> {
    store.ask(file, request);
    let answer = store.answer().unwrap();
    assert_eq!(answer.file, file);
    assert!(store.answer().is_none());
    answer.result
}

fn kind(result: Result<Done, Failure>) -> ErrorKind {
    result.unwrap_err().error.kind()
}

#[test]
fn existing_files_are_replaced_only_if_that_is_asked_for() {
    let mut store = MemoryStore::new();
    let test = store.handle();
    test.put("a/b", b"old");
    assert_eq!(kind(ask(&mut store, 1, create("a/b", false))), ErrorKind::AlreadyExists);
    assert_eq!(kind(ask(&mut store, 1, commit(0))), ErrorKind::AlreadyExists);
    assert!(matches!(ask(&mut store, 1, Request::Discard), Ok(Done::Discarded)));
    assert_eq!(kind(ask(&mut store, 1, Request::Discard)), ErrorKind::InvalidInput);

    ask(&mut store, 1, create("a/b", true)).unwrap();
    assert_eq!(kind(ask(&mut store, 2, create("a/b", true))), ErrorKind::ResourceBusy);
    ask(&mut store, 1, commit(2)).unwrap();
    assert_eq!(test.files()["a/b"], [0, 0]);
    assert_eq!(test.attributes("a/b").unwrap().mode, 0o640);

    assert_eq!(kind(ask(&mut store, 1, create("a", true))), ErrorKind::IsADirectory);
    assert_eq!(kind(ask(&mut store, 1, create("a/b/c", true))), ErrorKind::NotADirectory);
    let folder = Request::MakeFolder { name: name("a/b"), mode: None };
    assert_eq!(kind(ask(&mut store, 1, folder)), ErrorKind::NotADirectory);
    // Somebody else was faster.
    ask(&mut store, 3, create("new", false)).unwrap();
    test.put("new", b"theirs");
    assert_eq!(kind(ask(&mut store, 3, commit(0))), ErrorKind::AlreadyExists);
    drop(store);
    assert!(test.parts().is_empty());
    assert_eq!(test.files()["new"], b"theirs");
}

#[test]
fn a_full_disk_keeps_the_rest_of_the_chain_and_nothing_is_committed_after_it() {
    let pool = plain_pool();
    let mut store = MemoryStore::new();
    let test = store.handle();
    test.limit(10);
    ask(&mut store, 1, create("a", false)).unwrap();
    let write =
        |offset, bytes: &[u8]| Request::Write { offset, chain: pool.chain_from(bytes).unwrap() };
    let done = ask(&mut store, 1, write(4, b"xxxx")).unwrap();
    assert!(matches!(done, Done::Written(chain) if chain.to_vec().unwrap() == b"xxxx"));
    let failure = ask(&mut store, 1, write(6, b"123456")).unwrap_err();
    assert_eq!(
        failure.error.to_string(),
        "pwrite to a.part at 6: ENOSPC (No space left on device)"
    );
    assert_eq!(failure.chain.unwrap().to_vec().unwrap(), b"56");
    assert_eq!(test.parts()["a.part"], b"\0\0\0\0xx1234");
    test.limit(100);
    let failure = ask(&mut store, 1, write(0, b"all")).unwrap_err();
    assert_eq!(failure.chain.unwrap().to_vec().unwrap(), b"all");
    assert_eq!(kind(ask(&mut store, 1, commit(10))), ErrorKind::StorageFull);
    ask(&mut store, 1, Request::Discard).unwrap();
    ask(&mut store, 1, create("a", false)).unwrap();
    assert_eq!(kind(ask(&mut store, 1, write(u64::MAX - 1, b"far"))), ErrorKind::FileTooLarge);
    drop(store);
    assert_all_free(&pool);
}

#[test]
fn items_are_read_to_their_ends() {
    fn look(offset: u64, pieces: &mut dyn Iterator<Item = &[u8]>) -> Looked {
        let mut looked = [0; 64];
        let all = pieces.collect::<Vec<_>>().concat();
        looked[0] = offset as u8;
        looked[1..=all.len()].copy_from_slice(&all);
        looked
    }
    let pool = plain_pool();
    let items = [
        MemoryItem::stream("stdin", b"0123456789"),
        MemoryItem::failed("gone", ErrorKind::NotFound),
        MemoryItem::folder("f"),
        MemoryItem::file("f/empty", b""),
    ];
    let mut store = MemoryStore::sending(&pool, items);
    let read = |offset, len| Request::Read { offset, len, look: Some(look) };
    let done = ask(&mut store, 1, Request::Next).unwrap();
    assert!(matches!(done, Done::Opened { attributes: Attributes { length: None, .. }, .. }));
    for (offset, expected) in [(0, &b"0123"[..]), (4, b"4567"), (8, b"89")] {
        let Ok(Done::Read { chain, looked: Some(looked), .. }) =
            ask(&mut store, 1, read(offset, 4))
        else {
            panic!("not read")
        };
        assert_eq!(chain.to_vec().unwrap(), expected);
        assert_eq!((u64::from(looked[0]), &looked[1..=expected.len()]), (offset, expected));
    }
    assert!(
        matches!(ask(&mut store, 1, read(4, 4)), Ok(Done::End { offset: 10 })),
        "it goes on where it is"
    );
    assert!(matches!(ask(&mut store, 1, read(10, 4)), Ok(Done::End { offset: 10 })));
    ask(&mut store, 1, Request::Close).unwrap();

    let failure = ask(&mut store, 1, Request::Next).unwrap_err();
    assert_eq!(
        (failure.error.kind(), failure.item.as_deref()),
        (ErrorKind::NotFound, Some("gone"))
    );
    assert_eq!(kind(ask(&mut store, 1, read(0, 1))), ErrorKind::NotFound);
    assert!(matches!(ask(&mut store, 1, Request::Next), Ok(Done::Folder { .. })));
    assert!(matches!(ask(&mut store, 1, Request::Next), Ok(Done::Opened { .. })));
    assert!(matches!(ask(&mut store, 1, read(0, 1)), Ok(Done::End { offset: 0 })));
    assert!(matches!(ask(&mut store, 2, Request::Next), Ok(Done::NoMore)));
    assert_all_free(&pool);
}

#[test]
fn an_empty_pool_is_said_and_nothing_is_lost() {
    let pool = plain_pool();
    let mut store = MemoryStore::sending(&pool, [MemoryItem::stream("s", &[7; 5_000])]);
    ask(&mut store, 1, Request::Next).unwrap();
    let read = || Request::Read { offset: 0, len: 5_000, look: None };
    let starve = crate::testing::Starve::leave(&pool, 1, 0);
    assert!(matches!(ask(&mut store, 1, read()), Ok(Done::NoBuffers)));
    drop(starve);
    assert!(
        matches!(ask(&mut store, 1, read()), Ok(Done::Read { chain, .. }) if chain.len() == 5_000)
    );
}

#[test]
fn the_layer_is_woken_when_there_is_an_answer() {
    struct Layer {
        store: MemoryStore,
        heard: Arc<Mutex<Vec<FileNo>>>,
    }
    impl Protocol for Layer {
        fn name(&self) -> &str {
            "layer"
        }
        fn info(&self) -> LayerInfo {
            LayerInfo::new(Edge::Any, Edge::Any)
        }
        fn input(&mut self, chain: crate::Chain, cx: &mut Context<'_>) -> Outcome {
            cx.reply(chain)
        }
        fn output(&mut self, chain: crate::Chain, cx: &mut Context<'_>) -> Outcome {
            cx.down(chain)
        }
        fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
            match signal {
                Signal::Opened => {
                    self.store.attach(cx.waker());
                    self.store.ask(5, create("a", false));
                    self.store.ask(5, commit(0));
                }
                Signal::Woken => {
                    while let Some(answer) = self.store.answer() {
                        self.heard.lock().unwrap().push(answer.file);
                    }
                }
                _ => {}
            }
        }
    }
    let pool = plain_pool();
    for delayed in [false, true] {
        let store = MemoryStore::new();
        let (test, heard) = (store.handle(), Arc::default());
        test.delay(delayed);
        let layer = Box::new(Layer { store, heard: Arc::clone(&heard) });
        let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer]).unwrap();
        stack.open();
        stack.poll();
        if delayed {
            assert!(heard.lock().unwrap().is_empty());
            test.release(1);
            assert!(stack.has_work());
            stack.poll();
            assert_eq!((heard.lock().unwrap().len(), test.kept()), (1, 1));
            test.release_all();
            stack.poll();
        }
        assert_eq!(*heard.lock().unwrap(), [5, 5]);
    }
}

#[test]
fn nothing_fits_beyond_the_limit_not_even_far_beyond() {
    let pool = plain_pool();
    for (offset, fits) in [(0, 3), (2, 1), (3, 0), (900, 0)] {
        let mut store = MemoryStore::new();
        store.handle().limit(3);
        ask(&mut store, 1, create("a", false)).unwrap();
        let chain = pool.chain_from(b"bytes").unwrap();
        let failure = ask(&mut store, 1, Request::Write { offset, chain }).unwrap_err();
        assert_eq!(failure.error.kind(), ErrorKind::StorageFull);
        assert_eq!(failure.chain.unwrap().to_vec().unwrap(), b"bytes"[fits..], "at {offset}");
    }
}
