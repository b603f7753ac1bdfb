//! The one place that says which atomics and locks the pool uses, so that loom can stand in.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

/// Locks; a thread that panicked while it held the lock left plain numbers behind, never a
/// half-made structure, so poisoning is ignored.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> impl std::ops::DerefMut<Target = T> + '_ {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
