//! BLAKE3 of a file, from the hashes of its chunks.
//!
//! BLAKE3 is a tree: each chunk of 2^n KiB, at a multiple of its size, is a subtree, and its
//! *chaining value* is both what the chunk is verified by and what the file's hash is made from. So
//! every byte is hashed once, and the hash of the file is the one that `b3sum` prints.
//! (The BLAKE3 paper, section 2.1; `blake3::hazmat`.)

use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root},
};
use mbuf::io::store::Looked;

pub use blake3::Hash;

/// Bytes of zeroes, for holes.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// The hash of a chunk: its chaining value, and, for the first of a file, what the file's hash is
/// if there is no other chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkHash {
    pub(super) value: ChainingValue,
    alone: [u8; 32],
}

impl ChunkHash {
    /// Hashes the chunk at an offset, which is a multiple of the chunk size. Not empty.
    pub(super) fn of<'a>(offset: u64, pieces: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(offset);
        pieces.for_each(|piece| _ = hasher.update(piece));
        let value = hasher.finalize_non_root();
        let alone = if offset == 0 { hasher.finalize().into() } else { [0; 32] };
        Self { value, alone }
    }

    /// Hashes a chunk of zeroes.
    pub(super) fn of_zeroes(offset: u64, len: usize) -> Self {
        let whole = std::iter::repeat_n(&ZEROES[..], len / ZEROES.len());
        Self::of(offset, whole.chain([&ZEROES[..len % ZEROES.len()]]))
    }
}

/// [`ChunkHash::of`] for a store, which hashes while the bytes are in its cache.
pub(super) fn look(offset: u64, pieces: &mut dyn Iterator<Item = &[u8]>) -> Looked {
    let hash = ChunkHash::of(offset, pieces);
    let mut looked = [0; 64];
    looked[..32].copy_from_slice(&hash.value);
    looked[32..].copy_from_slice(&hash.alone);
    looked
}

impl From<Looked> for ChunkHash {
    fn from(looked: Looked) -> Self {
        let (mut value, mut alone) = ([0; 32], [0; 32]);
        value.copy_from_slice(&looked[..32]);
        alone.copy_from_slice(&looked[32..]);
        Self { value, alone }
    }
}

/// The hash of a file whose chunks come in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    /// Chaining values of subtrees that are complete, from the left: their sizes in chunks are the
    /// powers of two that `chunks` is the sum of, where the last merges are put off until it is
    /// known that there is more, since the topmost one is done differently.
    subtrees: Vec<ChainingValue>,
    chunks: u64,
    alone: Option<[u8; 32]>,
}

impl Tree {
    /// The next chunk. All but the last must be whole. O(1), amortised.
    pub(super) fn push(&mut self, hash: &ChunkHash) {
        if self.chunks == 0 {
            self.alone = Some(hash.alone);
        }
        while self.subtrees.len() > self.chunks.count_ones() as usize {
            self.merge();
        }
        self.subtrees.push(hash.value);
        self.chunks += 1;
    }

    /// The hash of the file, with nothing after what was pushed.
    pub(super) fn root(mut self) -> Hash {
        match (self.chunks, self.alone) {
            (0, _) => return blake3::hash(b""),
            (1, Some(alone)) => return alone.into(),
            _ => {}
        }
        while self.subtrees.len() > 2 {
            self.merge();
        }
        match self.subtrees[..] {
            [left, right] => merge_subtrees_root(&left, &right, Mode::Hash),
            _ => unreachable!("two chunks or more leave two subtrees or more"),
        }
    }

    fn merge(&mut self) {
        if let (Some(right), Some(left)) = (self.subtrees.pop(), self.subtrees.pop()) {
            self.subtrees.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }
}

/// The hash of a whole transfer: that of its file, if there is one only; else that of the lines
/// that `b3sum` prints for its files, in the order in which they were sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing {
    only: Option<Hash>,
    files: u64,
    lines: Hasher,
}

impl Listing {
    pub(super) fn add(&mut self, root: Hash, name: &str) {
        self.only = (self.files == 0).then_some(root);
        self.files += 1;
        self.lines.update(root.to_hex().as_bytes()).update(b"  ").update(name.as_bytes());
        self.lines.update(b"\n");
    }

    pub(super) fn root(&self) -> Hash {
        self.only.unwrap_or_else(|| self.lines.finalize())
    }
}

#[cfg(test)]
mod tests {
    use mbuf::testing::Rng;

    use super::*;

    #[test]
    fn chunk_hashes_in_order_give_the_hash_of_the_whole() {
        const CHUNK: usize = 1024;
        let bytes = Rng::new(1).bytes(40 * CHUNK + 100);
        let edges = (0..=40).flat_map(|n| [n * CHUNK, n * CHUNK + 1, n * CHUNK + 99]);
        for len in edges {
            let mut tree = Tree::default();
            for (n, chunk) in bytes[..len].chunks(CHUNK).enumerate() {
                let at = (n * CHUNK) as u64;
                let looked = look(at, &mut chunk.chunks(100));
                tree.push(&ChunkHash::from(looked));
            }
            assert_eq!(tree.root(), blake3::hash(&bytes[..len]), "{len} bytes");
        }
    }

    #[test]
    fn zeroes_hash_as_zeroes() {
        for len in [1, 65_535, 65_536, 200_000] {
            let mut tree = Tree::default();
            tree.push(&ChunkHash::of_zeroes(0, len));
            assert_eq!(tree.root(), blake3::hash(&vec![0; len]));
        }
    }

    #[test]
    fn the_listing_is_what_b3sum_prints() {
        let (a, b) = (blake3::hash(b"a"), blake3::hash(b"b"));
        let mut listing = Listing::default();
        listing.add(a, "x");
        assert_eq!(listing.root(), a);
        listing.add(b, "y/z");
        let lines = format!("{}  x\n{}  y/z\n", a.to_hex(), b.to_hex());
        assert_eq!(listing.root(), blake3::hash(lines.as_bytes()));
    }
}
