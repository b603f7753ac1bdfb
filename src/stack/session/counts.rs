//! How many sessions there are.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many sessions there are and were. Read from any thread; the figures are of one moment each.
#[derive(Debug, Default)]
pub struct SessionCounts {
    pub(super) live: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) ended: AtomicU64,
    pub(super) idle: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl SessionCounts {
    /// Sessions now.
    ///
    /// ```
    #[doc = include_str!("../example.in")]
    /// let make = |_: &_, pool: &Pool| {
    ///     Stack::pile(pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])
    /// };
    /// let sessions = mbuf::stack::Sessions::new(make);
    /// let counts = sessions.counts();
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)])?;
    /// for peer in ["192.0.2.1:7", "192.0.2.2:7"] {
    ///     let mut chain = pool.chain()?;
    ///     chain.meta_mut().set_source(mbuf::meta::Address::Ip(peer.parse()?));
    ///     stack.input_one(PORT, chain);
    /// }
    /// assert_eq!(counts.live(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn live(&self) -> u64 {
        self.live.load(Relaxed)
    }

    /// Sessions that ever began.
    ///
    /// ```
    #[doc = include_str!("../example.in")]
    /// let make = |_: &_, pool: &Pool| {
    ///     Stack::pile(pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])
    /// };
    /// let sessions = mbuf::stack::Sessions::new(make).max_sessions(1);
    /// let counts = sessions.counts();
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)])?;
    /// for peer in ["192.0.2.1:7", "192.0.2.2:7"] {
    ///     let mut chain = pool.chain()?;
    ///     chain.meta_mut().set_source(mbuf::meta::Address::Ip(peer.parse()?));
    ///     stack.input_one(PORT, chain);
    /// }
    /// assert_eq!((counts.opened(), counts.live()), (2, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Sessions that ended by themselves.
    ///
    /// ```
    #[doc = include_str!("../example.in")]
    /// let once = |_: &_, pool: &Pool| {
    ///     let answer = |chain, cx: &mut Context<'_>| {
    ///         cx.close(); // this was all
    ///         cx.consumed(chain)
    ///     };
    ///     Stack::pile(pool, Edge::Packets, vec![layer(answer)])
    /// };
    /// let sessions = mbuf::stack::Sessions::new(once);
    /// let counts = sessions.counts();
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)])?;
    /// let mut chain = pool.chain()?;
    /// chain.meta_mut().set_source(mbuf::meta::Address::Ip("192.0.2.1:7".parse()?));
    /// stack.input_one(PORT, chain);
    /// assert_eq!((counts.ended(), counts.live()), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ended(&self) -> u64 {
        self.ended.load(Relaxed)
    }

    /// Sessions that ended because nothing came from the peer for too long.
    ///
    /// ```
    #[doc = include_str!("../example.in")]
    /// let make = |_: &_, pool: &Pool| {
    ///     Stack::pile(pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])
    /// };
    /// let sessions = mbuf::stack::Sessions::new(make).idle(Duration::from_secs(1));
    /// let counts = sessions.counts();
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)])?;
    /// for peer in ["192.0.2.1:7", "192.0.2.2:7"] {
    ///     let mut chain = pool.chain()?;
    ///     chain.meta_mut().set_source(mbuf::meta::Address::Ip(peer.parse()?));
    ///     stack.input_one(PORT, chain);
    /// }
    /// stack.advance(Time::from_millis(1000));
    /// assert_eq!((counts.idle(), counts.live()), (2, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn idle(&self) -> u64 {
        self.idle.load(Relaxed)
    }

    /// Sessions that had to go because there were too many, or because they held too much.
    ///
    /// ```
    #[doc = include_str!("../example.in")]
    /// let make = |_: &_, pool: &Pool| {
    ///     Stack::pile(pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])
    /// };
    /// let sessions = mbuf::stack::Sessions::new(make).max_sessions(1);
    /// let counts = sessions.counts();
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)])?;
    /// for peer in ["192.0.2.1:7", "192.0.2.2:7"] {
    ///     let mut chain = pool.chain()?;
    ///     chain.meta_mut().set_source(mbuf::meta::Address::Ip(peer.parse()?));
    ///     stack.input_one(PORT, chain);
    /// }
    /// assert_eq!(counts.evicted(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// Times that the factory made no stack.
    ///
    /// ```
    #[doc = include_str!("../example.in")]
    /// let nothing = |_: &_, pool: &Pool| Stack::builder(pool).build(); // no layer, no port
    /// let sessions = mbuf::stack::Sessions::new(nothing);
    /// let counts = sessions.counts();
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)])?;
    /// let mut chain = pool.chain()?;
    /// chain.meta_mut().set_source(mbuf::meta::Address::Ip("192.0.2.1:7".parse()?));
    /// stack.input_one(PORT, chain);
    /// assert_eq!(counts.refused(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}
