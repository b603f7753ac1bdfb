//! How a pool is made.

#[cfg(feature = "census")]
use crate::pool::Census;
use crate::{
    class::Class,
    error::{BuildError, Result},
    pool::{
        Pool, Tables,
        memory::{Layout, Memory, Pages},
    },
};

/// The numbers that make a pool. See [`Pool::builder`].
#[derive(Debug, Clone)]
pub struct PoolBuilder {
    pub(super) name: String,
    pub(super) counts: [usize; 5],
    pub(super) headroom: usize,
    pub(super) reserve: u8,
    pub(super) low_water: u8,
    pub(super) zero_on_free: bool,
    pub(super) move_on_pullup: bool,
    pub(super) pages: Pages,
    #[cfg(feature = "census")]
    pub(super) on_close: Option<fn(&Census)>,
}

impl PoolBuilder {
    pub(super) fn new() -> Self {
        Self {
            name: "pool".into(),
            counts: [1024, 0, 0, 0, 0],
            headroom: 64,
            reserve: 10,
            low_water: 10,
            zero_on_free: false,
            move_on_pullup: false,
            pages: Pages::Plain,
            #[cfg(feature = "census")]
            on_close: None,
        }
    }

    /// The counts that divide about `bytes` bytes among the classes in the usual way.
    pub(super) fn sized(bytes: usize) -> Self {
        // Parts of 1,000: packets of up to 2 KiB are the most frequent, 64 KiB clusters are what
        // streams and GRO read into, and each segment of any kind needs a small mbuf.
        const PARTS: [(Class, usize); 5] = [
            (Class::Small, 200),
            (Class::K2, 250),
            (Class::K4, 100),
            (Class::K16, 150),
            (Class::K64, 300),
        ];
        PARTS.into_iter().fold(Self::new(), |builder, (class, part)| {
            builder.count(class, bytes / 1000 * part / class.size())
        })
    }

