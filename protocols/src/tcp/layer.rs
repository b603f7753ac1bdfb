//! [`Tcp`] as a layer: segments in, connections begun, served and forgotten, segments out.

use std::{mem, time::Duration};

use mbuf::{
    Batch, Chain,
    stack::{
        Context, DropReason, Edge, Held, LayerInfo, LayerStats, Outcome, Protocol, Signal, Stack,
        Timer,
    },
};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};

use super::{
    Connection, Opening, Origin, RESET, Tcp,
    connection::PORT,
    family::Sent,
    wire::{self, Segment, instant},
};
use crate::net::ipv4::{BAD_CHECKSUM, NO_ROUTE, OTHER_HOST, TOO_BIG};

/// A handshake takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Where there was no buffer, it is tried again after so long.
const RETRY: Duration = Duration::from_millis(10);

impl Tcp {
    /// Gives one segment to smoltcp; why it is dropped, if it is.
    fn segment(
        &mut self,
        mut chain: Chain,
        cx: &mut Context<'_>,
    ) -> Option<(Chain, Result<(), DropReason>)> {
        let segment = match self.examine(&mut chain) {
            Ok(segment) => segment,
            Err(reason) => return Some((chain, Err(reason))),
        };
        let Segment { local, peer, .. } = segment;
        let place = usize::from(local.is_ipv6());
        let mut verdict = Ok(());
        if segment.begins && !self.families[place].knows(local, peer) {
            verdict = self.admit(place, local);
        }
        self.families[place].card.out.lost = false;
        let chain = self.families[place].receive(chain, instant(cx))?;
        let refused = |one: &Opening| {
            matches!(one.origin, Origin::Call(_))
                && self.families[one.family].state(one.handle) == State::Closed
        };
        if segment.resets && self.opening.iter().any(refused) {
            verdict = Err(DropReason::REFUSED);
        }
        if self.families[place].card.out.lost {
            verdict = Err(DropReason::NO_BUFFERS);
        }
        if segment.is_special {
            self.go_on(cx);
        }
        Some((chain, verdict))
    }

    /// Whether a segment is one for this host; then it is made ready for smoltcp.
    fn examine(&self, chain: &mut Chain) -> Result<Segment, DropReason> {
        let segment = Segment::of(chain)?;
        // Nobody answers what was sent to many (RFC 9293, MUST-57).
        if !self.families[usize::from(segment.local.is_ipv6())].has(segment.local.ip()) {
            return Err(OTHER_HOST);
        }
        if self.ending {
            return Err(DropReason::CLOSED);
        }
        segment.wrap(chain)?;
        Ok(segment)
    }

    /// Makes a socket for the connection that a SYN begins.
    fn admit(&mut self, place: usize, to: std::net::SocketAddr) -> Result<(), DropReason> {
        if !self.listeners.contains_key(&to.port()) {
            return Err(DropReason::UNBOUND);
        }
        let by_syn = |one: &Opening| matches!(one.origin, Origin::Listener(_));
        if self.opening.iter().filter(|one| by_syn(one)).count() >= self.backlog
            && let Some(oldest) = self.opening.iter().position(by_syn)
        {
            let oldest = self.opening.remove(oldest);
            self.families[oldest.family].remove(oldest.handle);
        }
        if self.connections.len() + self.opening.len() >= self.max_connections {
            let waits =
                |one: &Connection| self.families[one.family].state(one.handle) == State::TimeWait;
            if let Some(oldest) = self.connections.iter().position(waits) {
                let oldest = self.connections.remove(oldest);
                self.bury(oldest);
            } else {
                // Those who only knock do not keep out who comes after them.
                let oldest = self.opening.iter().position(by_syn).ok_or(DropReason::LIMIT)?;
                let oldest = self.opening.remove(oldest);
                self.families[oldest.family].remove(oldest.handle);
            }
        }
        if self.backlog == 0 {
            return Err(DropReason::LIMIT);
        }
        let mut socket = self.socket();
        if socket.listen(to).is_err() {
            return Err(DropReason::REFUSED);
        }
        self.families[place].renew((self.seeds)());
        let handle = self.families[place].sockets.add(socket);
        self.opening.push(Opening { family: place, handle, origin: Origin::Listener(to.port()) });
        Ok(())
    }

