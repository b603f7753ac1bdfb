//! What a server does with requests, and with what belongs to a transfer.

use std::{hash::BuildHasher, net::IpAddr};

use mbuf::{
    Address, Chain, Meta,
    io::store::{FileNo, Name},
    stack::{Context, DropReason, Outcome, Time},
};

use super::{
    DUPLICATE, Files, MAX_REQUEST, Request, TO_MANY, Tftp, UNKNOWN_TRANSFER,
    transfer::{Fault, Flow, Hands, Transfer},
    wire::opcode,
};
use crate::{LOOP, net::Trouble, would_loop};

/// The ports of transfers: the dynamic ones (RFC 6335, section 6).
pub(super) const PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

impl Tftp {
    /// A read or a write request.
    #[cold]
    pub(super) fn request(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let meta = chain.meta();
        let (peer, to) = (meta.source(), meta.destination());
        if would_loop(meta) {
            return cx.drop(chain, LOOP);
        }
        if matches!(ip(to), Some(ip) if ip.is_multicast() || is_broadcast(ip)) {
            return cx.drop(chain, TO_MANY);
        }
        let mut bytes = [0; MAX_REQUEST];
        let bytes = bytes.get_mut(..chain.len()).unwrap_or_default();
        let read = chain.peek(0, bytes).ok().and_then(|()| Request::read(bytes));
        let Some(request) = read else {
            return self.refuse(chain, Fault::ILLEGAL, cx);
        };
        let hash = self.keys.hash_one(&*bytes);
        let old = self.peers.get(&peer).copied();
        let known = old.and_then(|file| self.transfers.get(file as usize)?.as_ref());
        // From a peer who has never answered, every request may be somebody else's.
        let repeated = |known: &Transfer| known.request == hash || !known.is_heard();
        if known.is_some_and(|known| repeated(known) && !known.may_begin_anew()) {
            return cx.drop(chain, DUPLICATE);
        }
        let name = Name::parse(request.name.trim_start_matches('/').as_bytes());
        let fault = match &name {
            _ if request.write && !self.write => Some(Fault::ACCESS),
            Err(_) => Some(Fault::ACCESS),
            _ if request.write && request.options.tsize > Some(self.terms.max_size) => {
                Some(Fault::TOO_LONG)
            }
            Ok(_) => None,
        };
        let (Ok(name), None) = (name, fault) else {
            return self.refuse(chain, fault.unwrap_or(Fault::ACCESS), cx);
        };
        // A client has one transfer at a port: the old one is over.
        if let Some(old) = old {
            self.step(old, cx, |_, _| Ok(Flow::Over));
        }
        let Some(file) = self.place(peer, cx) else {
            return self.refuse(chain, Fault::BUSY, cx);
        };
        let mut answers = answer_to(&chain);
        if self.has_own_ports(cx)
            && let Address::Ip(mut from) = to
        {
            from.set_port(self.port());
            answers.set_source(Address::Ip(from));
        }
        let Files::Store(store) = &mut self.files else {
            return self.refuse(chain, Fault::BUSY, cx);
        };
        let mut hands = Hands { cx, store: &mut **store, scratch: &mut self.scratch, file };
        let transfer = Transfer::begin(&request, (name, hash), answers, &self.terms, &mut hands);
        self.peers.insert(peer, file);
        match self.transfers.get_mut(file as usize) {
            Some(place) => *place = Some(transfer),
            None => self.transfers.push(Some(transfer)),
        }
        cx.consumed(chain)
    }

    /// The number of a file that may be asked for, if this peer may have one more. One that is done
    /// makes room.
    fn place(&mut self, peer: Address, cx: &mut Context<'_>) -> Option<FileNo> {
        let is_live = |transfer: &&Transfer| !transfer.is_over() && !transfer.is_done();
        let live = self.transfers.iter().flatten().filter(is_live);
        if live.filter(|transfer| same_host(transfer.peer(), peer)).count() >= self.per_peer {
            return None;
        }
        let mut place = self.transfers.iter().position(Option::is_none);
        if place.is_none() && self.transfers.len() < self.max_transfers {
            place = Some(self.transfers.len());
        }
        if place.is_none() {
            let done = |place: &Option<Transfer>| place.as_ref().is_some_and(Transfer::is_done);
            place = self.transfers.iter().position(done);
            self.step(place? as FileNo, cx, |_, _| Ok(Flow::Over));
        }
        place.map(|place| place as FileNo)
    }

    /// A port that no transfer has, which a stranger cannot guess at once (RFC 1350, section 4).
    fn port(&mut self) -> u16 {
        loop {
            self.ports += 1;
            let spread = self.keys.hash_one(self.ports) % PORTS.len() as u64;
            let port = PORTS.start() + spread as u16;
            // There are more ports than transfers by far, unless somebody asked for as many.
            if !self.has_port(port) || self.ports.is_multiple_of(1 << 16) {
                return port;
            }
        }
    }

    fn has_port(&self, port: u16) -> bool {
        let mut live = self.transfers.iter().flatten().filter(|transfer| !transfer.is_over());
        live.any(|transfer| port_of(transfer.talk.meta.source()) == Some(port))
    }

    /// The transfer that a message belongs to.
    pub(super) fn find(&self, meta: &Meta) -> Option<FileNo> {
        let file = *self.peers.get(&meta.source())?;
        let transfer = self.transfers.get(file as usize)?.as_ref()?;
        let ours = port_of(transfer.talk.meta.source()) == port_of(meta.destination());
        ours.then_some(file)
    }

