//! Progress on standard error, where that is a terminal: the whole, and the current file.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::transfer::{Current, Transfer};

/// With a length, and without.
const KNOWN: &str = "{prefix:24!} [{wide_bar}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
const UNKNOWN: &str = "{prefix:24!} {spinner} {bytes}  {bytes_per_sec}  {elapsed}";
/// Transfers that are shown. Of more, a terminal would have no room for the rest.
const SHOWN: usize = 4;

/// The bars of all transfers.
#[derive(Debug)]
pub struct Bars {
    multi: MultiProgress,
    enabled: bool,
    drawn: Instant,
    shown: Vec<(Transfer, Pair)>,
}

/// The bars of one transfer.
#[derive(Debug)]
struct Pair {
    whole: ProgressBar,
    file: ProgressBar,
    number: u64,
}

impl Bars {
    pub fn new(enabled: bool) -> Self {
        Self { multi: MultiProgress::new(), enabled, drawn: Instant::now(), shown: Vec::new() }
    }

    pub fn add(&mut self, transfer: Transfer) {
        if !self.enabled || self.shown.len() == SHOWN {
            return;
        }
        let bar = || self.multi.add(ProgressBar::no_length().with_style(style(None)));
        let (whole, file) = (bar(), bar());
        whole.set_prefix(transfer.state().peer.clone());
        self.shown.push((transfer, Pair { whole, file, number: 0 }));
    }

    /// Prints something that is to stay.
    pub fn suspend(&mut self, print: impl FnOnce()) {
        if !self.enabled {
            return print();
        }
        self.shown.retain(|(transfer, pair)| {
            let going = transfer.state().status.is_none();
            if !going {
                pair.clear();
            }
            going
        });
        self.multi.suspend(print);
    }

    /// Draws, but not more often than that.
    pub fn draw(&mut self, every: Duration) {
        if self.shown.is_empty() || self.drawn.elapsed() < every / 2 {
            return;
        }
        self.drawn = Instant::now();
        for (transfer, pair) in &mut self.shown {
            let state = transfer.state();
            let (moved, total, current) = (state.moved, state.total, state.current.clone());
            drop(state);
            pair.draw(moved, total, &current);
        }
    }

    pub fn clear(&mut self) {
        self.shown.drain(..).for_each(|(_, pair)| pair.clear());
    }
}

impl Pair {
    fn draw(&mut self, moved: u64, total: Option<u64>, current: &Current) {
        set(&self.whole, moved, total);
        if current.number == 0 {
            return;
        }
        if self.number != current.number {
            self.number = current.number;
            self.file.reset();
            self.file.set_prefix(current.name.clone());
        }
        set(&self.file, current.moved, current.length);
    }

    fn clear(&self) {
        self.file.finish_and_clear();
        self.whole.finish_and_clear();
    }
}

fn set(bar: &ProgressBar, moved: u64, length: Option<u64>) {
    if bar.length() != length || bar.position() == 0 {
        bar.set_style(style(length));
        match length {
            Some(length) => bar.set_length(length),
            None => bar.unset_length(),
        }
    }
    bar.set_position(moved);
    bar.tick();
}

fn style(length: Option<u64>) -> ProgressStyle {
    let template = if length.is_some() { KNOWN } else { UNKNOWN };
    ProgressStyle::with_template(template).expect("a template")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_a_length_once_it_is_known() {
        let bar = ProgressBar::hidden();
        set(&bar, 10, None);
        assert_eq!((bar.position(), bar.length()), (10, None));
        set(&bar, 20, Some(100));
        assert_eq!((bar.position(), bar.length()), (20, Some(100)));
        set(&bar, 100, Some(100));
        assert_eq!(bar.position(), 100);
    }
}
