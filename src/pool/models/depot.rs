//! The depot alone: what one thread leaves in a buffer, the next one finds.

use loom::{cell::UnsafeCell, sync::Arc, thread};

use super::{super::depot::Depot, explore, reached};

/// A depot over two buffers, and their memory.
struct Buffers {
    depot: Depot,
    memory: [UnsafeCell<u32>; 2],
}

impl Buffers {
    fn write(&self, index: u32, value: u32) {
        // SAFETY: the model's point: loom reports it if anyone else touches the cell.
        self.memory[index as usize].with_mut(|cell| unsafe { *cell = value });
    }
}

#[test]
fn loom_a_buffer_that_goes_through_the_depot_is_seen_as_it_was_left() {
    fn model() {
        let memory = [UnsafeCell::new(0), UnsafeCell::new(0)];
        let buffers = Arc::new(Buffers { depot: Depot::full(0..2).unwrap(), memory });
        let mut out = [0];
        assert_eq!(buffers.depot.take(&mut out, 0), (1, 1));
        let (other, first) = (buffers.clone(), out[0]);
        let thread = thread::spawn(move || {
            other.write(first, 1);
            other.depot.put(&[first]);
        });
        let mut out = [0; 2];
        let (taken, _) = buffers.depot.take(&mut out, 0);
        for &index in &out[..taken] {
            buffers.write(index, 2);
            reached(if index == first { "passed on" } else { "the one that nobody had" });
        }
        thread.join().unwrap();
    }
    explore(
        concat!(
            module_path!(),
            "::loom_a_buffer_that_goes_through_the_depot_is_seen_as_it_was_left"
        ),
        model,
        &["passed on", "the one that nobody had"],
        &[],
    );
}
