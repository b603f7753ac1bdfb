//! The sources and sinks that keep the contracts, and their peers.

#[cfg(feature = "capture")]
use std::collections::VecDeque;
use std::{
    cell::RefCell,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    rc::Rc,
};

use super::*;
#[cfg(feature = "capture")]
use crate::io::capture::{CaptureSink, CaptureSource, CaptureWriter, Interface, LinkType, Record};

pub(super) fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (here, listener.accept().unwrap().0)
}

pub(super) fn stream_source(stream: Stream, peer: impl Write + 'static) -> SourceCase {
    let fd = stream.as_fd().try_clone_to_owned().unwrap();
    let peer = Rc::new(RefCell::new(Some(peer)));
    let closer = peer.clone();
    SourceCase {
        source: Box::new(stream),
        ready: Box::new(move || wait(&fd, Interest::READABLE)),
        feed: Box::new(move |bytes| peer.borrow_mut().as_mut().unwrap().write_all(bytes).unwrap()),
        close: Some(Box::new(move || drop(closer.borrow_mut().take()))),
        packets: false,
        draws: true,
    }
}

pub(super) fn stream_sink(stream: Stream, peer: impl Read + 'static) -> SinkCase {
    let peer = Rc::new(RefCell::new(Some(peer)));
    let closer = peer.clone();
    let mut bytes = vec![0; 1 << 20];
    SinkCase {
        sink: Box::new(stream),
        destination: Address::None,
        take: Box::new(move || match peer.borrow_mut().as_mut().unwrap().read(&mut bytes) {
            Ok(n) => vec![bytes[..n].to_vec()],
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                Vec::new()
            }
        }),
        close: Some(Box::new(move || drop(closer.borrow_mut().take()))),
        packets: false,
    }
}

pub(super) fn udp_source(source: Datagram, peer: UdpSocket) -> SourceCase {
    let fd = source.as_fd().try_clone_to_owned().unwrap();
    let to = source.local_addr().unwrap();
    SourceCase {
        source: Box::new(source),
        ready: Box::new(move || wait(&fd, Interest::READABLE)),
        feed: Box::new(move |bytes| {
            assert_eq!(peer.send_to(bytes, to).unwrap(), bytes.len());
        }),
        close: None,
        packets: true,
        draws: true,
    }
}

pub(super) fn pipe_source(options: &PipeOptions, pool: &Pool) -> SourceCase {
    let (source, peer) = pipe(options);
    let peer = Rc::new(RefCell::new(Some(peer)));
    let (closer, pool) = (peer.clone(), pool.clone());
    SourceCase {
        source: Box::new(source),
        ready: Box::new(|| {}),
        feed: Box::new(move |bytes| {
            let mut queue = queue();
            queue.push(pool.chain_from(bytes).unwrap()).unwrap();
            let mut peer = peer.borrow_mut();
            assert_eq!(peer.as_mut().unwrap().send(&mut queue).unwrap(), Sent::All);
        }),
        close: Some(Box::new(move || drop(closer.borrow_mut().take()))),
        packets: options.packets,
        draws: false,
    }
}

pub(super) fn pipe_sink(options: &PipeOptions, pool: &Pool) -> SinkCase {
    let (sink, peer) = pipe(options);
    let peer = Rc::new(RefCell::new(Some(peer)));
    let closer = peer.clone();
    let receiver = pool.receiver();
    SinkCase {
        sink: Box::new(sink),
        destination: Address::None,
        take: Box::new(move || {
            let mut batch = Batch::new();
            peer.borrow_mut().as_mut().unwrap().recv(&receiver, &mut batch).unwrap();
            batch.drain().map(|chain| chain.to_vec().unwrap()).collect()
        }),
        close: Some(Box::new(move || drop(closer.borrow_mut().take()))),
        packets: options.packets,
    }
}

/// A sink whose other side the test keeps hold of.
impl<S: Sink> Sink for Rc<RefCell<S>> {
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent> {
        self.borrow_mut().send(queue)
    }

    fn is_starved(&self) -> bool {
        self.borrow().is_starved()
    }
}

impl Source for Rc<RefCell<Link>> {
    fn recv(&mut self, receiver: &Receiver, batch: &mut Batch) -> io::Result<Received> {
        self.borrow_mut().recv(receiver, batch)
    }
}

