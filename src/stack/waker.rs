//! How an answer from elsewhere reaches a layer: [`Waker`].

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Brings a layer back from any thread: it hears [`Signal::Woken`](super::Signal::Woken) the next
/// time its stack runs, and whoever drives the stack is told that there is something to run.
///
/// A layer takes one from [`Context::waker`](super::Context::waker) and gives it to whatever works
/// for it elsewhere. A waker may outlive its stack; it then does nothing.
#[derive(Clone)]
pub struct Waker {
    bell: Arc<Bell>,
    layer: u16,
}

impl Waker {
    pub(super) fn new(bell: &Arc<Bell>, layer: u16) -> Self {
        Self { bell: Arc::clone(bell), layer }
    }

    /// Wakes the layer. Several calls before it runs are one. Takes a short lock; makes a system
    /// call if a reactor must be woken.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let (give, take) = std::sync::mpsc::channel();
    /// let listen = move |signal, cx: &mut Context<'_>| match signal {
    ///     Signal::Opened => give.send(cx.waker()).unwrap(),
    ///     Signal::Woken => cx.close(),
    ///     _ => {}
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.open();
    /// let waker = take.recv()?;
    /// std::thread::spawn(move || waker.wake()).join().unwrap();
    /// assert!(stack.has_work());
    /// stack.poll();
    /// assert_eq!(stack.closing(PORT), Closing::Graceful);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wake(&self) {
        self.bell.ring(self.layer);
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").field("layer", &self.layer).finish_non_exhaustive()
    }
}

type Driver = Arc<dyn Fn() + Send + Sync>;

/// Which layers of a stack are to be woken, and who drives it.
#[derive(Default)]
pub(super) struct Bell {
    /// Invariant: set if and only if `rung.layers` is not empty; changed under that lock.
    any: AtomicBool,
    rung: Mutex<Rung>,
}

#[derive(Default)]
struct Rung {
    /// Each once, in the order in which they were woken.
    layers: Vec<u16>,
    driver: Option<Driver>,
}

impl Bell {
    /// Whether a layer is to be woken. No lock.
    #[inline]
    pub(super) fn is_rung(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    pub(super) fn set_driver(&self, driver: Option<Driver>) {
        let old = std::mem::replace(&mut self.lock().driver, driver);
        drop(old);
    }

    fn ring(&self, layer: u16) {
        let mut rung = self.lock();
        if rung.layers.contains(&layer) {
            return;
        }
        rung.layers.push(layer);
        // The driver was told of the first one, and has not looked since.
        let first = !self.any.swap(true, Ordering::AcqRel);
        let driver = if first { rung.driver.clone() } else { None };
        drop(rung);
        if let Some(driver) = driver {
            driver();
        }
    }

    /// The layer that was woken first.
    pub(super) fn take(&self) -> Option<u16> {
        if !self.is_rung() {
            return None;
        }
        let mut rung = self.lock();
        let layer = if rung.layers.is_empty() { None } else { Some(rung.layers.remove(0)) };
        self.any.store(!rung.layers.is_empty(), Ordering::Release);
        layer
    }

    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("rung", &self.lock().layers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_layer_is_woken_once_and_the_driver_told_once_until_it_has_looked() {
        let bell = Arc::new(Bell::default());
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        bell.set_driver(Some(Arc::new(move || _ = count.fetch_add(1, Ordering::Relaxed))));
        let (first, second) = (Waker::new(&bell, 7), Waker::new(&bell, 3));
        first.wake();
        second.wake();
        first.wake();
        assert_eq!(told.load(Ordering::Relaxed), 1);
        assert_eq!((bell.take(), bell.is_rung()), (Some(7), true));
        assert_eq!((bell.take(), bell.is_rung()), (Some(3), false));
        assert_eq!(bell.take(), None);
        second.wake();
        assert_eq!(told.load(Ordering::Relaxed), 2);
        bell.set_driver(None);
        assert_eq!(bell.take(), Some(3));
        first.wake();
        assert_eq!((told.load(Ordering::Relaxed), bell.take()), (2, Some(7)));
    }
}
