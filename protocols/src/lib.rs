//! Protocol plugins for mbuf.

#![forbid(unsafe_code)]
