//! Every benchmark in turn, each in a process of its own, so that one that fails takes no other
//! with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;

use crate::{
    files::process::{end_orderly, go_on},
    report,
};

#[derive(Debug, Args)]
pub struct Options {
    /// The folder for the JSON file of each (default: that of the committed figures).
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Whether all of it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Only these.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

/// What is no benchmark.
const OTHERS: [&str; 4] = ["all", "report", "endure", "help"];
/// What is run with more than `--json`: the name of the file, the command, its arguments. What is
/// not here is run once, without arguments.
const MORE: [(&str, &str, &[&str]); 3] = [
    ("files", "files", &["--large", "--tree", "--memory"]),
    ("micro", "micro", &[]),
    ("micro-instructions", "micro", &["--instructions"]),
];
/// How long a benchmark may take to end what it has started.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs those of `commands` that are benchmarks. Whether all went well.
pub fn run(options: &Options, commands: &clap::Command) -> anyhow::Result<bool> {
    let into = options.into.clone().unwrap_or_else(report::committed);
    fs::create_dir_all(&into).with_context(|| into.display().to_string())?;
    let all: Vec<_> = runs(commands, options.quick).collect();
    for name in &options.only {
        let names = || all.iter().map(|run| &*run.command).collect::<Vec<_>>().join(", ");
        ensure!(all.iter().any(|run| run.command == *name), "no `{name}`; there are {}", names());
    }
    let chosen = |run: &&Run| options.only.is_empty() || options.only.contains(&run.command);
    let chosen: Vec<_> = all.iter().filter(chosen).collect();
    end_orderly();

    let mut failed = Vec::new();
    for (index, run) in chosen.iter().enumerate() {
        eprintln!("all: {} ({} of {})", run.file, index + 1, chosen.len());
        let start = Instant::now();
        let outcome = run.start(&into).and_then(wait);
        go_on()?;
        let took = start.elapsed().as_secs_f64();
        match outcome {
            Ok(true) => eprintln!("all: {} took {took:.0} s", run.file),
            Ok(false) => failed.push(run.file),
            Err(error) => {
                eprintln!("all: {}: {error:#}", run.file);
                failed.push(run.file);
            }
        }
    }
    if failed.is_empty() {
        println!("all: {} went well; the figures are in {}", chosen.len(), into.display());
    } else {
        println!("FAILED: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

/// A benchmark with its arguments.
struct Run<'a> {
    file: &'a str,
    command: String,
    arguments: Vec<&'a str>,
}

fn runs(commands: &clap::Command, quick: bool) -> impl Iterator<Item = Run<'_>> {
    let all = commands
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && !OTHERS.contains(&command.get_name()));
    all.flat_map(move |command| {
        let name = command.get_name();
        let quick = quick && command.get_arguments().any(|argument| argument.get_id() == "quick");
        let more = MORE.iter().filter(move |more| more.1 == name);
        let mut listed: Vec<_> = more.map(|more| (more.0, more.2)).collect();
        if listed.is_empty() {
            listed.push((name, &[]));
        }
        listed.into_iter().map(move |(file, arguments)| Run {
            file,
            command: name.to_owned(),
            arguments: arguments.iter().copied().chain(quick.then_some("--quick")).collect(),
        })
    })
}

impl Run<'_> {
    fn start(&self, into: &Path) -> anyhow::Result<Child> {
        let json = into.join(format!("{}.json", self.file));
        // What is there after a failure shall not be of an earlier run.
        match fs::remove_file(&json) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(&self.command).args(&self.arguments).arg("--json").arg(json);
        command.spawn().context("starting it")
    }
}

/// Whether it ends well. If this program is asked to end, it is asked too, and waited for.
fn wait(mut child: Child) -> anyhow::Result<bool> {
    let mut asked: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        match asked {
            None if go_on().is_err() => {
                // SAFETY: kill(2) takes no pointer; the child was not waited for.
                unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
                asked = Some(Instant::now());
            }
            Some(since) if since.elapsed() > PATIENCE => {
                child.kill()?;
                child.wait()?;
                return Ok(false);
            }
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn benchmarks_are_found_and_servers_are_not() {
        let commands = crate::Arguments::command();
        let runs: Vec<_> = runs(&commands, true).collect();
        let names: Vec<_> = runs.iter().map(|run| &*run.command).collect();
        for name in ["udp", "files", "growth", "instructions", "tcp-many"] {
            assert!(names.contains(&name), "{names:?}");
        }
        for name in ["serve", "serve-connections", "report", "all", "endure", "help"] {
            assert!(!names.contains(&name), "{names:?}");
        }
        let files = runs.iter().find(|run| run.command == "files").unwrap();
        assert_eq!(files.arguments, ["--large", "--tree", "--memory", "--quick"]);
        for (_, command, _) in MORE {
            assert!(names.contains(&command), "{command} is no command");
        }
    }

    #[test]
    fn how_a_child_ended() {
        assert!(wait(Command::new("true").spawn().unwrap()).unwrap());
        assert!(!wait(Command::new("false").spawn().unwrap()).unwrap());
    }
}
