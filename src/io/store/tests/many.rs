//! Many files, and what they leave.

use std::collections::BTreeSet;

use super::*;
use crate::{
    stack::{Context, Edge, LayerInfo, Outcome, Protocol, Signal, Stack},
    testing::assert_all_free,
};

/// What descriptors of this process lead to beneath a folder. (Other tests have theirs.)
fn open_beneath(folder: &Path) -> Vec<String> {
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    let beneath = targets.filter(|target| target.starts_with(folder));
    beneath.map(|target| target.display().to_string()).collect()
}

#[test]
fn a_thousand_small_files_are_committed_in_groups_and_leave_no_descriptor() {
    let pool = plain_pool();
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::folder(folder.path(), &pool);
    let start = Instant::now();
    let (mut asked, mut answered, mut committed) = (0, 0, 0);
    while answered < 3_000 {
        // A layer bounds what it asks.
        while asked < 1_000 && 3 * asked - answered < 600 {
            let file = asked as FileNo;
            driver.ask(file, create(&format!("{}/{file}", file % 10), false));
            let write = driver.write(0, &[file as u8; 1_024]);
            driver.ask(file, write);
            driver.ask(file, commit(1_024));
            asked += 1;
        }
        let done = driver.answer().result.unwrap();
        answered += 1;
        committed += usize::from(matches!(done, Done::Committed));
    }
    assert_eq!(committed, 1_000);
    eprintln!("1,000 files of 1 KiB: {:?}", start.elapsed());
    for file in 0..1_000_u32 {
        let bytes = fs::read(folder.path().join(format!("{}/{file}", file % 10))).unwrap();
        assert!(bytes == [file as u8; 1_024]);
    }
    drop(driver);
    assert_eq!(open_beneath(folder.path()), [""; 0]);
    assert_all_free(&pool);
}

#[test]
fn committed_files_are_closed_and_a_folder_is_held_once() {
    let pool = plain_pool();
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::open(temporary.path()).unwrap();
    let mut driver = Driver::of(&folder, &pool);
    for file in 0..20 {
        driver.put(file, &format!("d/{file}"), b"x", false).unwrap();
    }
    for file in 20..30 {
        driver.done(file, create(&format!("d/{file}"), false)).unwrap();
    }
    driver.done(0, Request::Open { name: name("d/0") }).unwrap();
    // The folder, twice, `d`, ten parts, and one file that is read.
    let open = open_beneath(temporary.path());
    assert_eq!(open.len(), 14, "{open:?}");
    drop(driver);
    drop(folder);
    assert_eq!(open_beneath(temporary.path()), [""; 0]);
    assert_eq!(files(temporary.path()).len(), 20);
}

#[test]
fn dropping_a_store_stops_it_and_removes_its_parts() {
    let pool = plain_pool();
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::open(temporary.path()).unwrap();
    for asked in [0, 1, 10, 100, 300] {
        let mut store = folder.store(&pool).unwrap();
        for file in 0..asked {
            store.ask(file, create(&format!("{asked}/{file}"), false));
            let chain = pool.chain_from(&[1; 100]).unwrap();
            store.ask(file, Request::Write { offset: 0, chain });
            if file % 2 == 0 {
                store.ask(file, commit(100));
            }
        }
        drop(store);
        assert!(folder.wait(Duration::from_secs(10)));
        // Those that it came to are whole.
        let left = files(temporary.path());
        let whole = |(name, bytes): (&String, &Vec<u8>)| {
            name.starts_with(&format!("{asked}/")) && *bytes == [1; 100]
        };
        assert!(left.iter().all(whole), "{:?}", left.keys());
        let _ = fs::remove_dir_all(temporary.path().join(asked.to_string()));
        assert_all_free(&pool);
    }
}

#[test]
fn many_folders_are_made_durable_together() {
    let pool = plain_pool();
    let temporary = tempfile::tempdir().unwrap();
    let mut driver = Driver::folder(temporary.path(), &pool);
    for file in 0..300 {
        let name = name(&format!("{}/{file}", file % 7));
        driver.ask(file, Request::MakeFolder { name, mode: Some(0o755) });
    }
    let mut made = BTreeSet::new();
    for _ in 0..300 {
        let answer = driver.answer();
        assert!(matches!(answer.result, Ok(Done::FolderMade)));
        assert!(made.insert(answer.file));
    }
    let there = |file| temporary.path().join(format!("{}/{file}", file % 7)).is_dir();
    assert!((0..300).all(there));
}

/// Writes one file and closes its connection.
struct Layer {
    store: FolderStore,
    done: usize,
}

impl Protocol for Layer {
    fn name(&self) -> &str {
        "layer"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.reply(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Opened => {
                self.store.attach(cx.waker());
                self.store.ask(1, create("a", false));
                self.store.ask(1, commit(0));
            }
            Signal::Woken => {
                while let Some(answer) = self.store.answer() {
                    answer.result.unwrap();
                    self.done += 1;
                }
                if self.done == 2 {
                    cx.close();
                }
            }
            _ => {}
        }
    }
}

#[test]
fn the_layer_is_woken_by_the_thread() {
    let pool = plain_pool();
    let temporary = tempfile::tempdir().unwrap();
    let store = Folder::open(temporary.path()).unwrap().store(&pool).unwrap();
    let layer = Box::new(Layer { store, done: 0 });
    let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer]).unwrap();
    stack.open();
    let until = Instant::now() + Duration::from_secs(30);
    while stack.closing(crate::stack::PortId(0)) == crate::stack::Closing::Open {
        if stack.has_work() {
            stack.poll();
        }
        assert!(Instant::now() < until, "nobody woke the layer");
        thread::sleep(Duration::from_micros(50));
    }
    assert_eq!(files(temporary.path()).into_keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_name_may_be_that_of_another_files_part() {
    let pool = plain_pool();
    let temporary = tempfile::tempdir().unwrap();
    let mut driver = Driver::folder(temporary.path(), &pool);
    for (no, name) in [(0, "x"), (1, "x.part")] {
        driver.ask(no, create(name, false));
        let write = driver.write(0, b"1");
        driver.ask(no, write);
        driver.ask(no, commit(1));
    }
    for _ in 0..6 {
        driver.answer().result.unwrap();
    }
    assert_eq!(files(temporary.path()).into_keys().collect::<Vec<_>>(), ["x", "x.part"]);
}

#[test]
fn a_folder_that_somebody_has_removed_fails_nothing_elsewhere() {
    let pool = plain_pool();
    let temporary = tempfile::tempdir().unwrap();
    let mut driver = Driver::folder(temporary.path(), &pool);
    driver.done(9, create("gone/sub/f", false)).unwrap();
    driver.done(9, Request::Discard).unwrap();
    fs::remove_dir_all(temporary.path().join("gone")).unwrap();
    for (no, name) in [(0, "a"), (1, "b/c"), (2, "d")] {
        driver.ask(no, create(name, false));
        let write = driver.write(0, b"1");
        driver.ask(no, write);
        driver.ask(no, commit(1));
    }
    for _ in 0..9 {
        driver.answer().result.unwrap();
    }
    assert_eq!(files(temporary.path()).into_keys().collect::<Vec<_>>(), ["a", "b/c", "d"]);
}
