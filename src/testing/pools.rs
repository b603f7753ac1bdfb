//! Pools for tests, and what is asked of them.

use crate::{
    chain::Chain,
    pool::{Class, Pool, PoolBuilder},
};

/// A pool for tests: 4,096 small mbufs, 256 clusters of 2 KiB and some of each larger class
/// (about 3 MiB), with the switch that moves the bytes to another place at every pullup. Whoever
/// counts on bytes that stay where they were is found out.
///
/// ```
/// use mbuf::{Class, testing::pool};
///
/// let pool = pool();
/// assert!(Class::ALL.iter().all(|&class| pool.stats().class(class).total > 0));
/// ```
///
/// # Panics
/// If the system refuses the memory.
pub fn pool() -> Pool {
    finish(usual("test").move_on_pullup(true))
}

/// As [`pool`], without the switch: as in production.
///
/// # Panics
/// If the system refuses the memory.
pub fn plain_pool() -> Pool {
    finish(usual("plain test"))
}

/// A pool that is quickly drained, for tests that do so at every allocation.
pub(crate) fn little_pool() -> Pool {
    finish(
        Pool::builder()
            .name("little test")
            .count(Class::Small, 1024)
            .count(Class::K2, 32)
            .count(Class::K4, 8)
            .count(Class::K16, 4)
            .count(Class::K64, 2),
    )
}

/// Writes `pattern` over all of the pool's free memory, so that whatever shows old contents
/// shows the pattern. Two runs in pools with different patterns must give the same bytes.
///
/// What other threads have in their caches is not reached. Not for a pool with `zero_on_free`,
/// where it has no effect.
///
/// ```
/// use mbuf::testing::{assert_all_free, dirty, plain_pool};
///
/// let pool = plain_pool();
/// dirty(&pool, 0xa5);
/// assert_eq!(pool.chain_zeroed(3)?.to_vec()?, [0, 0, 0]);
/// assert_all_free(&pool);
/// # Ok::<(), mbuf::Error>(())
/// ```
pub fn dirty(pool: &Pool, pattern: u8) {
    let largest = Class::ALL.map(Class::data_len).into_iter().max().unwrap_or(0);
    let fill = vec![pattern; largest];
    let mut all = Vec::new();
    for class in Class::ALL.into_iter().rev() {
        while let Ok(mut chain) = take(pool, class) {
            overwrite(&mut chain, &fill);
            all.push(chain);
        }
    }
}

/// Buffers that chains hold, by class in the order of [`Class::ALL`]. All zero means that
/// nothing has leaked; equal before and after means "unchanged".
///
/// ```
/// use mbuf::testing::{level, plain_pool};
///
/// let pool = plain_pool();
/// let chain = pool.chain_from(b"in a small mbuf")?;
/// assert_eq!(level(&pool)[0], 1);
/// drop(chain);
/// assert_eq!(level(&pool), [0; 5]);
/// # Ok::<(), mbuf::Error>(())
/// ```
pub fn level(pool: &Pool) -> [usize; 5] {
    pool.stats().classes.map(|class| class.in_use)
}

/// # Panics
/// If chains still hold buffers of the pool, with their number by class.
#[track_caller]
pub fn assert_all_free(pool: &Pool) {
    let level = level(pool);
    assert_eq!(
        level,
        [0; 5],
        "pool `{}` has buffers in use, by class {:?}",
        pool.name(),
        Class::ALL.map(|class| class.to_string())
    );
}

/// An empty chain of one buffer of that class; for a small mbuf the pool's headroom does not
/// matter, for it may be more than a small mbuf has room for.
pub(crate) fn take(pool: &Pool, class: Class) -> crate::Result<Chain> {
    match class {
        Class::Small => pool.chain_with_headroom(0),
        _ => pool.chain_in(class, 0),
    }
}

/// Storage in use, in bytes, as the pool sees it.
pub(crate) fn bytes_in_use(pool: &Pool) -> usize {
    let rows = pool.stats().classes;
    Class::ALL.iter().zip(rows).map(|(class, row)| class.data_len() * row.in_use).sum()
}

fn overwrite(chain: &mut Chain, fill: &[u8]) {
    let room = chain.tailroom().min(fill.len());
    // Both fit in room that is there, so neither allocates.
    chain.extend_from_slice(&fill[..room]).expect("tailroom that is there");
    let room = chain.headroom().min(fill.len());
    chain.prepend_slice(&fill[..room]).expect("headroom that is there");
}

fn usual(name: &str) -> PoolBuilder {
    Pool::builder()
        .name(name)
        .count(Class::Small, 4096)
        .count(Class::K2, 256)
        .count(Class::K4, 64)
        .count(Class::K16, 32)
        .count(Class::K64, 16)
}

fn finish(builder: PoolBuilder) -> Pool {
    builder.build().unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_reaches_the_memory_that_the_next_chains_get() {
        let pool = little_pool();
        dirty(&pool, 0xa5);
        assert_all_free(&pool);
        // Old contents are not to be had by any operation; stripped bytes of one's own are.
        let mut chain = pool.chain_from(&[7; 40]).unwrap();
        chain.trim_front(8).unwrap();
        chain.restore(8).unwrap();
        assert_eq!(chain.to_vec().unwrap(), [7; 40]);
        let mut zeroed = pool.chain_zeroed(5000).unwrap();
        zeroed.prepend(100).unwrap();
        assert!(zeroed.to_vec().unwrap().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_chain_in_use_is_seen() {
        let pool = plain_pool();
        let chain = pool.chain_from(&[0; 1000]).unwrap();
        assert!(bytes_in_use(&pool) >= 1000);
        let caught = std::panic::catch_unwind(|| assert_all_free(&pool));
        assert!(caught.is_err());
        drop(chain);
        assert_all_free(&pool);
        assert_eq!(bytes_in_use(&pool), 0);
    }
}
