//! The clients. Each drives every server in the same way and compares every byte that comes back.
//!
//! A message is a number (8 bytes, little-endian) followed by words made from that number:
//!
//! ```text
//! +----------------+----------------+----------------+ ... +----------------+
//! | number         | word 1         | word 2         |     | word n         |
//! +----------------+----------------+----------------+ ... +----------------+
//! ```

use std::time::Duration;

use anyhow::{bail, ensure};

pub mod paced;
pub mod tcp;
pub mod udp;

/// How long a run lasts.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// So long; what is in flight then is waited for, and not counted.
    Passed(Duration),
    /// Until so many messages were sent and have come back.
    Sent(u64),
}

impl Until {
    /// The messages that may be sent.
    fn messages(self) -> u64 {
        match self {
            Until::Passed(_) => u64::MAX,
            Until::Sent(messages) => messages,
        }
    }

    /// Whether the time, if it is one, has passed.
    fn has_passed(self, elapsed: Duration) -> bool {
        matches!(self, Until::Passed(time) if elapsed >= time)
    }
}

/// What came of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Messages that came back, every byte right.
    pub echoed: u64,
    /// Messages that did not.
    pub lost: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Something that drives a server.
pub trait Client {
    fn run(&mut self, until: Until) -> anyhow::Result<Tally>;
}

/// Makes a message of its number. The size is a multiple of 8.
fn write_message(number: u64, message: &mut [u8]) {
    for (word, index) in message.chunks_exact_mut(8).zip(0..) {
        word.copy_from_slice(&word_of(number, index).to_le_bytes());
    }
}

/// The number of a message, all of which is right.
fn read_message(message: &[u8]) -> anyhow::Result<u64> {
    ensure!(message.len() >= 8, "a message of {} bytes came back", message.len());
    let mut words = message.chunks_exact(8).map(read_word);
    let number = words.next().unwrap_or_default();
    for (word, index) in words.zip(1..) {
        if word != word_of(number, index) {
            bail!("message {number} came back with other bytes in its word {index}");
        }
    }
    Ok(number)
}

/// Word 0 is the number itself.
fn word_of(number: u64, index: u64) -> u64 {
    number ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn read_word(word: &[u8]) -> u64 {
    word.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_anywhere_is_noticed() {
        let mut message = [0; 64];
        write_message(7, &mut message);
        assert_eq!(read_message(&message).unwrap(), 7);
        // The first word is the number, from which the others are made.
        for at in 0..message.len() {
            message[at] ^= 0x80;
            assert!(read_message(&message).is_err(), "{at}");
            message[at] ^= 0x80;
        }
        assert!(read_message(&[0; 7]).is_err());
    }
}