pub(super) fn link_source(link: Link, packets: bool, pool: &Pool) -> SourceCase {
    let link = Rc::new(RefCell::new(link));
    let (peer, closer, pool) = (link.clone(), link.clone(), pool.clone());
    SourceCase {
        source: Box::new(link),
        ready: Box::new(|| {}),
        feed: Box::new(move |bytes| {
            let mut queue = queue();
            queue.push(pool.chain_from(bytes).unwrap()).unwrap();
            send_all(&mut peer.clone(), &mut queue, || {});
        }),
        close: Some(Box::new(move || closer.borrow_mut().close())),
        packets,
        draws: true,
    }
}

pub(super) fn link_sink(link: Link, packets: bool, pool: &Pool) -> SinkCase {
    let link = Rc::new(RefCell::new(link));
    let (mut peer, closer, receiver) = (link.clone(), link.clone(), pool.receiver());
    SinkCase {
        sink: Box::new(link),
        destination: Address::None,
        take: Box::new(move || {
            let mut batch = Batch::new();
            peer.recv(&receiver, &mut batch).unwrap();
            batch.drain().map(|chain| chain.to_vec().unwrap()).collect()
        }),
        close: Some(Box::new(move || closer.borrow_mut().close())),
        packets,
    }
}

/// Over the sink that `make` puts before a collector.
pub(super) fn collecting<S: Sink + 'static>(
    make: impl FnOnce(Rc<RefCell<Collector>>) -> S,
    packets: bool,
) -> SinkCase {
    let collector = Rc::new(RefCell::new(Collector::new()));
    SinkCase {
        sink: Box::new(make(collector.clone())),
        destination: Address::None,
        take: Box::new(move || collector.take().packets().to_vec()),
        close: None,
        packets,
    }
}

/// What a plain socket of the standard library has, without waiting.
pub(super) fn take_datagrams(mut recv: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Vec<Vec<u8>> {
    let mut bytes = vec![0; 1 << 16];
    let mut packets = Vec::new();
    loop {
        match recv(&mut bytes) {
            Ok(n) => packets.push(bytes[..n].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return packets,
            Err(error) => panic!("recv: {error}"),
        }
    }
}

/// A file that a program appends to: what is there can be read, and then no more for now.
#[cfg(feature = "capture")]
#[derive(Clone, Default)]
struct Growing(Rc<RefCell<(VecDeque<u8>, bool)>>);

#[cfg(feature = "capture")]
impl Read for Growing {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (there, ended) = &mut *self.0.borrow_mut();
        if there.is_empty() && !*ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        there.read(bytes)
    }
}

#[cfg(feature = "capture")]
impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (there, ended) = &mut *self.0.borrow_mut();
        if *ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        there.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "capture")]
fn capture_writer(pcapng: bool, file: Growing) -> CaptureWriter<Growing> {
    let interface = Interface::new(LinkType::USER0, "test");
    if !pcapng {
        return CaptureWriter::pcap(file, interface).unwrap();
    }
    let mut writer = CaptureWriter::pcapng(file).unwrap();
    writer.interface(interface).unwrap();
    writer
}

#[cfg(feature = "capture")]
pub(super) fn capture_source(pcapng: bool, pool: &Pool) -> SourceCase {
    let file = Growing::default();
    let mut writer = capture_writer(pcapng, file.clone());
    let pool = pool.clone();
    SourceCase {
        source: Box::new(CaptureSource::new(file.clone(), "growing").unwrap()),
        ready: Box::new(|| {}),
        feed: Box::new(move |bytes| {
            writer.write(&Record::default(), &pool.chain_from(bytes).unwrap()).unwrap();
        }),
        close: Some(Box::new(move || file.0.borrow_mut().1 = true)),
        packets: true,
        draws: true,
    }
}

#[cfg(feature = "capture")]
pub(super) fn capture_sink(pcapng: bool, pool: &Pool) -> SinkCase {
    let file = Growing::default();
    let sink = CaptureSink::new(capture_writer(pcapng, file.clone()));
    let mut source = CaptureSource::new(file.clone(), "growing").unwrap();
    let receiver = pool.receiver();
    SinkCase {
        sink: Box::new(sink),
        destination: Address::None,
        take: Box::new(move || {
            let mut batch = Batch::new();
            source.recv(&receiver, &mut batch).unwrap();
            batch.drain().map(|chain| chain.to_vec().unwrap()).collect()
        }),
        close: Some(Box::new(move || file.0.borrow_mut().1 = true)),
        packets: true,
    }
}