    fn socket(&self) -> Socket<'static> {
        let buffer = || SocketBuffer::new(vec![0; self.buffer]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_timeout(Some(self.timeout.min(HANDSHAKE).into()));
        // Set later it would be due at once.
        socket.set_keep_alive(Some((self.timeout / 4).into()));
        socket.set_congestion_control(CongestionControl::Reno);
        socket.set_nagle_enabled(self.nagle);
        socket
    }

    /// Begins the connections that are to be begun here.
    fn call(&mut self) {
        for call in mem::take(&mut self.calls) {
            let place = usize::from(call.peer.is_ipv6());
            let mut local = call.local;
            while local.port() == 0 {
                // RFC 6056, 3.3.1.
                let port = 0xc000 | (self.seeds)() as u16;
                if !self.families[place].uses(port) {
                    local.set_port(port);
                }
            }
            let mut socket = self.socket();
            let family = &mut self.families[place];
            family.renew((self.seeds)());
            if family.connect(&mut socket, local, call.peer) {
                let handle = family.sockets.add(socket);
                let origin = Origin::Call(call.layers);
                self.opening.push(Opening { family: place, handle, origin });
            }
        }
    }

    /// Makes the layers of connections that have opened, and forgets those that did not.
    fn promote(&mut self, cx: &mut Context<'_>) {
        let mut place = 0;
        while let Some(opening) = self.opening.get(place) {
            let socket = self.families[opening.family].socket(opening.handle);
            let failed = socket.state() == State::Listen || is_over(socket);
            let waits = [State::SynSent, State::SynReceived, State::Closed];
            if !failed && waits.contains(&socket.state()) {
                place += 1;
                continue;
            }
            let Opening { family, handle, origin } = self.opening.remove(place);
            if failed {
                self.families[family].remove(handle);
                continue;
            }
            let layers = match origin {
                Origin::Listener(port) => self.listeners.get_mut(&port).map(|layers| layers()),
                Origin::Call(mut layers) => Some(layers()),
            };
            let socket = self.families[family].sockets.get_mut::<Socket<'_>>(handle);
            socket.set_timeout(Some(self.timeout.into()));
            let layers = layers.unwrap_or_default();
            let Ok(mut stack) = Stack::pile(cx.pool(), Edge::Bytes, layers) else {
                // A mistake of the program's; the peer hears of it at once.
                socket.abort();
                self.opening.push(Opening { family, handle, origin: Origin::Listener(0) });
                return;
            };
            let waker = cx.waker();
            stack.on_wake(move || waker.wake());
            stack.set_now(cx.now());
            stack.open();
            self.connections.push(Connection::new(family, handle, stack));
        }
    }

    /// Forgets the connections that are over.
    fn forget(&mut self) {
        let mut place = 0;
        while let Some(one) = self.connections.get(place) {
            if is_over(self.families[one.family].socket(one.handle)) {
                let one = self.connections.remove(place);
                self.bury(one);
            } else {
                place += 1;
            }
        }
    }

    /// Takes a connection's counts over.
    fn bury(&mut self, mut one: Connection) {
        self.families[one.family].remove(one.handle);
        if !one.stack.poll_output(PORT).is_empty() {
            one.stack.abort(PORT, RESET);
        }
        let mut stats = one.stack.stats();
        for layer in &mut stats.layers {
            if layer.held.chains > 0 {
                layer.drops.push((DropReason::CLOSED, layer.held.chains as u64));
            }
            layer.held = Held::default();
        }
        self.gone.merge(&stats);
    }

