//! What both ends of a conversation do alike: greet, say things that cannot be lost, show that they
//! are alive, and end.

use std::{collections::VecDeque, time::Duration};

use mbuf::{
    Chain, Result,
    stack::{Context, DropReason, Time, Timer},
};
use zerocopy::{IntoBytes, network_endian::U16};

use super::{
    CHUNK_MAX, CHUNK_MIN,
    trouble::{Code, Trouble},
    wire::{ALL, Fail, Head, Hello, MAGIC, VERSION, kind},
};

/// How long to wait for buffers when the pool has none.
pub(super) const RETRY: Duration = Duration::from_millis(5);
/// How often an end that has nothing to say says so.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How long the other end may say nothing at all.
const SILENT_AFTER: Duration = Duration::from_secs(60);

/// One end's side of the conversation.
#[derive(Debug)]
pub(super) struct Talk {
    /// How often to say ALIVE.
    alive_every: Duration,
    /// How long the other end may say nothing.
    silent_after: Duration,
    /// When it last did.
    heard: Time,
    /// What could not be said yet, for want of buffers, in order.
    unsaid: VecDeque<Vec<u8>>,
    retry: Option<Timer>,
    alive: Option<Timer>,
    /// Nothing more will be said; close once all of it was.
    closing: bool,
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            alive_every: ALIVE_EVERY,
            silent_after: SILENT_AFTER,
            heard: Time::default(),
            unsaid: VecDeque::new(),
            retry: None,
            alive: None,
            closing: false,
        }
    }
}

impl Talk {
    /// How often to say ALIVE; `Duration::MAX` is never.
    pub(super) fn alive_every(&mut self, every: Duration) {
        self.alive_every = every;
    }

    /// How long the other end may say nothing; `Duration::MAX` is for ever.
    pub(super) fn silent_after(&mut self, after: Duration) {
        self.silent_after = after;
    }

    /// The other end has said something, or could not be heard until now.
    pub(super) fn hear(&mut self, cx: &Context<'_>) {
        self.heard = cx.now();
    }

    /// The other end has said nothing for too long.
    pub(super) fn is_silent(&self, cx: &Context<'_>) -> Option<Trouble> {
        let silent = cx.now().since(self.heard);
        (silent >= self.silent_after).then(|| {
            let text = format_args!("the other end has said nothing for {} s", silent.as_secs());
            Trouble::new(Code::Other, text)
        })
    }

    /// The next time to say ALIVE, or to find that the other end does not.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let every = self.alive_every.min(self.silent_after);
        self.alive = if every < Duration::MAX { cx.arm(every) } else { None };
    }

    /// The connection is there.
    pub(super) fn open(&mut self, chunk_log2: u8, cx: &mut Context<'_>) {
        let hello = Hello {
            magic: MAGIC,
            version: VERSION.into(),
            chunk_log2,
            reserved: 0,
            features: 0.into(),
        };
        self.say(Head::new(kind::HELLO, 0, ALL), &[hello.as_bytes()], cx);
        self.hear(cx);
        self.arm(cx);
    }

    /// Says something, at once or as soon as there are buffers.
    pub(super) fn say(&mut self, head: Head, body: &[&[u8]], cx: &mut Context<'_>) {
        if self.closing {
            return;
        }
        if self.unsaid.is_empty()
            && let Ok(chain) = message(head, body, cx)
        {
            return cx.send_down(chain);
        }
        self.unsaid.push_back([&[head.as_bytes()][..], body].concat().concat());
        self.wait(cx);
    }

    /// Says that a file, or everything, has failed.
    pub(super) fn say_failed(&mut self, file: u32, trouble: &Trouble, cx: &mut Context<'_>) {
        let fail = Fail { code: U16::new(trouble.code as u16), reserved: [0; 6] };
        let body = [fail.as_bytes(), trouble.on_wire().as_bytes()];
        self.say(Head::new(kind::FAIL, 0, file), &body, cx);
    }

    /// Whether nothing waits to be said, which data must not overtake.
    pub(super) fn is_clear(&self) -> bool {
        self.unsaid.is_empty()
    }

    /// Looks again in a while for buffers, which ends in [`Talk::timeout`].
    pub(super) fn wait(&mut self, cx: &mut Context<'_>) {
        if self.retry.is_none() {
            self.retry = cx.arm(RETRY);
            if self.retry.is_none() {
                cx.abort(DropReason::NO_BUFFERS);
            }
        }
    }

    /// Closes once everything is said.
    pub(super) fn close(&mut self, cx: &mut Context<'_>) {
        self.closing = true;
        if let Some(timer) = self.alive.take() {
            cx.cancel(timer);
        }
        if self.is_clear() {
            if let Some(timer) = self.retry.take() {
                cx.cancel(timer);
            }
            cx.close();
        }
    }

    /// One of the timers.
    pub(super) fn timeout(&mut self, timer: Timer, cx: &mut Context<'_>) {
        if self.alive == Some(timer) {
            self.arm(cx);
            // Where bytes wait to leave, those show that somebody is there, or that nobody reads.
            if self.alive_every < Duration::MAX && cx.credit() > 0 {
                self.say(Head::new(kind::ALIVE, 0, ALL), &[], cx);
            }
        } else if self.retry == Some(timer) {
            self.retry = None;
            while let Some(bytes) = self.unsaid.front() {
                let Ok(chain) = cx.pool().chain_from(bytes) else { return self.wait(cx) };
                cx.made(1);
                cx.send_down(chain);
                self.unsaid.pop_front();
            }
            if self.closing {
                self.close(cx);
            }
        }
    }
}

/// Makes a message.
///
/// # Errors
/// There are no buffers.
pub(super) fn message(head: Head, body: &[&[u8]], cx: &mut Context<'_>) -> Result<Chain> {
    let mut chain = cx.pool().chain_from(head.as_bytes())?;
    for part in body {
        chain.extend_from_slice(part)?;
    }
    cx.made(1);
    Ok(chain)
}

/// The size of the chunks, in bytes, that both ends take: the smaller of the two that they name.
///
/// # Errors
/// It is not this protocol, or not a version of it that is known here.
pub(super) fn agree(own_log2: u8, hello: &Hello) -> Result<usize, Trouble> {
    if hello.magic != MAGIC {
        let text = "the other end does not speak this protocol (no `mbuffile` at its start)";
        return Err(Trouble::new(Code::Malformed, text));
    }
    let (version, log2) = (hello.version.get(), hello.chunk_log2);
    if version != VERSION {
        let text = format_args!("the other end speaks version {version}, this one {VERSION}");
        return Err(Trouble::new(Code::Version, text));
    }
    if !(CHUNK_MIN.ilog2()..=CHUNK_MAX.ilog2()).contains(&log2.into()) {
        let text = format_args!(
            "the other end wants chunks of 2^{log2} bytes, not {CHUNK_MIN} to {CHUNK_MAX}"
        );
        return Err(Trouble::new(Code::Malformed, text));
    }
    Ok(1 << own_log2.min(log2))
}
