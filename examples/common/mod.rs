//! What the examples have in common: how they print, read quantities, and end.

// Not every example has a use for all of it.
#![allow(dead_code)]

pub mod print;
pub mod quantity;
pub mod stop;
