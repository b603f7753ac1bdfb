//! The reactor with real sockets. Peers are sockets of the standard library, mostly on the same
//! thread; where time matters, it is a clock of the test's own.

mod datagrams;
mod ends;
mod faults;
mod limits;
mod listeners;
mod memory;
mod support;
mod traffic;
