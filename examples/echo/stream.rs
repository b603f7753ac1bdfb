//! The client's protocol over a stream: sends the pattern, and checks that it comes back.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mbuf::{
    Batch, Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol, Signal, Time, Timer},
};

use crate::{client::Plan, pattern, record::Recorder};

/// What came back is not what was sent.
pub const WRONG: DropReason = DropReason("wrong_bytes");
/// The server has stopped answering.
pub const SILENT: DropReason = DropReason("silent");
/// How often a session looks at the time.
const TICK: Duration = Duration::from_millis(100);
/// How long a server may say nothing while an answer is due.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most that is sent in one chain.
const PIECE: usize = 64 << 10;

/// One connection. It keeps `window` messages on their way, and closes when all are back.
#[derive(Debug)]
pub struct StreamClient {
    plan: Plan,
    recorder: Recorder,
    name: String,
    /// Where in the pattern the stream starts: no two connections at the same place.
    start: u64,
    /// Bytes sent, and bytes received, since then.
    sent: u64,
    received: u64,
    /// Messages that were begun so far.
    begun: u64,
    /// Bytes of the message at hand that are still to be sent.
    left: usize,
    /// For each message on its way: where it ends, and when it was begun.
    under_way: VecDeque<(u64, Instant)>,
    /// No message is begun from then on.
    until: Option<Time>,
    last_heard: Time,
    tick: Option<Timer>,
    stopping: bool,
    finished: bool,
}

impl StreamClient {
    pub fn new(plan: Plan, recorder: Recorder, index: u32) -> Self {
        Self {
            plan,
            recorder,
            name: format!("connection {index}"),
            start: u64::from(index) * 7919,
            sent: 0,
            received: 0,
            begun: 0,
            left: 0,
            under_way: VecDeque::with_capacity(plan.window),
            until: None,
            last_heard: Time::ZERO,
            tick: None,
            stopping: false,
            finished: false,
        }
    }

    /// Whether another message is to be begun.
    fn wants_more(&self, now: Time) -> bool {
        !self.stopping
            && self.plan.count.is_none_or(|count| self.begun < count)
            && self.until.is_none_or(|until| now < until)
    }

    /// Sends what the window and the credit allow.
    fn fill(&mut self, cx: &mut Context<'_>) {
        let now = Instant::now();
        while !self.finished {
            if self.left == 0 {
                if self.under_way.len() >= self.plan.window || !self.wants_more(cx.now()) {
                    break;
                }
                self.begun += 1;
                self.left = self.plan.size;
                self.under_way.push_back((self.sent + self.plan.size as u64, now));
            }
            // Without credit, `Signal::Writable` brings us back here; without buffers, the next
            // answer or the next tick does.
            let n = self.left.min(cx.credit()).min(PIECE);
            let Some(chain) = (n > 0)
                .then(|| pattern::chain(cx.pool(), self.start + self.sent, n))
                .and_then(Result::ok)
            else {
                break;
            };
            cx.made(1);
            cx.send_down(chain);
            self.sent += n as u64;
            self.left -= n;
        }
        if !self.finished && self.under_way.is_empty() && !self.wants_more(cx.now()) {
            self.finish(cx);
            cx.close();
        }
    }

    /// Takes what has come back.
    fn take(&mut self, chain: Chain, now: Instant, cx: &mut Context<'_>) -> Outcome {
        if self.finished {
            return cx.drop(chain, DropReason::CLOSED);
        }
        let received = self.received + chain.len() as u64;
        let wrong = if received > self.sent {
            Some(format!("{} bytes sent, {received} came back", self.sent))
        } else {
            match pattern::check(&chain, self.start + self.received) {
                Ok(wrong) => wrong.map(|wrong| wrong.behind(self.received).to_string()),
                Err(error) => Some(error.to_string()),
            }
        };
        if let Some(what) = wrong {
            self.fail(what, WRONG, cx);
            return cx.drop(chain, WRONG);
        }
        self.received = received;
        self.last_heard = cx.now();
        while let Some(&(end, begun)) = self.under_way.front()
            && end <= received
        {
            self.under_way.pop_front();
            self.recorder.message(self.plan.size, begun, now);
        }
        cx.consumed(chain)
    }

    fn fail(&mut self, what: String, reason: DropReason, cx: &mut Context<'_>) {
        self.recorder.fail(format!("{}: {what}", self.name));
        self.finish(cx);
        cx.abort(reason);
    }

    fn finish(&mut self, cx: &mut Context<'_>) {
        self.finished = true;
        self.stopping = true;
        self.recorder.flush();
        if let Some(timer) = self.tick.take() {
            cx.cancel(timer);
        }
    }
}

impl Protocol for StreamClient {
    fn name(&self) -> &str {
        "echo client"
    }