    /// What every entry ends with.
    fn go_on(&mut self, cx: &mut Context<'_>) {
        self.promote(cx);
        let (mut more, mut starved) = (false, false);
        for one in &mut self.connections {
            let sockets = &mut self.families[one.family].sockets;
            one.serve(sockets.get_mut::<Socket<'_>>(one.handle), cx.now());
            more |= one.unfinished;
            starved |= one.starved;
        }
        let mut next = None;
        for (place, family) in self.families.iter_mut().enumerate() {
            let edge = place.min(cx.lower_edges().saturating_sub(1));
            let sent = family.transmit(edge, cx);
            more |= sent == Sent::Share;
            starved |= family.card.out.is_starved();
            // What is due, but has no credit, waits for that.
            if sent == Sent::All {
                next = earlier(next, family.next(cx));
            }
        }
        self.forget();
        self.footprint = self.connections.iter().map(Connection::footprint).sum();
        if more {
            cx.wait();
        }
        if starved {
            next = earlier(next, Some(cx.now() + RETRY));
        }
        for one in &self.connections {
            next = earlier(next, one.stack.next_timeout());
        }
        if self.alarm.map(|(_, at)| at) != next {
            self.disarm(cx);
            self.alarm = next.and_then(|at| Some((cx.arm(at.since(cx.now()))?, at)));
        }
    }

    fn disarm(&mut self, cx: &mut Context<'_>) {
        if let Some((timer, _)) = self.alarm.take() {
            cx.cancel(timer);
        }
    }

    /// The sessions say their last, as far as the windows allow; then all connections are reset.
    fn shut_down(&mut self, cx: &mut Context<'_>) {
        self.ending = true;
        for one in &mut self.connections {
            one.stack.set_now(cx.now());
            one.stack.signal(Signal::Shutdown);
            one.drain(self.families[one.family].sockets.get_mut::<Socket<'_>>(one.handle));
        }
        for (place, family) in self.families.iter_mut().enumerate() {
            let edge = place.min(cx.lower_edges().saturating_sub(1));
            family.transmit(edge, cx);
            family.abort();
            family.transmit(edge, cx);
        }
        for one in mem::take(&mut self.opening) {
            self.families[one.family].remove(one.handle);
        }
        for one in mem::take(&mut self.connections) {
            self.bury(one);
        }
        self.footprint = 0;
        self.disarm(cx);
    }
}

/// Whether a socket is closed, and its peer has been told.
fn is_over(socket: &Socket<'_>) -> bool {
    socket.state() == State::Closed && socket.remote_endpoint().is_none()
}

fn settled(taken: Option<(Chain, Result<(), DropReason>)>, cx: &mut Context<'_>) -> Outcome {
    match taken {
        Some((chain, Ok(()))) => cx.consumed(chain),
        Some((chain, Err(reason))) => cx.drop(chain, reason),
        None => cx.held(),
    }
}

fn earlier<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

impl Protocol for Tcp {
    fn name(&self) -> &str {
        "tcp"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).min_header(wire::HEADER).batched().reasons(&[
            BAD_CHECKSUM,
            NO_ROUTE,
            OTHER_HOST,
            TOO_BIG,
        ])
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let taken = self.segment(chain, cx);
        self.go_on(cx);
        settled(taken, cx)
    }

    /// The connections are served once for all segments of a batch, but for those that change
    /// more than a connection's data.
    fn input_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        while let Some(chain) = batch.pop() {
            let taken = self.segment(chain, cx);
            let outcome = settled(taken, cx);
            cx.apply(outcome);
        }
        self.go_on(cx);
    }

    /// Nothing is bound above: what connections send comes from their own stacks.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }

    fn timeout(&mut self, _timer: Timer, cx: &mut Context<'_>) {
        self.alarm = None;
        let now = cx.now();
        let due = |one: &&mut Connection| one.stack.next_timeout().is_some_and(|at| at <= now);
        self.connections.iter_mut().filter(due).for_each(|one| one.stack.advance(now));
        self.go_on(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Shutdown => return self.shut_down(cx),
            // The link's, not a connection's.
            Signal::EndOfStream => return,
            Signal::Opened => {
                for family in &mut self.families {
                    family.card.out.pool = Some(cx.pool().clone());
                }
                self.call();
            }
            Signal::Mtu(bytes) => self.set_mtu(bytes),
            Signal::Drain => {
                self.connections.iter_mut().for_each(|one| one.stack.signal(Signal::Drain));
            }
            _ => {}
        }
        self.go_on(cx);
    }

    /// The storage only: what sessions hold is in their own books.
    fn held(&self) -> Held {
        Held { chains: 0, footprint: self.footprint }
    }

    /// O(connections).
    fn inner_stats(&self) -> Vec<LayerStats> {
        let mut sum = self.gone.clone();
        self.connections.iter().for_each(|one| sum.merge(&one.stack.stats()));
        sum.layers.iter_mut().for_each(|layer| layer.name.insert_str(0, "tcp/"));
        sum.layers
    }
}
