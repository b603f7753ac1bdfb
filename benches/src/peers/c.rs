//! The servers in C, `benches/peers/*.c`, built when they are needed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

/// Builds `peers/NAME.c` with `cc -O2`, beside this program; gives the path of the program.
pub fn build(name: &str) -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(format!("{name}.c"));
    let program = std::env::current_exe()?.with_file_name(name);
    let built = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    if built(&program).is_ok_and(|program| built(&source).is_ok_and(|source| source < program)) {
        return Ok(program);
    }
    // Others may be doing the same: what is half written is nobody's program.
    let unfinished = program.with_extension(std::process::id().to_string());
    let status = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-o"])
        .args([&unfinished, &source])
        .stdin(Stdio::null())
        .status()
        .context("there is no C compiler, cc")?;
    ensure!(status.success(), "cc {}: {status}", source.display());
    fs::rename(&unfinished, &program).context("rename of what cc built")?;
    Ok(program)
}
