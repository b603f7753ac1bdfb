//! Lines on standard output and standard error.

use std::{
    fmt,
    io::{self, Write},
};

/// Prints a line. Where nobody reads it (`echo | head`) that is no reason to panic, nor to stop.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Prints a line to standard error: what is wrong, or what the program is about to do.
pub fn complain(line: fmt::Arguments<'_>) {
    if cfg!(test) {
        // The test harness keeps this to itself: a complaint that a test means is no failed test.
        eprintln!("{line}");
    } else {
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}
