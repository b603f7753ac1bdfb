//! The edges of a stack, into a capture.

use std::{
    fmt,
    io::{self, Write},
};

use super::{CaptureWriter, Interface, Record};
use crate::stack::{EdgeId, Tap, Tapped};

/// Writes what passes the edges of a stack: each edge is an interface; the direction is noted, and
/// of what is dropped the reason, as a comment (`dropped: malformed`).
///
/// A write that fails must not disturb the stack: the error is kept, nothing more is written, and
/// [`CaptureTap::check`] tells.
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use mbuf::{Pool, stack::{Edge, PortId, Stack}};
/// use mbuf::io::capture::{CaptureTap, CaptureWriter, Interface, LinkType};
/// use mbuf_protocols::Echo;
///
/// let pool = Pool::builder().build()?;
/// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(Echo::new())])?;
/// let edge = stack.edge_at(PortId(0));
///
/// let mut tap = CaptureTap::new(CaptureWriter::pcapng(Vec::new())?, 0);
/// tap.edge(edge, Interface::new(LinkType::USER0, "port 0"))?;
/// let tap = Arc::new(Mutex::new(tap));
/// stack.tap(&[edge], Box::new(tap.clone()));
/// stack.input_one(PortId(0), pool.chain_from(b"hello")?);
/// stack.untap();
///
/// let tap = Arc::into_inner(tap).unwrap().into_inner()?;
/// assert_eq!(tap.into_writer()?.packets(), 2); // in and out
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CaptureTap<W> {
    writer: CaptureWriter<W>,
    edges: Vec<(EdgeId, u32)>,
    epoch: u64,
    error: Option<io::Error>,
}

impl<W: Write> CaptureTap<W> {
    /// A tap over a writer of pcapng. `epoch`: when the stack's time was 0, in nanoseconds since
    /// 1970.
    pub fn new(writer: CaptureWriter<W>, epoch: u64) -> Self {
        Self { writer, edges: Vec::new(), epoch, error: None }
    }

    /// Makes an interface for an edge. What passes an edge that has none is not written.
    ///
    /// # Errors
    /// As [`CaptureWriter::interface`].
    pub fn edge(&mut self, edge: EdgeId, interface: Interface) -> io::Result<()> {
        let number = self.writer.interface(interface)?;
        self.edges.push((edge, number));
        Ok(())
    }

    /// Whether all that passed has been written.
    ///
    /// # Errors
    /// Why the writing ended, once.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureTap, CaptureWriter};
    ///
    /// assert!(CaptureTap::new(CaptureWriter::pcapng(Vec::new())?, 0).check().is_ok());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn check(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// The writer, to flush it.
    pub fn writer(&mut self) -> &mut CaptureWriter<W> {
        &mut self.writer
    }

    /// The writer, taken out.
    ///
    /// # Errors
    /// As [`CaptureTap::check`].
    pub fn into_writer(mut self) -> io::Result<CaptureWriter<W>> {
        self.check()?;
        Ok(self.writer)
    }
}

impl<W: Write + Send> Tap for CaptureTap<W> {
    fn record(&mut self, tapped: &Tapped<'_>) {
        let edge = self.edges.iter().find(|(edge, _)| *edge == tapped.edge);
        let (Some(&(_, interface)), None) = (edge, &self.error) else { return };
        let record = Record {
            time: Some(self.epoch.saturating_add(tapped.time.as_nanos())),
            interface,
            direction: Some(tapped.direction),
            comment: tapped.dropped.map(|reason| format!("dropped: {reason}")),
            ..Record::default()
        };
        self.error = self.writer.write(&record, tapped.chain).err();
    }
}

impl<W> fmt::Debug for CaptureTap<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureTap")
            .field("writer", &self.writer)
            .field("edges", &self.edges)
            .field("epoch", &self.epoch)
            .field("error", &self.error)
            .finish()
    }
}
