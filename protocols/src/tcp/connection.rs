//! One connection: a socket of smoltcp, and a stack of ours above it.

use mbuf::{
    Chain,
    stack::{Closing, DropReason, Held, PortId, Stack, Time},
};
use smoltcp::{
    iface::SocketHandle,
    socket::tcp::{RecvError, Socket},
};

use super::RESET;

pub(super) const PORT: PortId = PortId(0);
/// The most bytes that go into a session at once: a cluster of 16 KiB, with some room.
const PIECE: usize = 16_000;
/// The most pieces of one connection in a turn, so that others have theirs.
const TURNS: usize = 16;

pub(super) struct Connection {
    pub(super) family: usize,
    pub(super) handle: SocketHandle,
    pub(super) stack: Stack,
    /// What the socket had no room for.
    pending: Option<Chain>,
    /// The session was told that no more comes.
    ended: bool,
    /// The socket was told that no more is sent.
    closed: bool,
    /// It has had its turn, and has more to do.
    pub(super) unfinished: bool,
    /// It found no buffer, and must be called again later.
    pub(super) starved: bool,
}

impl Connection {
    pub(super) fn new(family: usize, handle: SocketHandle, stack: Stack) -> Self {
        Self {
            family,
            handle,
            stack,
            pending: None,
            ended: false,
            closed: false,
            unfinished: false,
            starved: false,
        }
    }

    /// Moves bytes both ways between socket and session.
    pub(super) fn serve(&mut self, socket: &mut Socket<'_>, now: Time) {
        self.stack.set_now(now);
        (self.unfinished, self.starved) = (false, false);
        self.stack.poll();
        self.read(socket);
        if !self.ended && !socket.may_recv() {
            self.ended = true;
            // Only a FIN says that all has come.
            match socket.recv(|_| (0, ())) {
                Err(RecvError::Finished) => self.stack.end_of_stream(PORT),
                _ => self.stack.abort(PORT, RESET),
            }
        }
        let all = self.drain(socket);
        self.refuse_more(socket);
        self.unfinished |= self.stack.has_work();
        match self.stack.closing(PORT) {
            Closing::Abort(_) => socket.abort(),
            Closing::Graceful if all && !self.closed => {
                self.closed = true;
                socket.close();
            }
            _ => {}
        }
    }

    /// What comes after the session has closed is thrown away, and answered by a reset once the peer
    /// has all that was sent (RFC 9293, section 3.6.1): nobody reads it, and the peer is to know.
    fn refuse_more(&mut self, socket: &mut Socket<'_>) {
        if !self.closed || !socket.can_recv() {
            return;
        }
        let _ = socket.recv(|bytes| (bytes.len(), ()));
        if socket.send_queue() == 0 {
            socket.abort();
        }
    }

    /// What came goes into the session.
    fn read(&mut self, socket: &mut Socket<'_>) {
        for _ in 0..TURNS {
            // What the session has to say goes first: until it is said, nothing is read, and so
            // the peer's window closes.
            if !self.drain(socket) || !self.stack.wants_input(PORT) || !socket.can_recv() {
                return;
            }
            let pool = self.stack.pool();
            let piece = socket.recv(|bytes| {
                let bytes = bytes.get(..PIECE).unwrap_or(bytes);
                match pool.chain_from(bytes) {
                    Ok(chain) => (bytes.len(), Some(chain)),
                    Err(_) => (0, None),
                }
            });
            let Ok(Some(chain)) = piece else {
                self.starved = true;
                return;
            };
            self.stack.input_one(PORT, chain);
        }
        self.unfinished = true;
    }

    /// What the session sends goes into the socket; whether that was all.
    pub(super) fn drain(&mut self, socket: &mut Socket<'_>) -> bool {
        if !socket.may_send() {
            self.pending = None;
            if !self.stack.poll_output(PORT).is_empty() {
                self.stack.abort(PORT, DropReason::CLOSED);
            }
            return true;
        }
        for _ in 0..TURNS {
            while let Some(mut chain) =
                self.pending.take().or_else(|| self.stack.poll_output(PORT).pop())
            {
                match send(socket, &chain) {
                    Ok(sent) if sent == chain.len() => {}
                    Ok(sent) => {
                        self.pending = chain.trim_front(sent).is_ok().then_some(chain);
                        return false;
                    }
                    // A file's bytes that can no longer be read.
                    Err(_) => self.stack.abort(PORT, DropReason::IO),
                }
            }
            self.stack.flushed(PORT);
            if self.stack.poll_output(PORT).is_empty() {
                return true;
            }
        }
        self.unfinished = true;
        false
    }

    /// The storage that it pins.
    pub(super) fn footprint(&self) -> usize {
        let pending: Held = self.pending.iter().sum();
        self.stack.held().footprint + pending.footprint
    }
}

/// Copies as much of the chain into the socket as there is room for.
fn send(socket: &mut Socket<'_>, chain: &Chain) -> mbuf::Result<usize> {
    let mut sent = 0;
    while sent < chain.len() && socket.can_send() {
        let copied = socket.send(|room| {
            let n = room.len().min(chain.len() - sent);
            (n, chain.peek(sent, &mut room[..n]).map(|()| n))
        });
        let Ok(copied) = copied else { break };
        sent += copied?;
    }
    Ok(sent)
}
