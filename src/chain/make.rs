//! Where chains come from: a pool, or a receiver, makes them.

use std::ops::RangeBounds;

use super::{Chain, MAX_LEN};
use crate::{
    error::{Error, Rejected, Result},
    mbuf::{
        Run,
        external::{self, External, ExternalMut, Opaque},
    },
    pool::{Alloc, Class, Inner, Pool, Receiver},
    queue::Batch,
};

impl Pool {
    /// An empty chain with the pool's headroom. O(1).
    ///
    /// # Errors
    /// [`Error::NoBuffers`].
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain()?;
    /// assert_eq!((chain.len(), chain.headroom()), (0, 64));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn chain(&self) -> Result<Chain> {
        self.chain_with_headroom(self.headroom())
    }

    /// An empty chain with room for `headroom` bytes of headers. Above 128 bytes its first segment
    /// is a cluster. O(1).
    ///
    /// # Errors
    /// [`Error::NoBuffers`]; [`Error::TooLong`] above 64 KiB.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// assert_eq!(pool.chain_with_headroom(100)?.headroom(), 100);
    /// assert_eq!(pool.chain_with_headroom(1000)?.headroom(), 1000); // in a cluster
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn chain_with_headroom(&self, headroom: usize) -> Result<Chain> {
        empty(self.inner(), headroom)
    }

    /// An empty chain whose bytes go to one buffer of `class`, behind `headroom` bytes of room
    /// (clamped to what the buffer holds). O(1).
    ///
    /// # Errors
    /// [`Error::NoBuffers`].
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_in(Class::K2, 64)?;
    /// assert_eq!((chain.headroom(), chain.tailroom()), (64, 1984));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn chain_in(&self, class: Class, headroom: usize) -> Result<Chain> {
        Ok(Chain::from_run(Run::alloc(self.inner(), class, headroom)?))
    }

    /// A chain that holds a copy of `bytes`, in as few segments as the classes allow, behind the
    /// pool's headroom.
    ///
    /// # Errors
    /// [`Error::NoBuffers`], [`Error::TooLong`] above 4 GiB: nothing is taken.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_from(&[7; 3000])?;
    /// assert_eq!((chain.to_vec()?, chain.segments()), (vec![7; 3000], 1));
    /// assert_eq!(chain.headroom(), pool.headroom());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn chain_from(&self, bytes: &[u8]) -> Result<Chain> {
        let mut chain = self.chain_for(bytes.len())?;
        chain.extend_from_slice(bytes)?;
        Ok(chain)
    }

    /// A chain of `len` zeroed bytes, in as few segments as the classes allow, behind the pool's
    /// headroom.
    ///
    /// # Errors
    /// As [`Pool::chain_from`].
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// assert_eq!(pool.chain_zeroed(1000)?.to_vec()?, [0; 1000]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn chain_zeroed(&self, len: usize) -> Result<Chain> {
        let mut chain = self.chain_for(len)?;
        chain.append(len)?;
        Ok(chain)
    }

    /// An empty chain that will hold `len` bytes in its first segment if one segment can.
    #[cfg_attr(feature = "census", track_caller)]
    fn chain_for(&self, len: usize) -> Result<Chain> {
        // A length that no chain could hold must not first cost a cluster.
        if len > MAX_LEN {
            return Err(Error::TooLong { wanted: len, max: MAX_LEN });
        }
        Ok(Chain::from_run(Run::alloc_first(self.inner(), len, self.headroom())?))
    }

    /// `n` empty chains with the pool's headroom: all, or none.
    ///
    /// # Errors
    /// [`Error::NoBuffers`]: the batch is as it was.
    ///
    /// ```
    /// use mbuf::{Batch, Class, Error, Pool};
    ///
    /// let pool = Pool::builder().count(Class::Small, 8).build()?;
    /// let mut batch = Batch::new();
    /// pool.alloc_batch(6, &mut batch)?;
    /// let error = Error::NoBuffers { class: Class::Small };
    /// assert_eq!(pool.alloc_batch(3, &mut batch), Err(error)); // 2 are left: none is taken
    /// assert_eq!((batch.len(), pool.stats().in_use()), (6, 6));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn alloc_batch(&self, n: usize, batch: &mut Batch) -> Result<()> {
        match self.headroom() {
            headroom if headroom <= Class::Small.data_len() => {
                self.alloc_batch_in(Class::Small, headroom, n, batch)
            }
            headroom => {
                let class = self.inner().available(Class::for_len(headroom))?;
                self.alloc_batch_in(class, headroom, n, batch)
            }
        }
    }

    /// `n` empty chains like those of [`Pool::chain_in`]: all, or none.
    ///
    /// # Errors
    /// [`Error::NoBuffers`]: the batch is as it was.
    ///
    /// ```
    /// use mbuf::{Batch, Class, Pool};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let mut batch = Batch::new();
    /// pool.alloc_batch_in(Class::K2, 64, 32, &mut batch)?;
    /// assert!(batch.iter().all(|chain| chain.tailroom() == 1984));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn alloc_batch_in(
        &self,
        class: Class,
        headroom: usize,
        n: usize,
        batch: &mut Batch,
    ) -> Result<()> {
        alloc_batch(self.inner(), class, headroom, n, batch)
    }

    /// A chain over bytes that someone else owns, read-only, without copying them. One heap
    /// allocation an owner. `owner.as_ref()` is called once; the owner is dropped when the last
    /// chain over its bytes is, on whichever thread that is.
    ///
    /// # Errors
    /// [`Error::NoBuffers`]; [`Error::TooShort`] where the range reaches past the bytes;
    /// [`Error::TooLong`] above 4 GiB. All give the owner back.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.attach(vec![7; 100_000], 10..).map_err(|rejected| rejected.error)?;
    /// assert_eq!((chain.len(), chain.segments()), (99_990, 1));
    /// chain.push(b"head")?; // goes to a small mbuf before them
    /// assert_eq!(chain.segments(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn attach<O>(&self, owner: O, range: impl RangeBounds<usize>) -> Result<Chain, Rejected<O>>
    where
        O: AsRef<[u8]> + Send + Sync + 'static,
    {
        self.attach_external(External::shared(owner), range)
    }

    /// As [`Pool::attach`], for an owner whose bytes may be written through the chain.
    ///
    /// # Errors
    /// As [`Pool::attach`].
    ///
    /// ```
    /// struct Mine(Vec<u8>);
    ///
    /// // SAFETY: nobody but the chain reaches the vector, which is never resized.
    /// unsafe impl mbuf::chain::ExternalMut for Mine {
    ///     fn as_mut_slice(&mut self) -> &mut [u8] {
    ///         &mut self.0
    ///     }
    /// }
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let owner = Mine(vec![7; 100_000]);
    /// let mut chain = pool.attach_mut(owner, ..).map_err(|rejected| rejected.error)?;
    /// assert!(chain.is_writable());
    /// chain.copy_back(0, &[8])?; // in place: no cluster is taken
    /// assert_eq!((chain.to_vec()?[0], pool.stats().in_use()), (8, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn attach_mut<O: ExternalMut>(
        &self,
        owner: O,
        range: impl RangeBounds<usize>,
    ) -> Result<Chain, Rejected<O>> {
        self.attach_external(External::writable(owner), range)
    }

    /// A chain over memory that only system calls may read: a mapped file, which others may change
    /// or cut short at any time. What is wanted in user space is copied by [`Opaque::read_at`].
    ///
    /// # Errors
    /// As [`Pool::attach`].
    ///
    /// ```
    /// use mbuf::io::MappedFile;
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// # let path = std::env::temp_dir().join(format!("mbuf-doc-{}", std::process::id()));
    /// # std::fs::write(&path, "a file's bytes")?;
    /// let file = MappedFile::open(&path)?;
    /// # std::fs::remove_file(&path)?;
    /// let mut chain = pool.attach_opaque(file, 2..).map_err(|rejected| rejected.error)?;
    /// assert_eq!(chain.slices().unwrap_err(), mbuf::Error::Opaque { offset: 0 });
    /// assert_eq!(chain.pullup(6)?, b"file's"); // copies them
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn attach_opaque<O: Opaque>(
        &self,
        owner: O,
        range: impl RangeBounds<usize>,
    ) -> Result<Chain, Rejected<O>> {
        self.attach_external(External::opaque(owner), range)
    }

    #[cfg_attr(feature = "census", track_caller)]
    fn attach_external<O>(
        &self,
        external: External<O>,
        range: impl RangeBounds<usize>,
    ) -> Result<Chain, Rejected<O>> {
        // No closure: it would be the place that the census shows.
        let range = match external::resolve(&range, external.len()) {
            Ok(range) => range,
            Err(error) => return Err(Rejected::new(external.into_owner(), error)),
        };
        match Run::alloc(self.inner(), Class::Small, 0) {
            Ok(mut run) => {
                run.attach(external, range);
                Ok(Chain::from_run(run))
            }
            Err(error) => Err(Rejected::new(external.into_owner(), error)),
        }
    }
}

