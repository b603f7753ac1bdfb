//! Faults that the users of other systems keep meeting, each with a test that fails where it is:
//! the ten of the design, over the public interface alone. 5, 7, 8 and 9 are in `pools`.
//!
//! 1. A chain leaked on an error path (F-Stack #260; DragonFlyBSD #39, 326 mbufs a write).
//! 2. Buffers of a scatter read lost when the read is short (cndp #19).
//! 3. A segment treated as the chain (F-Stack #565; yanet2 #1718, only the head was counted).
//! 4. A header pointer used after the bytes moved (gtp5g #29). That the compiler refuses one is in
//!    `src/chain/doctests.rs`; what it cannot see, a number that was kept, is here.
//! 5. A plain counter where threads meet (zephyr #108065), and an atomic one where they do not
//!    (ceph #25082): of the latter the instruction counts in `benches/ceilings.txt` tell.
//! 6. A clone that panics on an empty pool (demikernel #862), bytes that were never written
//!    readable (demikernel #1169), shared bytes writable (demikernel, OPTE).
//! 7. Receive starves send (zephyr #16864); an empty pool never recovers (daqiri #207).
//! 8. A pool torn down while buffers are out (grout #675); one whose creation fails half-way
//!    (dperf #570); frees batched and never flushed (dperf #559).
//! 9. A data race that a plain test never shows. The depot and the counts are model-checked by
//!    loom (`RUSTFLAGS='--cfg loom' cargo test --lib loom_`); here real threads meet.
//! 10. A recycled buffer that shows its last owner's bytes (rapace #64).

#[path = "../common/mod.rs"]
mod common;
mod pools;

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    thread,
};

use common::{Shape, bytes, ops::Op, ops::plain, pattern};
use mbuf::{
    Batch, Chain, Class, Error, Pool, Queue,
    io::{Datagram, DatagramOptions, Received, Sent, Sink, Source, Stream},
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
    testing::{self, Starve, assert_all_free, bytewise, for_every_failure, level, plain_pool},
};

const PORT: PortId = PortId(0);

/// Calls `recv` until it brings something, over a loopback that delivers when it likes.
#[track_caller]
fn receive(source: &mut dyn Source, pool: &Pool) -> Batch {
    let (receiver, mut batch) = (pool.receiver(), Batch::new());
    loop {
        match source.recv(&receiver, &mut batch).unwrap() {
            Received::Chains(_) => return batch,
            Received::WouldBlock => thread::yield_now(),
            other => panic!("{other:?}"),
        }
    }
}

fn queue_of(chains: impl IntoIterator<Item = Chain>) -> Queue {
    let mut queue = Queue::new(1000, 1 << 24);
    chains.into_iter().for_each(|chain| queue.push(chain).unwrap());
    queue
}

// 1

/// What echoes behind a header of so many bytes; where there is no buffer for it, it drops.
struct Answers(usize);

impl Protocol for Answers {
    fn name(&self) -> &str {
        "answers"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any)
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        // Fallible steps one after the other: what the first has made goes with the error.
        let header = vec![7; self.0];
        let answer = |chain: &mut Chain| -> mbuf::Result<Chain> {
            let mut answer = chain.share()?;
            answer.unshare()?;
            answer.prepend_slice(&header)?;
            let tail = answer.split_off(self.0 / 2)?;
            answer.concat(tail)?;
            answer.append(300)?;
            answer.trim_back(300)?;
            Ok(answer)
        };
        match answer(&mut chain) {
            Ok(answer) => {
                cx.made(1);
                cx.send_down(answer);
                cx.consumed(chain)
            }
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }
}

#[test]
fn fault_1_a_layer_that_fails_at_any_step_leaks_no_chain() {
    let pool = plain_pool();
    let layers = || vec![Box::new(Answers(200)) as Box<dyn Protocol>];
    let failures = for_every_failure(
        &pool,
        || {
            let mut stack = Stack::pile(&pool, Edge::Packets, layers()).unwrap();
            stack.open();
            (stack, pool.chain_from(&pattern(1, 2000)).unwrap())
        },
        |(stack, chain)| {
            // A copy, so that the level after a failure is the one before it.
            stack.input_one(PORT, chain.share()?);
            let stats = stack.stats();
            assert!(stats.layers.iter().all(|layer| layer.imbalance() == 0), "{stats}");
            let answers = stack.poll_output(PORT).len();
            assert_eq!(stats.dropped(DropReason::NO_BUFFERS) as usize + answers, 1, "{stats}");
            if answers == 1 { Ok(()) } else { Err(Error::NoBuffers { class: Class::Small }) }
        },
    );
    assert!(failures >= 4, "{failures} failures");
    assert_all_free(&pool);
}

