//! A file or folder that is to be sent.

use std::collections::VecDeque;

use mbuf::{
    Chain,
    io::store::{Attributes, FileNo, Name},
};

use crate::file::tree::{ChunkHash, Tree};

/// Reads of a stream that are asked for ahead: each is as long as there is a chunk of it, and
/// nobody knows which is the last.
const STREAM_READS: usize = 4;

#[derive(Debug)]
pub(super) struct Item {
    pub(super) no: FileNo,
    pub(super) stage: Stage,
    pub(super) name: Option<Name>,
    pub(super) attributes: Attributes,
    /// FILE was sent.
    pub(super) started: bool,
    /// Where the next read begins that is to be asked for.
    pub(super) asked: u64,
    /// What the reads weigh that the store has not answered, in order.
    pub(super) reads: VecDeque<usize>,
    /// Where the next piece begins that is to come.
    pub(super) arrived: u64,
    /// Pieces that came and were not sent.
    pub(super) ready: VecDeque<Piece>,
    pub(super) sent: u64,
    /// Of a stream: its end was found.
    pub(super) ended: bool,
    /// A read found no buffers.
    pub(super) again: bool,
    pub(super) closing: bool,
    pub(super) closed: bool,
    pub(super) tree: Tree,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The store was asked for it.
    Opening,
    File,
    Folder,
    Failed,
}

/// Bytes that were read.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: usize,
    /// What it counts of what is read ahead.
    pub(super) weight: usize,
    pub(super) footprint: usize,
    pub(super) hash: ChunkHash,
    /// None: a hole.
    pub(super) chain: Option<Chain>,
}

impl Item {
    pub(super) fn asked(no: FileNo) -> Self {
        Self {
            no,
            stage: Stage::Opening,
            name: None,
            attributes: Attributes::default(),
            started: false,
            asked: 0,
            reads: VecDeque::new(),
            arrived: 0,
            ready: VecDeque::new(),
            sent: 0,
            ended: false,
            again: false,
            closing: false,
            closed: false,
            tree: Tree::default(),
        }
    }

    /// How many bytes should be read next, if any.
    pub(super) fn wants(&self, chunk: usize) -> Option<usize> {
        if self.stage != Stage::File || self.again || self.ended {
            return None;
        }
        match self.attributes.length {
            None => (self.reads.len() < STREAM_READS).then_some(chunk),
            Some(length) => match length.saturating_sub(self.asked) {
                0 => None,
                rest => Some(rest.min(chunk as u64) as usize),
            },
        }
    }

    /// Whether it was read to its end, or was given up, and should be closed.
    pub(super) fn wants_close(&self) -> bool {
        let read = match self.stage {
            Stage::Opening | Stage::Folder => false,
            Stage::Failed => true,
            Stage::File => match self.attributes.length {
                None => self.ended,
                Some(length) => self.arrived == length,
            },
        };
        read && self.reads.is_empty() && !self.closing && !self.closed
    }

    /// Whether all of it came, and did not change meanwhile.
    pub(super) fn is_whole(&self) -> bool {
        self.closed && self.ready.is_empty()
    }

    /// Whether the store has answered everything.
    pub(super) fn is_idle(&self) -> bool {
        self.closed && self.reads.is_empty()
    }

    /// After a read that found no buffers: goes on where it stopped, once the later ones, which
    /// were not of use, have been answered.
    pub(super) fn ask_again(&mut self) {
        if self.again && self.reads.is_empty() {
            self.again = false;
            self.asked = self.arrived;
        }
    }
}