impl Receiver {
    /// As [`Pool::chain`].
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::builder().count(Class::Small, 100).build()?;
    /// let receiver = pool.receiver();
    /// let received: Vec<_> = (0..100).map_while(|_| receiver.chain().ok()).collect();
    /// assert_eq!(received.len(), 90); // the reserve is for whoever answers
    /// assert!(pool.chain().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn chain(&self) -> Result<Chain> {
        empty(self, self.pool().headroom())
    }

    /// As [`Pool::chain_in`].
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let chain = pool.receiver().chain_in(Class::K4, 96)?;
    /// assert_eq!((chain.headroom(), chain.tailroom()), (96, 4000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn chain_in(&self, class: Class, headroom: usize) -> Result<Chain> {
        Ok(Chain::from_run(Run::alloc(self, class, headroom)?))
    }
}

/// As [`Pool::alloc_batch_in`].
#[cfg_attr(feature = "census", track_caller)]
pub(super) fn alloc_batch(
    pool: &Inner,
    class: Class,
    headroom: usize,
    n: usize,
    batch: &mut Batch,
) -> Result<()> {
    for class in [Class::Small, class] {
        if n > pool.total(class) {
            return Err(Error::NoBuffers { class });
        }
    }
    let chains = batch.reserve(n);
    let before = chains.len();
    let mut left = n;
    while left > 0 {
        left -= Run::alloc_cached(pool, class, headroom, left, chains, Chain::from_run);
        if left == 0 {
            break;
        }
        // Which also fills the cache.
        match Run::alloc(pool, class, headroom) {
            Ok(run) => chains.push(Chain::from_run(run)),
            Err(error) => {
                chains.truncate(before);
                return Err(error);
            }
        }
        left -= 1;
    }
    Ok(())
}

#[inline(always)]
#[cfg_attr(feature = "census", track_caller)]
fn empty(alloc: &impl Alloc, headroom: usize) -> Result<Chain> {
    if headroom <= Class::Small.data_len() {
        return Ok(Chain::from_run(Run::alloc(alloc, Class::Small, headroom)?));
    }
    empty_in_cluster(alloc, headroom)
}

#[cold]
#[cfg_attr(feature = "census", track_caller)]
fn empty_in_cluster(alloc: &impl Alloc, headroom: usize) -> Result<Chain> {
    let max = Class::K64.data_len();
    if headroom > max {
        return Err(Error::TooLong { wanted: headroom, max });
    }
    let class = alloc.available(Class::for_len(headroom))?;
    Ok(Chain::from_run(Run::alloc(alloc, class, headroom)?))
}
