//! The real thing: chains of two pools.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use mbuf::{Batch, Chain, Class, Error, Pool, Queue, Receiver, error::Rejected, pool::MbufType};
use proptest_state_machine::StateMachineTest;

use crate::{
    common::{
        Snapshot, bytes, is_empty_pool, level,
        ops::{Op, plain},
        owners::{Unreadable, Writable},
        roomy,
    },
    flat::{Action, Flat, Make, State, Turn},
    step::Step,
};

/// Chains, and where they come from.
pub struct World {
    roomy: Pool,
    /// With few buffers; its bytes move at every pullup.
    tight: Pool,
    receiver: Receiver,
    chains: Vec<Chain>,
    discarded: u64,
    /// Whether reading the files behind opaque segments fails.
    broken: Arc<AtomicBool>,
    /// How often the tight pool was empty.
    pub refused: usize,
    /// How often a file could not be read.
    pub unread: usize,
    /// What was done, in order; printed when a test fails.
    pub log: Vec<Action>,
    /// The operations that were done, in order, by name.
    pub done: Vec<&'static str>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what was done:");
            self.log.iter().for_each(|action| eprintln!("{action:?}"));
        }
    }
}

impl StateMachineTest for World {
    type SystemUnderTest = World;
    type Reference = State;

    fn init_test(state: &State) -> World {
        // Some of everything, no clusters at all, one class of them.
        let counts = [[10, 2, 2, 1, 1], [24, 0, 0, 0, 0], [14, 0, 4, 0, 0]][state.tight];
        let builder = Pool::builder().name("tight").headroom(16).reserve(20).move_on_pullup(true);
        let builder =
            Class::ALL.into_iter().zip(counts).fold(builder, |b, (class, n)| b.count(class, n));
        let tight = builder.build().expect("a pool of a few KiB");
        World {
            roomy: roomy("roomy"),
            receiver: tight.receiver(),
            tight,
            chains: Vec::new(),
            discarded: 0,
            broken: Arc::default(),
            refused: 0,
            unread: 0,
            log: Vec::new(),
            done: Vec::new(),
        }
    }

    fn apply(mut world: World, state: &State, _: Step) -> World {
        let turn = &state.turn;
        world.log.push(turn.action.clone());
        match &turn.action {
            Action::Nothing => {}
            Action::Make { how, roomy } => world.make(how, *roomy, state),
            Action::Drop(at) => drop(world.chains.remove(*at)),
            Action::Discard(at) => {
                world.chains.remove(*at).discard("a test");
                world.discarded += 1;
            }
            Action::Lend(at) => world.lend(*at, turn),
            Action::Restore(at, n) => restore(&mut world.chains[*at], *n, &turn.before[*at], turn),
            Action::Queue(at, n, some) => {
                through_a_queue(&mut world.chains[*at], &turn.before[*at].bytes, *n, *some);
            }
            Action::SetKind(at, kind) => {
                let kind = MbufType::all().nth((*kind).into()).expect("one of eight");
                world.chains[*at].set_kind(kind);
                assert_eq!(world.chains[*at].kind(), kind);
            }
            Action::Operate { at, other, op, broken } => {
                world.operate(*at, *other, op, *broken, turn);
            }
        }
        world
    }

    fn check_invariants(world: &World, state: &State) {
        let flats = state.chains();
        assert_eq!(world.chains.len(), flats.len());
        for (chain, flat) in world.chains.iter().zip(flats) {
            assert!(bytes(chain) == flat.bytes, "{chain:?}, should be {flat:?}");
            assert_eq!(chain.meta().segment_size(), flat.tag, "{chain:?}");
        }
        for pool in world.pools() {
            let stats = pool.stats();
            for class in Class::ALL {
                let row = stats.class(class);
                assert_eq!(row.in_use + row.cached + row.free, row.total, "{class}: {stats}");
            }
        }
        assert_eq!(world.roomy.stats().denied(), 0, "the roomy pool is never empty");
    }

