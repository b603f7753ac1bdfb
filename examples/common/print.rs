//! Lines on standard output and standard error.

use std::{
    fmt,
    io::{self, Write},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use mbuf::{Pool, io::reactor::Reactor};

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

/// Whether nobody reads on (`dissect FILE | head`), which is no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints what a reactor, its layers and its pool have counted, and ends the reactor. An error if a
/// layer cannot account for a packet, or a buffer has not come back.
pub fn books(reactor: Reactor, pool: &Pool) -> anyhow::Result<()> {
    let layers = reactor.stack_stats();
    say(format_args!("{}\n\n{layers}", reactor.stats()));
    drop(reactor);
    // The thread of a store may have a few yet: they come back when it has seen the end.
    let until = Instant::now() + Duration::from_secs(5);
    while pool.stats().in_use() > 0 && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    say(format_args!("{}", pool.stats()));
    for layer in &layers.layers {
        let gone = layer.imbalance();
        ensure!(gone == 0, "layer {} cannot account for {gone} packets", layer.name);
    }
    ensure!(pool.stats().in_use() == 0, "buffers are still in use");
    Ok(())
}
