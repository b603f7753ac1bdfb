//! Accepting connections, and refusing them.

use std::{io, time::Duration};

use mio::Token;

use super::{
    CloseReason, KIND_BITS, LISTENER, Reactor,
    listener::{Accept, Accepted, Listener},
    session::Session,
};
use crate::{
    io::{Stream, faults},
    stack::Time,
};

/// How long to leave a listener alone when the system has no descriptor left for a connection.
/// Ended sessions cut it short.
const BACK_OFF: Duration = Duration::from_millis(100);

impl Reactor {
    pub(super) fn add_listener(&mut self, mut listener: Listener) -> io::Result<()> {
        let token = token(self.listeners.len());
        listener.register(&self.drive.registry, token)?;
        tracing::info!(on = %listener, "listening");
        self.listeners.push(listener);
        Ok(())
    }

    /// Whether a listener may have connections for us now.
    pub(super) fn accepts_pending(&self) -> bool {
        self.listeners.iter().any(|listener| listener.ready && listener.retry_at.is_none())
    }

    /// When the first listener that was left alone is to be tried again.
    pub(super) fn accept_again_at(&self) -> Option<Time> {
        let ready = self.listeners.iter().filter(|listener| listener.ready);
        ready.filter_map(|listener| listener.retry_at).min()
    }

    /// Accepts what waits, a bounded number from each listener.
    pub(super) fn accept_all(&mut self) {
        for at in 0..self.listeners.len() {
            let now = self.drive.now;
            let listener = &mut self.listeners[at];
            listener.retry_at = listener.retry_at.filter(|&retry| retry > now);
            if !listener.ready || listener.retry_at.is_some() {
                continue;
            }
            for _ in 0..self.drive.limits.accepts {
                let listener = &mut self.listeners[at];
                match listener.accept() {
                    Accept::Connection(stream, accepted) => self.admit(at, stream, accepted),
                    Accept::WouldBlock => {
                        listener.ready = false;
                        if faults::deceived() {
                            self.ask_listener_again(at);
                        }
                        break;
                    }
                    Accept::Failed(error) => {
                        let name = CloseReason::of_error(&error).0;
                        self.drive.counters.accept_errors.add(name, 1);
                        tracing::debug!(on = %listener, %error, "accept failed");
                    }
                    Accept::Exhausted(error) => {
                        let name = CloseReason::of_error(&error).0;
                        listener.retry_at = Some(now + BACK_OFF);
                        self.drive.counters.accept_errors.add(name, 1);
                        let open = self.sessions.len();
                        tracing::warn!(on = %self.listeners[at], %error, open, "cannot accept");
                        break;
                    }
                }
            }
        }
    }

    /// A test has said that nobody waits: there will be no event for who does.
    #[cold]
    fn ask_listener_again(&mut self, at: usize) {
        if let Err(error) = self.listeners[at].ask_again(&self.drive.registry, token(at)) {
            tracing::error!(%error, "a listener is not watched any more");
        }
    }

    /// Gives a connection its stack, or refuses it.
    fn admit(&mut self, at: usize, mut stream: Stream, accepted: Accepted) {
        let limit = self.drive.limits.max_connections;
        if self.connections() >= limit {
            self.drive.counters.refused.add(CloseReason::CONNECTION_LIMIT.0, 1);
            // A reset is understood at once, and leaves nothing behind in the system.
            let _ = stream.abort_on_drop();
            if !self.limit_reported {
                self.limit_reported = true;
                tracing::warn!(
                    on = %self.listeners[at], limit,
                    "limit of connections reached, refusing further ones"
                );
            }
            return;
        }
        self.limit_reported = false;
        let stack = match (self.listeners[at].factory)(&accepted, &self.pool) {
            Ok(stack) => stack,
            Err(error) => {
                self.drive.counters.refused.add(CloseReason::FACTORY.0, 1);
                tracing::error!(peer = %accepted.peer, %error, "no stack for the connection");
                return;
            }
        };
        let _ = stream.set_nodelay(true);
        let peer = accepted.peer;
        tracing::debug!(%peer, "accepted");
        match self.add_session(Session::new(stack, vec![Box::new(stream)], peer, true)) {
            Ok(_) => self.drive.counters.accepted += 1,
            Err(error) => {
                self.drive.counters.refused.add(CloseReason::of_error(&error).0, 1);
                tracing::error!(%error, "connection not watched");
            }
        }
    }
}

fn token(at: usize) -> Token {
    Token(at << KIND_BITS | LISTENER)
}
