//! One connection: a socket of smoltcp, and a stack of ours above it.

use mbuf::{
    Chain,
    stack::{Closing, DropReason, PortId, Stack, Time},
};
use smoltcp::{
    iface::SocketHandle,
    socket::tcp::{Socket, State},
};

pub(super) const PORT: PortId = PortId(0);
/// The most bytes that go into a session at once.
const PIECE: usize = 16 << 10;
/// The most pieces of one connection in a turn, so that others have theirs.
const TURNS: usize = 16;

pub(super) struct Connection {
    pub(super) handle: SocketHandle,
    pub(super) stack: Stack,
    /// What the socket had no room for.
    pub(super) pending: Option<Chain>,
    opened: bool,
    ended: bool,
    closed: bool,
    /// Work was left over, which needs no packet to go on.
    pub(super) unfinished: bool,
}

impl Connection {
    pub(super) fn new(handle: SocketHandle, stack: Stack) -> Self {
        Self {
            handle,
            stack,
            pending: None,
            opened: false,
            ended: false,
            closed: false,
            unfinished: false,
        }
    }

    /// Moves bytes both ways between socket and session.
    pub(super) fn serve(&mut self, socket: &mut Socket<'_>, now: Time) {
        self.stack.set_now(now);
        self.unfinished = false;
        if matches!(socket.state(), State::Listen | State::SynReceived) {
            return;
        }
        if !self.opened {
            self.opened = true;
            self.stack.open();
        }
        self.stack.poll();
        for turn in 0.. {
            // What the session has to say goes first: until it is said, nothing is read, and so
            // the peer's window closes.
            if !self.drain(socket) || !self.stack.wants_input(PORT) || !socket.can_recv() {
                break;
            }
            if turn == TURNS {
                self.unfinished = true;
                break;
            }
            let pool = self.stack.pool().clone();
            let made = socket.recv(|bytes| {
                let bytes = bytes.get(..PIECE).unwrap_or(bytes);
                match pool.chain_from(bytes) {
                    Ok(chain) => (bytes.len(), Some(chain)),
                    Err(_) => (0, None),
                }
            });
            let Ok(Some(chain)) = made else {
                self.unfinished = true; // No buffers now.
                break;
            };
            self.stack.input_one(PORT, chain);
        }
        if !self.ended && !socket.may_recv() && !socket.can_recv() {
            self.ended = true;
            self.stack.end_of_stream(PORT);
        }
        let drained = self.drain(socket);
        self.unfinished |= self.stack.has_work();
        match self.stack.closing(PORT) {
            Closing::Abort(_) => socket.abort(),
            Closing::Graceful if drained && !self.closed => {
                self.closed = true;
                socket.close();
            }
            _ => {}
        }
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
            loop {
                let Some(mut chain) =
                    self.pending.take().or_else(|| self.stack.poll_output(PORT).pop())
                else {
                    break;
                };
                let mut sent = 0;
                if let Ok(slices) = chain.slices() {
                    for slice in slices {
                        let n = socket.send_slice(slice).unwrap_or(0);
                        sent += n;
                        if n < slice.len() {
                            break;
                        }
                    }
                }
                if sent < chain.len() {
                    if chain.trim_front(sent).is_ok() {
                        self.pending = Some(chain);
                    }
                    return false;
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
}