#[test]
fn fault_1_a_write_that_fails_leaks_no_chain() {
    let pool = plain_pool();
    let (here, there) = UnixStream::pair().unwrap();
    let mut stream = Stream::from_std_unix(here).unwrap();
    drop(there);
    for n in 0..326 {
        let mut queue = queue_of([bytewise(&pool, &pattern(n, 60)).unwrap()]);
        stream.send(&mut queue).expect_err("nobody reads");
        assert_eq!((queue.len(), queue.bytes()), (1, 60), "what was not taken is still there");
        drop(queue);
        assert_all_free(&pool);
    }
}

// 2

#[test]
fn fault_2_a_short_read_keeps_what_it_filled_and_gives_back_the_rest() {
    let pool = plain_pool();
    let free = level(&pool);
    let (mut there, here) = UnixStream::pair().unwrap();
    let mut stream = Stream::from_std_unix(here).unwrap();
    let mut kept = Vec::new();
    // Long reads first, so that the next reserves much; then short ones, and nothing at all.
    for round in 0..200 {
        for len in [100_000, 1, 60, 3000] {
            let sent = pattern(round, len);
            there.write_all(&sent).unwrap();
            let mut got = Vec::new();
            while got.len() < len {
                let mut batch = receive(&mut stream, &pool);
                let chain = batch.pop().unwrap();
                got.extend(bytes(&chain));
                let empty = chain.footprint().saturating_sub(2 * chain.len());
                assert!(empty <= 2 * (65_536 + 256), "{} pin {}", chain.len(), chain.footprint());
                kept.push(chain);
            }
            assert!(got == sent);
        }
        let receiver = pool.receiver();
        let before = level(&pool);
        let nothing = stream.recv(&receiver, &mut Batch::new()).unwrap();
        assert_eq!((nothing, level(&pool)), (Received::WouldBlock, before), "{free:?}");
        kept.clear();
        assert_all_free(&pool);
    }
}

#[test]
fn fault_2_every_length_of_a_short_read_leaves_no_empty_buffer() {
    let pool = plain_pool();
    for read in [0, 1, 111, 112, 113, 2000, 4000, 10_000] {
        let mut chain = pool.chain().unwrap();
        let op = Op::CommitFrom(Class::K2, 10_000, pattern(read, read).into());
        op.apply(&mut chain, &mut None).unwrap();
        assert_eq!(bytes(&chain), pattern(read, read));
        let room = 128 - pool.headroom();
        let clusters = read.saturating_sub(room).div_ceil(2048);
        assert_eq!(level(&pool), [1 + clusters, clusters, 0, 0, 0], "{read} bytes of 10,000");
    }
    assert_all_free(&pool);
}

// 3

#[test]
fn fault_3_all_segments_are_sent_and_counted_not_the_first_alone() {
    let pool = plain_pool();
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut there = Datagram::bind(local, &DatagramOptions::default()).unwrap();
    let mut here =
        Datagram::connect(there.local_addr().unwrap(), &DatagramOptions::default()).unwrap();
    let payload = pattern(3, 700);
    let chain = bytewise(&pool, &payload).unwrap();
    assert_eq!((chain.len(), chain.segments()), (700, 700));
    let mut queue = queue_of([chain]);
    assert_eq!(queue.bytes(), 700, "all segments count");
    assert_eq!(here.send(&mut queue).unwrap(), Sent::All);
    let got = receive(&mut there, &pool).pop().unwrap();
    assert_eq!(bytes(&got), payload, "one datagram of them all");
}

#[test]
fn fault_3_an_operation_in_the_middle_of_a_chain_keeps_what_is_before_and_behind() {
    let pool = plain_pool();
    let model = pattern(4, 30);
    for at in 0..=30 {
        let mut chain = bytewise(&pool, &model).unwrap();
        let mut tail = chain.split_off(at).unwrap();
        assert_eq!((chain.segments(), tail.segments()), (at, 30 - at));
        tail.meta_mut().set_ingress(9);
        let mut queue = queue_of([chain, tail]);
        queue.advance(at / 2).unwrap();
        let left: Vec<u8> = queue.iter().flat_map(bytes).collect();
        assert_eq!(left, model[at / 2..]);
        assert_eq!(queue.bytes(), 30 - at / 2);
    }
    assert_all_free(&pool);
}

// 4

#[test]
fn fault_4_bytes_that_move_at_every_pullup_are_found_where_they_are() {
    // Pools of the test kit, which move them.
    let (pool, other) = (testing::pool(), testing::pool());
    let model = pattern(5, 90);
    for shape in testing::Shape::ALL {
        let mut shaped = shape.make(&pool, &other, &model).unwrap();
        let chain = &mut shaped.chain;
        let mut before = chain.slices().unwrap().next().unwrap().as_ptr();
        for n in 1..90 {
            // The old storage still exists while the new one is filled, so it lies elsewhere.
            let view = chain.pullup(n).unwrap();
            assert_ne!(view.as_ptr(), before, "{shape:?}: the bytes move, or it is no test");
            assert_eq!(view, &model[..n]);
            before = view.as_ptr();
        }
        assert_eq!(bytes(chain), model);
        // Views that are made anew see what was written through the last one.
        chain.header_mut::<[u8; 4]>().unwrap().fill(0xee);
        chain.pullup(60).unwrap();
        assert_eq!(*chain.header::<[u8; 4]>().unwrap(), [0xee; 4]);
        assert_eq!(chain.strip::<[u8; 6]>().unwrap()[4..], model[4..6]);
    }
    assert_all_free(&pool);
}

