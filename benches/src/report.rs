//! Makes `docs/benchmarks.md` and its pictures from the JSON files of a run: the same files make
//! the same page, byte for byte.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;

mod bars;
mod compare;
mod curves;
mod figure;
mod goals;
mod markdown;
mod parts;
mod picture;

use parts::Results;

#[derive(Debug, Args)]
pub struct Options {
    /// The folder with the JSON files, as `all --into` writes them (default: those committed).
    dir: Option<PathBuf>,
    /// The folder in which to write `benchmarks.md` and `benchmarks/*.svg` (default: `docs`).
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
}

/// Where the figures are that are committed.
pub fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let files = make(&options.dir.clone().unwrap_or_else(committed))?;
    let docs = options.docs.clone().unwrap_or_else(docs);
    let pictures = docs.join("benchmarks");
    fs::create_dir_all(&pictures).with_context(|| pictures.display().to_string())?;
    for old in fs::read_dir(&pictures)? {
        let old = old?.path();
        if old.extension().is_some_and(|extension| extension == "svg") {
            fs::remove_file(old)?;
        }
    }
    for (name, text) in &files {
        let path = docs.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    println!("{} and {} pictures", docs.join("benchmarks.md").display(), files.len() - 1);
    Ok(())
}

/// All that is made of a folder of JSON files, by name.
fn make(dir: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let results = Results::read(dir)?;
    let goals = goals::committed()?;
    let mut files = BTreeMap::new();
    let mut pictures = BTreeMap::new();
    for part in &results.parts {
        let drawn = picture::of(part).with_context(|| format!("drawing {}", part.name))?;
        let mut titles = Vec::new();
        for (name, title, svg) in drawn {
            files.insert(format!("benchmarks/{name}.svg"), svg);
            titles.push((name, title));
        }
        pictures.insert(part.name.clone(), titles);
    }
    files.insert("benchmarks.md".into(), markdown::page(&results, &goals, &pictures));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of files that is removed with this.
    struct Scratch(PathBuf);

    impl Scratch {
        fn with(name: &str, files: &[(&str, &str)]) -> Scratch {
            let folder = std::env::temp_dir().join(format!("mbuf-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            for (name, text) in files {
                fs::write(folder.join(name), text).unwrap();
            }
            Scratch(folder)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const SOME: &str = r#"{ "benchmark": "novel", "rounds": 3, "skipped": ["DPDK: not there"],
        "lost": [{ "who": "tokio", "messages": 7 }],
        "versions": { "tokio": "1.2.3", "Box": null }, "machine": { "kernel": "6", "processor": "P" },
        "rows": [
          { "case": "echo", "who": "mbuf", "measure": "messages-per-second",
            "median": 1000, "min": 900, "max": 1500, "rounds": [900, 1000, 1500] },
          { "case": "echo", "who": "tokio", "measure": "messages-per-second",
            "median": 2000, "min": 1900, "max": 2500, "rounds": [1900, 2000, 2500] },
          { "case": "layers: up", "who": "mbuf", "measure": "nanoseconds", "x": 1,
            "median": 4, "min": 3, "max": 5, "rounds": [4, 3, 5] },
          { "case": "layers: up", "who": "mbuf", "measure": "nanoseconds", "x": 32,
            "median": 40, "min": 30, "max": 50, "rounds": [40, 30, 50] } ] }"#;

    #[test]
    fn the_same_figures_make_the_same_page() {
        let scratch = Scratch::with("same", &[("b.json", SOME), ("a.json", SOME)]);
        let (first, second) = (make(&scratch.0).unwrap(), make(&scratch.0).unwrap());
        assert_eq!(first, second);
        assert!(first.len() > 2, "{:?}", first.keys());
    }

    #[test]
    fn an_unknown_part_has_its_table_and_pictures_and_a_missing_one_is_named() {
        let scratch = Scratch::with("novel", &[("a.json", SOME)]);
        let files = make(&scratch.0).unwrap();
        let page = &files["benchmarks.md"];
        for expected in [
            "## novel",
            "| **mbuf** | **1,000** (900–1,500) | 2.00 times slower than tokio |",
            "](benchmarks/novel-messages-per-second.svg)",
            "](benchmarks/novel-layers.svg)",
            "Skipped: DPDK: not there.",
            "tokio 1.2.3",
            "- lost: messages 7, who tokio",
            "`growth` was not measured",
        ] {
            assert!(page.contains(expected), "{expected} is not in\n{page}");
        }
        for (name, text) in &files {
            assert!(text.len() < 60 << 10, "{name}: {} bytes", text.len());
        }
    }

    #[test]
    fn what_is_not_json_is_an_error_that_names_the_file() {
        let scratch = Scratch::with("bad", &[("a.json", "{")]);
        let error = format!("{:#}", make(&scratch.0).unwrap_err());
        assert!(error.contains("a.json"), "{error}");
    }

    #[test]
    fn the_committed_page_is_made_of_the_committed_figures() {
        let page = fs::read_to_string(docs().join("benchmarks.md")).ok();
        if !committed().exists() {
            assert_eq!(page, None, "a page without its figures");
            return;
        }
        for (name, text) in make(&committed()).unwrap() {
            let there = fs::read_to_string(docs().join(&name)).unwrap_or_default();
            assert!(there == text, "docs/{name} is not what benches/results makes: run `report`");
            assert!(!name.ends_with(".svg") || text.len() < 60 << 10, "docs/{name} is large");
        }
    }
}
