//! A pipe in memory: what one end sends, the other receives, without a system call or a copy.
//!
//! A pipe carries bytes, as a stream socket does, or packets, as a datagram socket does. Chains
//! cross it as they are, so what is received still belongs to the sender's pool. It is for tests,
//! for examples, and for two stacks in one program.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    chain::Chain,
    io::{Received, Sent, Sink, Source},
    pool::Receiver,
    queue::{Batch, Queue},
};

/// How a pipe is set up, the same in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipeOptions {
    /// Whether each chain arrives as it was sent; otherwise the bytes do, in whatever pieces.
    pub packets: bool,
    /// The most bytes in transit one way: 64 KiB by default.
    pub bytes: usize,
    /// The most chains in transit one way: 1,024 by default.
    pub chains: usize,
    /// Stream pipes only: the most bytes that one receive brings; no limit by default. Cut at 1,
    /// a stack sees each byte alone.
    pub cut: usize,
}

impl Default for PipeOptions {
    fn default() -> Self {
        Self { packets: false, bytes: 64 << 10, chains: 1024, cut: usize::MAX }
    }
}

impl PipeOptions {
    /// A pipe that carries packets.
    ///
    /// ```
    /// use mbuf::io::PipeOptions;
    ///
    /// assert!(PipeOptions::packets().packets && !PipeOptions::default().packets);
    /// ```
    pub fn packets() -> Self {
        Self { packets: true, ..Self::default() }
    }
}

/// One end of a pipe. Dropping it closes it: the other end receives what is in transit and then
/// `Closed`, and its sends fail with `BrokenPipe`.
pub struct Pipe {
    options: PipeOptions,
    incoming: Arc<Mutex<Lane>>,
    outgoing: Arc<Mutex<Lane>>,
}

/// One direction.
#[derive(Debug, Default)]
struct Lane {
    chains: VecDeque<Chain>,
    bytes: usize,
    /// The sender will send nothing more.
    ended: bool,
    /// The receiver will take nothing more.
    refused: bool,
}

/// Two ends of a new pipe.
///
/// ```
/// use mbuf::{Batch, Pool, Queue, io::{PipeOptions, Received, Sent, Sink, Source, pipe}};
///
/// let pool = Pool::with_memory(4 << 20)?;
/// let (mut here, mut there) = pipe(&PipeOptions { cut: 3, ..PipeOptions::default() });
/// let mut queue = Queue::new(16, 1 << 20);
/// queue.push(pool.chain_from(b"hello")?).map_err(mbuf::Error::from)?;
/// assert_eq!(here.send(&mut queue)?, Sent::All);
/// drop(here);
///
/// let (receiver, mut batch) = (pool.receiver(), Batch::new());
/// assert_eq!(there.recv(&receiver, &mut batch)?, Received::Chains(1));
/// assert_eq!(batch.pop().unwrap().to_vec()?, b"hel");
/// assert_eq!(there.recv(&receiver, &mut batch)?, Received::Chains(1));
/// assert_eq!(there.recv(&receiver, &mut batch)?, Received::Closed);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pipe(options: &PipeOptions) -> (Pipe, Pipe) {
    let lanes = [(); 2].map(|()| Arc::new(Mutex::new(Lane::default())));
    let [there, back] = lanes;
    let options = PipeOptions {
        bytes: options.bytes.max(1),
        chains: options.chains.max(1),
        cut: options.cut.max(1),
        ..options.clone()
    };
    let one = Pipe { options: options.clone(), incoming: back.clone(), outgoing: there.clone() };
    let other = Pipe { options, incoming: there, outgoing: back };
    (one, other)
}

impl Pipe {
    /// Tells the other end that nothing more will come.
    ///
    /// ```
    /// use mbuf::{Batch, Pool, io::{PipeOptions, Received, Source, pipe}};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let (mut here, mut there) = pipe(&PipeOptions::default());
    /// here.shutdown_write();
    /// assert_eq!(there.recv(&pool.receiver(), &mut Batch::new())?, Received::Closed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shutdown_write(&mut self) {
        lock(&self.outgoing).ended = true;
    }

    /// Bytes that this end has sent and the other has not received.
    ///
    /// ```
    /// use mbuf::{Pool, Queue, io::{PipeOptions, Sink, pipe}};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let (mut here, _there) = pipe(&PipeOptions::default());
    /// let mut queue = Queue::new(16, 1 << 20);
    /// queue.push(pool.chain_from(b"hello")?)?;
    /// here.send(&mut queue)?;
    /// assert_eq!(here.in_transit(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_transit(&self) -> usize {
        lock(&self.outgoing).bytes
    }
}

impl Source for Pipe {
    /// Packets: as many as there are, up to `batch.room()`. Bytes: one chain, of at most `cut`
    /// bytes. `NoBuffers` if a chain cannot be cut.
    fn recv(&mut self, _receiver: &Receiver, batch: &mut Batch) -> io::Result<Received> {
        let lane = &mut *lock(&self.incoming);
        let most = if self.options.packets { batch.room().max(1) } else { 1 };
        let mut count = 0;
        while count < most {
            let Some(mut chain) = lane.chains.pop_front() else { break };
            if !self.options.packets && chain.len() > self.options.cut {
                match chain.split_off(self.options.cut) {
                    Ok(rest) => lane.chains.push_front(rest),
                    Err(_) => {
                        lane.chains.push_front(chain);
                        return Ok(Received::NoBuffers);
                    }
                }
            }
            lane.bytes -= chain.len();
            batch.push(chain);
            count += 1;
        }
        Ok(match count {
            0 if lane.ended => Received::Closed,
            0 => Received::WouldBlock,
            count => Received::Chains(count),
        })
    }
}