    fn info(&self) -> LayerInfo {
        // It closes by itself when the last answer is there.
        LayerInfo::new(Edge::Bytes, Edge::Any).half_open().batched().reasons(&[WRONG, SILENT])
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let outcome = self.take(chain, Instant::now(), cx);
        self.fill(cx);
        outcome
    }

    /// All that is there first, then all that may be sent: the clock is read once for each.
    fn input_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        let now = Instant::now();
        while let Some(chain) = batch.pop() {
            let outcome = self.take(chain, now, cx);
            cx.apply(outcome);
        }
        self.fill(cx);
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }

    fn timeout(&mut self, _: Timer, cx: &mut Context<'_>) {
        self.recorder.flush();
        let silence = cx.now().since(self.last_heard);
        if self.received < self.sent && silence >= PATIENCE {
            let missing = self.sent - self.received;
            self.fail(format!("silent for {silence:.1?}, {missing} bytes missing"), SILENT, cx);
            return;
        }
        self.tick = cx.arm(TICK);
        self.fill(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        if self.finished {
            return;
        }
        match signal {
            Signal::Opened => {
                self.last_heard = cx.now();
                self.until = self.plan.seconds.map(|seconds| cx.now() + seconds);
                self.tick = cx.arm(TICK);
                self.fill(cx);
            }
            Signal::Writable => self.fill(cx),
            Signal::EndOfStream => {
                let missing = self.sent - self.received;
                self.fail(format!("the server closed, {missing} bytes missing"), SILENT, cx);
            }
            Signal::Shutdown => {
                self.stopping = true;
                self.fill(cx);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering::Relaxed};

    use mbuf::{
        Pool,
        stack::Stack,
        testing::{Pair, assert_all_free},
    };
    use mbuf_protocols::{Discard, Echo};

    use super::*;
    use crate::record::Record;

    /// Runs a client against a server, over a line that holds so many bytes each way.
    fn run(server: impl Protocol + 'static, plan: Plan, line: usize) -> Arc<Record> {
        let pool = Pool::with_memory(32 << 20).unwrap();
        let record = Record::new().unwrap();
        let client = StreamClient::new(plan, Recorder::new(&record), 7);
        let client = Stack::pile(&pool, Edge::Bytes, vec![Box::new(client)]).unwrap();
        let server = Stack::pile(&pool, Edge::Bytes, vec![Box::new(server)]).unwrap();
        let mut pair = Pair::stream(&pool, client, server, 1, line);
        pair.run_for(Duration::from_secs(60)).unwrap();
        drop(pair);
        assert_all_free(&pool);
        assert_eq!(record.ended.load(Relaxed), 1);
        record
    }

    fn plan(size: usize, count: u64) -> Plan {
        Plan { size, window: 8, count: Some(count), seconds: None }
    }

    #[test]
    fn everything_comes_back_whatever_the_line_holds() {
        for line in [1000, 64 << 10, 4 << 20] {
            for (size, count) in [(1, 300), (1000, 300), (100_000, 10)] {
                let record = run(Echo::new(), plan(size, count), line);
                assert_eq!(record.failures().1, [""; 0], "line {line}, {count} of {size}");
                assert_eq!(record.messages.load(Relaxed), count);
                assert_eq!(record.bytes.load(Relaxed), count * size as u64);
                assert_eq!(record.latency().len(), count);
            }
        }
    }

    #[test]
    fn a_wrong_byte_is_a_failure_and_named() {
        /// Echoes, with the last byte of what comes changed.
        struct Liar;
        impl Protocol for Liar {
            fn name(&self) -> &str {
                "liar"
            }
            fn info(&self) -> LayerInfo {
                LayerInfo::new(Edge::Bytes, Edge::Any)
            }
            fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
                let (last, mut byte) = (chain.len() - 1, [0]);
                chain.peek(last, &mut byte).unwrap();
                chain.copy_back(last, &[byte[0] ^ 1]).unwrap();
                cx.reply(chain)
            }
            fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
                cx.down(chain)
            }
        }
        let record = run(Liar, plan(1000, 10), 64 << 10);
        let (count, words) = record.failures();
        assert_eq!(count, 1, "{words:?}");
        // Its place is that in the stream.
        let place = words[0].strip_prefix("connection 7: byte ").and_then(|rest| {
            let (place, _) = rest.split_once(" is 0x")?;
            place.parse::<u64>().ok()
        });
        assert!(place.is_some_and(|place| place < 8 * 1000), "{words:?}");
        assert!(record.messages.load(Relaxed) < 10);
    }

    #[test]
    fn a_silent_server_is_a_failure() {
        let record = run(Discard::new(), plan(1000, 10), 64 << 10);
        assert!(record.failures().1[0].contains("8000 bytes missing"), "{record:?}");
    }
}
