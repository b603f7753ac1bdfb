//! The sides that are written in C: built here, and then asked over a pipe. A program that waits for
//! its next question ends when the pipe is closed, also if this one is killed.

use std::{
    cell::RefCell,
    env,
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use super::case::Side;

/// A program that answers a line of `TIMES CASE` with a line of two numbers: the nanoseconds that
/// it took, and one that must be as it should be.
pub struct Program {
    name: &'static str,
    pub version: String,
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Program {
    /// Starts a program, gives it what it reads first, and waits for the line with its version.
    pub fn start(
        name: &'static str,
        mut command: Command,
        first: &[u8],
    ) -> anyhow::Result<Program> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{name}`"))?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("`{name}` has no pipes");
        };
        let answers = BufReader::new(answers);
        let mut program = Program { name, version: String::new(), child, questions, answers };
        program.questions.write_all(first).with_context(|| format!("writing to `{name}`"))?;
        program.version = program.line()?;
        Ok(program)
    }

    /// How long it took to do the case so many times, and the number beside that.
    pub fn ask(&mut self, case: &str, times: u64) -> anyhow::Result<(Duration, u64)> {
        let mut question = String::new();
        writeln!(question, "{times} {case}")?;
        self.questions
            .write_all(question.as_bytes())
            .with_context(|| format!("asking `{}` for `{case}`", self.name))?;
        let line = self.line().with_context(|| format!("the case `{case}`"))?;
        answer(&line).with_context(|| format!("`{}` answers `{line}`", self.name))
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line)?;
        ensure!(read > 0, "`{}` has ended: {}", self.name, self.child.wait()?);
        Ok(line.trim().to_owned())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It waits for a question, or is being given up on: nothing is lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A side that a program does; `check` is given the times and the number beside the answer.
pub fn side(
    who: &'static str,
    things: usize,
    program: &Rc<RefCell<Program>>,
    case: &'static str,
    check: impl Fn(u64, u64) -> anyhow::Result<()> + 'static,
) -> Side {
    let program = program.clone();
    let mut side = Side::new(who, things, move |times| {
        let (taken, number) = program.borrow_mut().ask(case, times)?;
        check(times, number)?;
        Ok(taken)
    });
    side.asked = Some(case);
    side
}

/// Compiles a source of this folder, as fast as the compiler can make it, to lie beside this
/// program. `None`, with the reason said, where there is no compiler or no such library.
pub fn compile(
    name: &'static str,
    source: &str,
    library: Option<&str>,
) -> anyhow::Result<Option<PathBuf>> {
    let mut flags = String::new();
    if let Some(library) = library {
        let found = Command::new("pkg-config").args(["--cflags", "--libs", library]).output();
        match found {
            Ok(output) if output.status.success() => flags = String::from_utf8(output.stdout)?,
            Ok(_) => return skip(name, &format!("pkg-config finds no {library}")),
            Err(error) => return skip(name, &format!("pkg-config: {error}")),
        }
    }
    let program = env::current_exe()?.with_file_name(format!("micro-{}", source.replace('/', "-")));
    let program = program.with_extension("");
    let mut command = Command::new("cc");
    command
        .args(["-O3", "-march=native", "-o"])
        .arg(&program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
        .args(flags.split_whitespace())
        .stdin(Stdio::null());
    match command.status() {
        Ok(status) => {
            ensure!(status.success(), "cc {source}: {status}");
            Ok(Some(program))
        }
        Err(error) => skip(name, &format!("cc: {error}")),
    }
}

/// Says that a peer is not there; with `MBUF_REQUIRE_PEERS=1` that is an error.
pub fn skip<T>(name: &str, why: &str) -> anyhow::Result<Option<T>> {
    let required = env::var_os("MBUF_REQUIRE_PEERS").is_some_and(|value| value == "1");
    ensure!(!required, "{name}: {why}");
    println!("skipped: {name}: {why}");
    Ok(None)
}

fn answer(line: &str) -> Option<(Duration, u64)> {
    let (nanoseconds, number) = line.split_once(' ')?;
    Some((Duration::from_nanos(nanoseconds.parse().ok()?), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_two_numbers() {
        assert_eq!(answer("1500 7"), Some((Duration::from_nanos(1500), 7)));
        assert_eq!(answer("1500"), None);
        assert_eq!(answer("EAL: no memory"), None);
    }

    #[test]
    fn a_program_that_ends_is_an_error_and_not_a_figure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 1.0; read line; echo 5 6; read line; exit 3"]);
        let mut program = Program::start("sh", command, b"").unwrap();
        assert_eq!(program.version, "1.0");
        assert_eq!(program.ask("case", 1).unwrap(), (Duration::from_nanos(5), 6));
        let error = format!("{:#}", program.ask("case", 1).unwrap_err());
        assert!(error.contains("exit status: 3"), "{error}");
    }
}