    fn teardown(mut world: World, _: State) {
        world.chains.clear();
        let mut discards = 0;
        for pool in world.pools() {
            let stats = pool.stats();
            assert_eq!(level(pool), [0; 5], "{stats}");
            assert_eq!(stats.types, [0; MbufType::COUNT], "{stats}");
            discards += stats.discards.iter().map(|(_, times)| times).sum::<u64>();
        }
        assert_eq!(discards, world.discarded);
    }
}

impl World {
    fn pools(&self) -> [&Pool; 2] {
        [&self.roomy, &self.tight]
    }

    /// A chain, or several, made in one of all ways; in the model they stand already.
    fn make(&mut self, how: &Make, roomy: bool, state: &State) {
        let pool = if roomy { &self.roomy } else { &self.tight };
        let before = self.pools().map(level);
        let made = match how {
            Make::Empty => pool.chain().map(one),
            Make::Headroom(headroom) => pool.chain_with_headroom(*headroom).map(one),
            Make::In(class, headroom) => pool.chain_in(*class, *headroom).map(one),
            Make::Zeroed(len) => pool.chain_zeroed(*len).map(one),
            Make::From(bytes) => pool.chain_from(bytes).map(one),
            Make::Pieces(bytes, piece) => pieces(pool, bytes, *piece).map(one),
            Make::Attach(bytes) => match pool.attach(bytes.to_vec(), ..) {
                Ok(chain) => Ok(one(chain)),
                Err(Rejected { value, error }) => {
                    assert_eq!(value, bytes.to_vec(), "the owner comes back");
                    Err(error)
                }
            },
            Make::AttachMut(bytes) => match pool.attach_mut(Writable(bytes.to_vec()), ..) {
                Ok(chain) => Ok(one(chain)),
                Err(Rejected { value, error }) => {
                    assert_eq!(value.0, bytes.to_vec(), "the owner comes back");
                    Err(error)
                }
            },
            Make::AttachOpaque(bytes) => {
                let mut owner = Unreadable::new(&[&[0], &bytes[..]].concat());
                owner.broken = self.broken.clone();
                pool.attach_opaque(owner, 1..).map(one).map_err(|rejected| rejected.error)
            }
            Make::Receive => received(&self.receiver, Receiver::chain),
            Make::ReceiveIn(class, headroom) => {
                received(&self.receiver, |receiver| receiver.chain_in(*class, *headroom))
            }
            Make::Batch(n) => {
                let mut batch = Batch::new();
                let done = pool.alloc_batch(*n, &mut batch);
                assert_eq!(batch.len(), if done.is_ok() { *n } else { 0 }, "all or none");
                done.map(|()| batch.drain().collect())
            }
        };
        match made {
            Ok(made) => {
                let flats = &state.chains()[self.chains.len()..];
                for (mut chain, flat) in made.into_iter().zip(flats) {
                    chain.meta_mut().set_segment_size(flat.tag);
                    self.chains.push(chain);
                }
            }
            Err(error) => {
                assert!(is_empty_pool(&error), "{how:?}: {error:?}");
                assert_eq!(self.pools().map(level), before, "{how:?}");
                self.refused += 1;
                state.turn.refuse();
            }
        }
    }

    /// One of the operations that the chain and the model both know.
    fn operate(&mut self, at: usize, other: Option<usize>, op: &Op, broken: bool, turn: &Turn) {
        let mut given = other.map(|other| self.chains.remove(other));
        let pools = [&self.roomy, &self.tight];
        let chain = &mut self.chains[at];
        let len = chain.len();
        let writable = chain.is_writable();
        let snapshots = |chain: &Chain, given: &Option<Chain>| {
            (Snapshot::of(chain, &pools), given.as_ref().map(|given| Snapshot::of(given, &pools)))
        };
        let before = snapshots(chain, &given);
        self.broken.store(broken, SeqCst);
        let result = op.apply(chain, &mut given);
        self.broken.store(false, SeqCst);
        let said = format!("{op:?} on {chain:?}");
        match (&turn.expected, result) {
            (Ok(expected), Ok(out)) => {
                assert_eq!(plain(&out), *expected, "{said}");
                assert!(given.is_none(), "{said}");
                let private = matches!(op, Op::Dup) || writable && matches!(op, Op::SplitOff(_));
                self.done.push(op.name());
                for new in out.into_chains() {
                    assert!(new.is_writable() || !private, "{said}");
                    self.chains.push(new);
                }
            }
            (Err(refusal), Err(error)) => {
                assert!(refusal.fits(&error, len), "{said}: {error:?}, should be {refusal:?}");
                assert_eq!(snapshots(chain, &given), before, "{said}");
            }
            (Ok(_), Err(error)) => {
                let unread = broken && matches!(error, Error::Io { errno: libc::EIO });
                assert!(unread || is_empty_pool(&error), "{said}: {error:?}");
                assert_eq!(snapshots(chain, &given), before, "{said}");
                self.unread += usize::from(unread);
                self.refused += usize::from(!unread);
                turn.refuse();
            }
            (expected, result) => panic!("{said}: {result:?}, should be {expected:?}"),
        }
        if let (Some(other), Some(given)) = (other, given) {
            self.chains.insert(other, given);
        }
    }