    /// The name that errors, events and statistics use. Default: `pool`.
    ///
    /// ```
    /// let error = mbuf::Pool::builder().name("rx").reserve(101).build().unwrap_err();
    /// assert_eq!(error.to_string(), "pool `rx`: reserve of 101 percent; at most 100");
    /// ```
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// How many buffers of a class there are. Default: 1,024 small mbufs and no clusters.
    ///
    /// Each segment of a chain is one small mbuf, whether its bytes lie in it or in a cluster, so
    /// there should be more small mbufs than clusters.
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::builder().count(Class::Small, 48).count(Class::K2, 16).build()?;
    /// assert_eq!(pool.stats().classes.map(|class| class.total), [48, 16, 0, 0, 0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn count(mut self, class: Class, buffers: usize) -> Self {
        self.counts[class.index()] = buffers;
        self
    }

    /// The room in bytes that [`Pool::chain`] leaves for headers. Default: 64. Above 128 a
    /// packet's first segment is a cluster.
    ///
    /// ```
    /// let pool = mbuf::Pool::builder().headroom(128).build()?;
    /// assert_eq!(pool.chain()?.headroom(), 128);
    /// let error = mbuf::Pool::builder().headroom(129).build().unwrap_err();
    /// assert!(error.to_string().ends_with("headroom of 129 bytes; its largest buffers hold 128"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn headroom(mut self, bytes: usize) -> Self {
        self.headroom = bytes;
        self
    }

    /// How much of each class receivers leave alone, in percent, so that receiving cannot starve
    /// sending. Default: 10.
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::builder().count(Class::Small, 10).reserve(30).build()?;
    /// let receiver = pool.receiver();
    /// let received: Vec<_> = (0..10).map_while(|_| receiver.chain().ok()).collect();
    /// assert_eq!(received.len(), 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve(mut self, percent: u8) -> Self {
        self.reserve = percent;
        self
    }

    /// Below how many free buffers of a class, in percent, the pool counts as low. Default: 10.
    ///
    /// ```
    /// use mbuf::{Batch, Class, Pool};
    ///
    /// let pool = Pool::builder().count(Class::Small, 100).low_water(50).build()?;
    /// let mut batch = Batch::new();
    /// pool.alloc_batch(60, &mut batch)?;
    /// assert!(pool.is_low());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn low_water(mut self, percent: u8) -> Self {
        self.low_water = percent;
        self
    }

    /// Whether memory is zeroed when it is freed, for payloads that are secret. Costs the writing
    /// of a whole buffer for each one freed. A buffer is freed by its last holder: bytes that were
    /// trimmed, or split off and dropped, stay in it (unreadable) until then. Default: no.
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::builder().count(Class::Small, 1).zero_on_free(true).build()?;
    /// drop(pool.chain_from(b"secret")?);
    /// let mut chain = pool.chain()?; // the same buffer: there is no other
    /// let mut vector = smallvec::SmallVec::<[libc::iovec; 1]>::new();
    /// chain.reserve_uninit(6)?.iovecs(&mut vector);
    /// // SAFETY: six bytes of room of a chain that is still there; they were zeroed.
    /// assert_eq!(unsafe { vector[0].iov_base.cast::<[u8; 6]>().read() }, [0; 6]);
    /// # drop(chain);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn zero_on_free(mut self, yes: bool) -> Self {
        self.zero_on_free = yes;
        self
    }

    /// A switch for tests: every pullup moves the bytes to another place, even where they are
    /// contiguous, so that nothing can rely on their staying. Default: no.
    ///
    /// ```
    /// let pool = mbuf::Pool::builder().move_on_pullup(true).build()?;
    /// let mut chain = pool.chain_from(b"bytes")?;
    /// let before = chain.slices()?.next().map(<[u8]>::as_ptr);
    /// assert_eq!(chain.pullup(5)?, b"bytes");
    /// assert_ne!(chain.slices()?.next().map(<[u8]>::as_ptr), before);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn move_on_pullup(mut self, yes: bool) -> Self {
        self.move_on_pullup = yes;
        self
    }

    /// The pages to be used. Default: [`Pages::Plain`].
    ///
    /// ```
    /// use mbuf::{Pool, pool::Pages};
    ///
    /// let pool = Pool::builder().pages(Pages::Plain).build()?;
    /// assert_eq!(pool.stats().pages, Pages::Plain); // what the system gave
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pages(mut self, pages: Pages) -> Self {
        self.pages = pages;
        self
    }

    /// Called when the last handle is dropped while buffers are still out, beside the warning
    /// event, on the thread that drops it. Chains may outlive the handles, so this need not be a
    /// leak. With the feature `census` only.
    ///
    /// ```
    /// let pool = mbuf::Pool::builder().on_close(|census| eprintln!("{census}")).build()?;
    /// let chain = pool.chain()?;
    /// drop(pool); // pool `pool`: 1 buffers (256 bytes) still out ...
    /// # drop(chain);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "census")]
    pub fn on_close(mut self, hook: fn(&Census)) -> Self {
        self.on_close = Some(hook);
        self
    }

    /// Maps the memory and makes the pool. The memory is not touched, so it is not resident before
    /// it is used (save with explicit huge pages).
    ///
    /// # Errors
    /// [`BuildError::Pool`] for numbers that make no pool or overflow the address space,
    /// [`BuildError::Map`] where the system refuses the mapping.
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::builder().count(Class::Small, 64).build()?;
    /// assert_eq!(pool.stats().class(Class::Small).free, 64);
    /// let error = Pool::builder().count(Class::Small, 0).build().unwrap_err();
    /// assert_eq!(error.to_string(), "pool `pool`: it needs at least one small mbuf");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build(self) -> Result<Pool, BuildError> {
        let refuse = |reason: String| BuildError::Pool { pool: self.name.clone(), reason };
        if self.counts[0] == 0 {
            return Err(refuse("it needs at least one small mbuf".into()));
        }
        for (what, percent) in [("reserve", self.reserve), ("low_water", self.low_water)] {
            if percent > 100 {
                return Err(refuse(format!("{what} of {percent} percent; at most 100")));
            }
        }
        let largest = Class::ALL
            .into_iter()
            .filter(|class| self.counts[class.index()] > 0)
            .map(Class::data_len)
            .fold(0, usize::max);
        if self.headroom > largest {
            let headroom = self.headroom;
            return Err(refuse(format!(
                "headroom of {headroom} bytes; its largest buffers hold {largest}"
            )));
        }
        let Some(layout) = Layout::new(self.counts) else {
            let count = |class: Class| format!("{} x {class}", self.counts[class.index()]);
            let counts = Class::ALL.map(count).join(", ");
            return Err(refuse(format!("{counts}: more than an address space holds")));
        };
        let memory = match Memory::map(&self.name, layout.len, self.pages) {
            Ok(memory) => memory,
            Err(error) => {
                return Err(BuildError::Map { pool: self.name, bytes: layout.len, error });
            }
        };
        let Ok(tables) = Tables::new(&layout, self.counts) else {
            let buffers = self.counts.iter().fold(0, |sum: usize, n| sum.saturating_add(*n));
            return Err(refuse(format!("no memory for the tables of {buffers} buffers")));
        };
        Ok(Pool::new(self, layout, memory, tables))
    }
}