    /// Whether the chain at hand came to the port that takes requests.
    pub(super) fn serves(&self, cx: &Context<'_>) -> bool {
        !self.has_own_ports(cx) || cx.key().is_some()
    }

    /// Over a port that is no layer below, there are none: what is for another never comes here.
    fn has_own_ports(&self, cx: &Context<'_>) -> bool {
        self.own_ports && cx.lower_edges() > 1
    }

    /// What belongs to no transfer, or has no opcode.
    #[cold]
    pub(super) fn stranger(
        &self,
        opcode: Option<u16>,
        mut chain: Chain,
        cx: &mut Context<'_>,
    ) -> Outcome {
        let port = port_of(chain.meta().destination());
        if !self.serves(cx) && !port.is_some_and(|port| self.has_port(port)) {
            // Nobody is at this port, which is not for us to say.
            cx.set_slot(&mut chain, Trouble::PORT_UNREACHABLE);
            return cx.down_edge(cx.edge(), chain);
        }
        let Some(opcode) = opcode else { return cx.drop(chain, DropReason::SHORT) };
        match opcode {
            opcode::ERROR => cx.drop(chain, UNKNOWN_TRANSFER),
            opcode::DATA..=opcode::OPTIONS_ACK => self.refuse(chain, Fault::UNKNOWN, cx),
            // Nobody would know what to make of an answer.
            _ => cx.drop(chain, DropReason::MALFORMED),
        }
    }

    /// Answers with an ERROR.
    fn refuse(&self, chain: Chain, fault: Fault, cx: &mut Context<'_>) -> Outcome {
        if would_loop(chain.meta()) {
            return cx.drop(chain, LOOP);
        }
        let Ok(error) = fault.to_chain(cx.pool(), answer_to(&chain)) else {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        };
        cx.made(1);
        cx.send_down(error);
        cx.consumed(chain)
    }

    /// Does something with a transfer, and what follows from that.
    pub(super) fn step(
        &mut self,
        file: FileNo,
        cx: &mut Context<'_>,
        deed: impl FnOnce(&mut Transfer, &mut Hands<'_, '_>) -> Result<Flow, Fault>,
    ) {
        let Files::Store(store) = &mut self.files else { return };
        let Some(place) = self.transfers.get_mut(file as usize) else { return };
        let Some(transfer) = place else { return };
        let mut hands = Hands { cx, store: &mut **store, scratch: &mut self.scratch, file };
        let result = deed(transfer, &mut hands);
        if let Err(fault) = result
            && let Ok(error) = fault.to_chain(hands.cx.pool(), transfer.talk.meta)
        {
            hands.cx.made(1);
            hands.cx.send_down(error);
        }
        if result != Ok(Flow::On) && !transfer.is_over() {
            transfer.end(&mut hands);
            self.peers.remove(&transfer.peer());
        }
        let deadline = transfer.talk.deadline;
        if transfer.is_gone() {
            *place = None;
        }
        self.arm(deadline, cx);
    }

    /// One timer for all: it goes off when the first may have something to do, not later.
    pub(super) fn arm(&mut self, deadline: Option<Time>, cx: &mut Context<'_>) {
        let Some(deadline) = deadline else { return };
        if self.timer.is_some_and(|(_, at)| at <= deadline) {
            return;
        }
        if let Some((timer, _)) = self.timer.take() {
            cx.cancel(timer);
        }
        let after = deadline.since(cx.now());
        self.timer = cx.arm(after).map(|timer| (timer, deadline));
    }

    /// For each transfer that this is true of.
    pub(super) fn each(
        &mut self,
        cx: &mut Context<'_>,
        of: impl Fn(&Transfer) -> bool,
        mut deed: impl FnMut(&mut Transfer, &mut Hands<'_, '_>) -> Result<Flow, Fault>,
    ) {
        for file in 0..self.transfers.len() {
            if self.transfers.get(file).and_then(Option::as_ref).is_some_and(&of) {
                self.step(file as FileNo, cx, &mut deed);
            }
        }
    }

    pub(super) fn open(&mut self, cx: &mut Context<'_>) {
        if let Files::Folder(folder) = &self.files {
            let store = folder.store(cx.pool());
            self.files = store.map_or(Files::None, |store| Files::Store(Box::new(store)));
        }
        if let Files::Store(store) = &mut self.files {
            store.attach(cx.waker());
        }
    }

    pub(super) fn woken(&mut self, cx: &mut Context<'_>) {
        while let Files::Store(store) = &mut self.files
            && let Some(answer) = store.answer()
        {
            self.step(answer.file, cx, |transfer, hands| transfer.answered(answer, hands));
        }
    }

    pub(super) fn close(&mut self, cx: &mut Context<'_>) {
        self.each(cx, |_| true, |_, _| Ok(Flow::Over));
        self.transfers.clear();
        self.files = Files::None;
        if let Some((timer, _)) = self.timer.take() {
            cx.cancel(timer);
        }
    }
}

/// Metadata that takes an answer to where the packet came from.
fn answer_to(chain: &Chain) -> Meta {
    let mut meta = Meta::EMPTY;
    meta.set_source(chain.meta().destination());
    meta.set_destination(chain.meta().source());
    meta.set_ingress(chain.meta().ingress());
    meta
}

fn ip(address: Address) -> Option<IpAddr> {
    match address {
        Address::Ip(end) => Some(end.ip()),
        _ => None,
    }
}

fn port_of(address: Address) -> Option<u16> {
    match address {
        Address::Ip(end) => Some(end.port()),
        _ => None,
    }
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

/// Whether both are of the same host, whatever the port.
fn same_host(one: Address, other: Address) -> bool {
    match (ip(one), ip(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}
