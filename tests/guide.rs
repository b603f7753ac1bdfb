//! The guide quotes the examples: the block of code after `<!-- from FILE: ANCHOR -->` is what
//! stands in that file between `// ANCHOR: ANCHOR` and `// ANCHOR_END: ANCHOR`, word for word. With
//! `UPDATE_GUIDE=1` in the environment the pages are brought up to date instead of compared.
//! (All other blocks of Rust are compiled and run as documentation tests, see `src/guide.rs`.)

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README and all pages of the guide.
fn pages() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    [root().join("README.md")].into_iter().chain(entries.filter(is_page)).collect()
}

/// What stands between the marks of an anchor.
fn excerpt(file: &str, anchor: &str) -> String {
    let source = fs::read_to_string(root().join(file)).unwrap();
    let (begin, end) = (format!("// ANCHOR: {anchor}"), format!("// ANCHOR_END: {anchor}"));
    let lines: Vec<&str> = source
        .lines()
        .skip_while(|line| line.trim() != begin)
        .skip(1)
        .take_while(|line| line.trim() != end)
        .collect();
    assert!(!lines.is_empty(), "{file} has nothing between `{begin}` and `{end}`");
    lines.join("\n")
}

/// A page with all its quotations as they should be, and how many there are.
fn with_quotations(page: &str) -> (String, usize) {
    let mut fresh = String::new();
    let mut count = 0;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        fresh.push_str(line);
        fresh.push('\n');
        let place = line.strip_prefix("<!-- from ").and_then(|rest| rest.strip_suffix(" -->"));
        let Some((file, anchor)) = place.and_then(|place| place.split_once(": ")) else { continue };
        let fence = lines.next().unwrap_or_default();
        assert!(fence.starts_with("```"), "no block of code follows `{line}`");
        assert!(lines.by_ref().any(|line| line == "```"), "the block after `{line}` has no end");
        fresh.push_str(&format!("{fence}\n{}\n```\n", excerpt(file, anchor)));
        count += 1;
    }
    (fresh, count)
}

#[test]
fn quotations_are_word_for_word() {
    let update = env::var_os("UPDATE_GUIDE").is_some();
    let mut count = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        let (fresh, quotations) = with_quotations(&page);
        count += quotations;
        if update {
            fs::write(&path, fresh).unwrap();
            continue;
        }
        let differs = page.lines().zip(fresh.lines()).position(|(old, new)| old != new);
        assert!(
            page == fresh,
            "{}: a quotation is out of date from line {} on; UPDATE_GUIDE=1 cargo test --test guide",
            path.display(),
            differs.map_or(0, |line| line + 1)
        );
    }
    assert!(count >= 2, "the README and the tutorial quote an example");
}

#[test]
fn the_readmes_first_commands_are_the_ones_promised() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let commands: Vec<&str> = readme.lines().filter(|line| line.starts_with("cargo ")).collect();
    assert_eq!(commands[..2], ["cargo run --release --example echo", "cargo test --workspace"]);
}

#[test]
fn all_pages_are_in_the_summary() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    for page in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        let listed = summary.contains(&format!("({name})"));
        assert!(listed || ["README.md", "SUMMARY.md"].contains(&name), "{name}");
    }
}