// 6

#[test]
fn fault_6_a_copy_for_which_there_is_no_buffer_is_an_error_not_a_panic() {
    let pool = plain_pool();
    for shape in testing::Shape::ALL {
        let mut shaped = shape.make(&pool, &pool, &pattern(6, 500)).unwrap();
        let starve = Starve::leave(&pool, 0, 0);
        let empty = |error| matches!(error, Error::NoBuffers { .. });
        assert!(shaped.chain.share().is_err_and(empty), "{shape:?}");
        assert!(shaped.chain.dup().is_err_and(empty), "{shape:?}");
        assert!(shaped.chain.share_n(3, &mut Batch::new()).is_err_and(empty), "{shape:?}");
        drop(starve);
        assert_eq!(bytes(&shaped.chain.share().unwrap()), pattern(6, 500));
    }
    assert_all_free(&pool);
}

#[test]
fn fault_6_shared_bytes_are_written_in_a_copy_alone() {
    let (pool, other) = (plain_pool(), plain_pool());
    let model = pattern(7, 600);
    for shape in testing::Shape::ALL {
        let mut shaped = shape.make(&pool, &other, &model).unwrap();
        let kept = shaped.chain.share().unwrap();
        let range = shaped.chain.share_range(100, 300).unwrap();
        shaped.chain.header_mut::<[u8; 40]>().unwrap().fill(0xee);
        shaped.chain.copy_back(50, &[0xee; 20]).unwrap();
        shaped.chain.for_each_mut(100.., |bytes| bytes.fill(0xee)).unwrap();
        shaped.chain.append(10).unwrap();
        shaped.chain.prepend(10).unwrap().fill(0xee);
        assert_eq!(bytes(&kept), model, "{shape:?}");
        assert_eq!(bytes(&range), model[100..400], "{shape:?}");
    }
}

// 6 and 10

/// Fills all free buffers with a pattern; everything that is then read was written by whoever
/// reads it, or is zero.
#[test]
fn fault_10_no_operation_shows_what_a_recycled_buffer_held() {
    const LAST: u8 = 0xa6;
    let pool = Pool::builder().count(Class::Small, 64).count(Class::K2, 8).count(Class::K4, 4);
    let (pool, foreign) = (pool.build().unwrap(), plain_pool());
    let model = vec![1; 6];
    let mut done = 0_usize;
    for op in
        Op::around(6).into_iter().chain([Op::Append(9000), Op::CopyBack(5000, vec![1].into())])
    {
        testing::dirty(&pool, LAST);
        for shape in [Shape::Small, Shape::Cluster, Shape::Shared, Shape::Split] {
            let mut built = shape.build(&pool, &foreign, &model, &[2, 3, 6]);
            let mut other = op.takes_other().then(|| pool.chain_from(&[2; 7]).unwrap());
            let mut expected = model.clone();
            let answer = op.model(&mut expected, &[2; 7]);
            let Ok(out) = op.apply(&mut built.chain, &mut other) else { continue };
            assert_eq!(Ok(plain(&out)), answer, "{op:?}");
            assert_eq!(bytes(&built.chain), expected, "{op:?}");
            done += 1;
            // Nor does a restore give more than was stripped from this chain.
            if built.chain.restore(1).is_ok() {
                assert_ne!(bytes(&built.chain)[0], LAST, "{op:?} on {shape:?}");
            }
        }
    }
    assert!(done > 1000, "{done} operations");
    assert_all_free(&pool);
}

#[test]
fn fault_10_secrets_are_gone_from_memory_where_that_was_asked_for() {
    let classes = |zero| {
        let builder = Pool::builder().count(Class::Small, 2).count(Class::K2, 1);
        builder.zero_on_free(zero).build().unwrap()
    };
    for (pool, zero) in [(classes(true), true), (classes(false), false)] {
        testing::dirty(&pool, 0xa6);
        let mut chain = pool.chain_in(Class::K2, 0).unwrap();
        let mut room = smallvec::SmallVec::<[libc::iovec; 2]>::new();
        chain.reserve_uninit(2048).unwrap().iovecs(&mut room);
        // SAFETY: 2,048 bytes of room of a chain that is still there; `dirty` has written them,
        // and where they were zeroed, that has.
        let left = unsafe { room[0].iov_base.cast::<[u8; 2048]>().read() };
        assert_eq!(left.iter().all(|byte| *byte == 0), zero, "or it is no test");
    }
}