    /// Gives a chain away as `Bytes`, which may be refused as a pullup is.
    #[cfg(feature = "bytes")]
    fn lend(&mut self, at: usize, turn: &Turn) {
        let chain = self.chains.remove(at);
        let before = Snapshot::of(&chain, &self.pools());
        match chain.into_bytes() {
            Ok(lent) => {
                let clone = lent.clone();
                drop(lent);
                assert!(clone == turn.before[at].bytes);
            }
            Err(Rejected { value, error }) => {
                let long = matches!(error, Error::TooLong { .. }) && value.len() > 65_536;
                assert!(long || is_empty_pool(&error), "{error:?}");
                assert_eq!(Snapshot::of(&value, &self.pools()), before);
                self.chains.insert(at, value);
                turn.refuse();
            }
        }
    }

    /// Without the feature nobody takes it, and it is dropped.
    #[cfg(not(feature = "bytes"))]
    fn lend(&mut self, at: usize, _: &Turn) {
        self.chains.remove(at);
    }
}

fn one(chain: Chain) -> Vec<Chain> {
    vec![chain]
}

/// What a receiver gives; its cache then keeps nothing from the others.
fn received(
    receiver: &Receiver,
    receive: impl FnOnce(&Receiver) -> Result<Chain, Error>,
) -> Result<Vec<Chain>, Error> {
    let received = receive(receiver);
    receiver.flush();
    received.map(one)
}

fn pieces(pool: &Pool, bytes: &[u8], piece: usize) -> Result<Chain, Error> {
    let mut chain = pool.chain()?;
    for piece in bytes.chunks(piece) {
        chain.concat(pool.chain_from(piece)?)?;
    }
    Ok(chain)
}

/// Gives back stripped bytes: the right ones or none; and those just stripped always.
fn restore(chain: &mut Chain, n: usize, flat: &Flat, turn: &Turn) {
    let before = Snapshot::of(chain, &[]);
    match chain.restore(n) {
        Ok(()) => assert!(n <= flat.stripped.len(), "{n} bytes restored of {flat:?}"),
        Err(error) => {
            assert!(
                matches!(error, Error::Gone { wanted, available } if wanted == n && available < n),
                "{error:?}"
            );
            assert!(n > flat.fresh, "{error:?}, but {flat:?}");
            assert_eq!(Snapshot::of(chain, &[]), before);
            turn.refuse();
        }
    }
}

/// Out of a queue by short writes, as a stream sink takes it.
fn through_a_queue(chain: &mut Chain, model: &[u8], n: usize, some: usize) {
    chain.advance(n).unwrap();
    let model = &model[n..];
    let Ok(copy) = chain.share() else { return };
    let mut queue = Queue::new(1, copy.len());
    queue.push(copy).unwrap();
    if let Ok(more) = chain.share() {
        let rejected = queue.push(more).expect_err("the queue is full");
        assert!(bytes(&rejected.value) == model, "what a full queue refuses comes back");
    }
    let mut taken = 0;
    while taken < model.len() {
        let some = some.min(model.len() - taken);
        queue.advance(some).unwrap();
        taken += some;
        let left = queue.front().map(bytes).unwrap_or_default();
        assert!(left == model[taken..], "{taken} bytes taken");
    }
}
