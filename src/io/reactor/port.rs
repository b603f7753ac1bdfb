//! What a reactor asks of a port beside receiving and sending.

use std::{fmt, io};

use mio::event;

use super::PortCounts;
use crate::io::{Datagram, Sink, Source, Stream, TunTap, errno, error::named};

/// A source and sink that a [`Reactor`](super::Reactor) can drive: one over a descriptor that
/// epoll(7) can watch.
///
/// [`Stream`], [`Datagram`] and [`TunTap`] are ports; a device of one's own becomes one by implementing this
/// trait, whose methods all have a default that is right for packet devices.
pub trait Port: Source + Sink + event::Source + Send + fmt::Debug {
    /// Whether the connection has been made; asked when the port has become writable for the first
    /// time, and again at later events while the answer is `false`.
    ///
    /// # Errors
    /// Why it could not be made.
    fn is_connected(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// The error that epoll(7) has announced, if there is one that receiving and sending would not
    /// tell by themselves.
    ///
    /// # Errors
    /// That error.
    fn take_error(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether the last receive is known to have emptied the port, so that it need not be asked
    /// again before the next event.
    fn is_drained(&self) -> bool {
        false
    }

    /// Whether epoll(7) tells of room for more whenever something that was sent has left, wanted or
    /// not. It is then asked to only while a send waits for room.
    fn tells_of_every_send(&self) -> bool {
        false
    }

    /// Tells the peer that nothing more will come, and answers whether the peer's own end is to be
    /// waited for (a stream) or there is no such thing.
    ///
    /// # Errors
    /// The system's; the port is then closed without waiting.
    fn half_close(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// Makes the close that follows a reset, where there is such a thing.
    fn abort_on_drop(&mut self) {}

    /// Adds what the port has lost, and what the network has reported to it, since it was made: for
    /// [`ReactorStats`](super::ReactorStats). A port that tells all by its errors has nothing to
    /// add, as the default has it.
    fn count(&self, counts: &mut PortCounts) {
        let _ = counts;
    }

    /// Whether the port keeps buffers of the pool between receives.
    fn keeps_buffers(&self) -> bool {
        false
    }

    /// Gives the buffers that it keeps back to the pool.
    fn release(&mut self) {}
}

impl Port for Stream {
    fn is_connected(&self) -> io::Result<bool> {
        // It began to connect before it was watched, so it is not writable before that is decided.
        match Stream::take_error(self) {
            Ok(()) => Ok(true),
            // The call that was begun then has failed now.
            Err(error) => Err(match errno(&error) {
                Some(errno) => named("connect to", self, errno),
                None => error,
            }),
        }
    }

    fn take_error(&self) -> io::Result<()> {
        Stream::take_error(self)
    }

    fn is_drained(&self) -> bool {
        Stream::is_drained(self)
    }

    fn half_close(&mut self) -> io::Result<bool> {
        self.shutdown_write().map(|()| true)
    }

    fn abort_on_drop(&mut self) {
        // A socket that cannot be told so is closed in the ordinary way.
        let _ = Stream::abort_on_drop(self);
    }
}

impl Port for Datagram {
    fn is_drained(&self) -> bool {
        Datagram::is_drained(self)
    }

    fn tells_of_every_send(&self) -> bool {
        true
    }

    fn count(&self, counts: &mut PortCounts) {
        let stats = self.stats();
        stats.lost().for_each(|(reason, count)| counts.dropped(reason, count));
        stats.reported.rows().for_each(|(name, count)| counts.reported(name, count));
    }

    fn keeps_buffers(&self) -> bool {
        true
    }

    fn release(&mut self) {
        Datagram::release(self);
    }
}

impl Port for TunTap {
    fn is_drained(&self) -> bool {
        TunTap::is_drained(self)
    }

    fn count(&self, counts: &mut PortCounts) {
        self.stats().lost().for_each(|(reason, count)| counts.dropped(reason, count));
    }

    fn keeps_buffers(&self) -> bool {
        true
    }

    fn release(&mut self) {
        TunTap::release(self);
    }
}