impl Sink for Pipe {
    /// Moves chains, as long as there is room. Bytes: the last chain is cut where the room ends. A
    /// packet larger than the whole pipe crosses it alone.
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent> {
        let lane = &mut *lock(&self.outgoing);
        if lane.refused || lane.ended {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "send to a pipe that is closed"));
        }
        while let Some(first) = queue.front() {
            if !self.options.packets && first.is_empty() {
                queue.pop();
                continue;
            }
            let room = self.options.bytes.saturating_sub(lane.bytes);
            let alone = self.options.packets && lane.chains.is_empty();
            let whole = first.len() <= room || alone;
            if lane.chains.len() >= self.options.chains
                || !whole && (self.options.packets || room == 0)
            {
                return Ok(Sent::WouldBlock);
            }
            let chain = if whole { queue.pop() } else { Some(share_front(queue, room)?) };
            let Some(chain) = chain else { break };
            lane.bytes += chain.len();
            lane.chains.push_back(chain);
        }
        Ok(Sent::All)
    }
}

/// The first `n` bytes of the queue's first chain, which is longer; they leave the queue.
fn share_front(queue: &mut Queue, n: usize) -> io::Result<Chain> {
    let mut front = None;
    queue.for_each_mut(|chain| {
        // The rest stays in the queue, so it is the front that changes places.
        front = Some(chain.split_off(n).map(|rest| std::mem::replace(chain, rest)));
        false
    });
    match front {
        Some(front) => Ok(front?),
        None => Err(io::ErrorKind::InvalidInput.into()),
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe")
            .field("options", &self.options)
            .field("incoming", &lock(&self.incoming))
            .field("outgoing", &lock(&self.outgoing))
            .finish()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        lock(&self.outgoing).ended = true;
        let mut incoming = lock(&self.incoming);
        incoming.refused = true;
        incoming.bytes = 0;
        let chains = std::mem::take(&mut incoming.chains);
        drop(incoming);
        drop(chains);
    }
}

/// A panic elsewhere leaves a lane as it was between two chains, which is as good as any state.
fn lock(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tests::{bytes_of, pattern, pool, queue};

    #[test]
    fn bytes_cross_in_every_cut_and_room() {
        let pool = pool();
        let receiver = pool.receiver();
        let bytes = pattern(1, 30);
        for cut in 1..=12 {
            for room in 1..=12 {
                let options = PipeOptions { cut, bytes: room, ..PipeOptions::default() };
                let (mut here, mut there) = pipe(&options);
                let (mut queue, mut batch) = (queue(), Batch::new());
                queue.push(pool.chain_from(&bytes[..7]).unwrap()).unwrap();
                queue.push(pool.chain().unwrap()).unwrap();
                queue.push(pool.chain_from(&bytes[7..]).unwrap()).unwrap();
                while here.send(&mut queue).unwrap() == Sent::WouldBlock {
                    assert!(here.in_transit() <= room);
                    assert_eq!(there.recv(&receiver, &mut batch).unwrap(), Received::Chains(1));
                }
                while there.recv(&receiver, &mut batch).unwrap() == Received::Chains(1) {}
                assert!(batch.iter().all(|chain| chain.len() <= cut));
                assert_eq!(bytes_of(batch.iter()), bytes, "cut {cut}, room {room}");
                assert_eq!(here.in_transit(), 0);
            }
        }
        assert_eq!(pool.stats().in_use(), 0);
    }

    #[test]
    fn packets_cross_whole_with_their_metadata() {
        let pool = pool();
        let receiver = pool.receiver();
        let options = PipeOptions { bytes: 100, chains: 2, ..PipeOptions::packets() };
        let (mut here, mut there) = pipe(&options);
        let (mut queue, mut batch) = (queue(), Batch::new());
        for len in [0, 60, 60, 500, 0] {
            let mut chain = pool.chain_from(&pattern(len, len)).unwrap();
            chain.meta_mut().set_ingress(len as u16);
            queue.push(chain).unwrap();
        }
        // Two chains; then one, since two are more than 100 bytes; then one that is longer than the
        // pipe, and an empty one, which takes no room.
        for left in [3, 2] {
            assert_eq!(here.send(&mut queue).unwrap(), Sent::WouldBlock);
            assert_eq!(queue.len(), left);
            while there.recv(&receiver, &mut batch).unwrap() != Received::WouldBlock {}
        }
        assert_eq!(here.send(&mut queue).unwrap(), Sent::All);
        here.shutdown_write();
        assert!(here.send(&mut queue).is_err());
        assert_eq!(there.recv(&receiver, &mut batch).unwrap(), Received::Chains(2));
        assert_eq!(there.recv(&receiver, &mut batch).unwrap(), Received::Closed);
        let got: Vec<_> = batch.iter().map(|chain| chain.meta().ingress() as usize).collect();
        assert_eq!(got, [0, 60, 60, 500, 0]);
        assert!(
            batch.iter().all(|chain| chain.to_vec().unwrap() == pattern(chain.len(), chain.len()))
        );
    }

    #[test]
    fn an_end_that_is_dropped_gives_back_what_was_on_its_way() {
        let pool = pool();
        let receiver = pool.receiver();
        let (mut here, there) = pipe(&PipeOptions::default());
        let mut queue = queue();
        queue.push(pool.chain_from(b"lost").unwrap()).unwrap();
        assert_eq!(here.send(&mut queue).unwrap(), Sent::All);
        drop(there);
        assert_eq!(pool.stats().in_use(), 0);
        queue.push(pool.chain_from(b"kept").unwrap()).unwrap();
        let error = here.send(&mut queue).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(queue.bytes(), 4);
        assert_eq!(here.recv(&receiver, &mut Batch::new()).unwrap(), Received::Closed);
    }
}
