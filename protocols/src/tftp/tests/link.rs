//! Whole transfers over links that lose, double and swap.

use std::{collections::VecDeque, mem::take};

use mbuf::testing::Rng;
use proptest::prelude::*;

use super::*;

/// A client as the RFCs want it.
struct Client {
    request: Vec<u8>,
    /// The file, whole if it is written.
    file: Vec<u8>,
    write: bool,
    block: usize,
    window: u64,
    /// The last block that came, or was acknowledged.
    last: u64,
    /// Since the last ACK.
    unsaid: u64,
    heard: bool,
    done: bool,
}

impl Client {
    fn new(write: bool, file: Vec<u8>, block: usize, window: u64) -> Self {
        let kind = if write { "write" } else { "read" };
        let request = request(&format!("{kind} f octet blksize {block} windowsize {window}"));
        let (last, unsaid, heard, done) = (0, 0, false, false);
        Self { request, file, write, block, window, last, unsaid, heard, done }
    }

    /// What it sends by itself: at the beginning, and when nothing comes.
    fn again(&mut self) -> Vec<Vec<u8>> {
        match (self.heard, self.write) {
            (false, _) => vec![self.request.clone()],
            (true, true) => self.send_window(),
            (true, false) => self.acknowledge(),
        }
    }

    fn acknowledge(&mut self) -> Vec<Vec<u8>> {
        self.unsaid = 0;
        vec![ack(self.last as u16)]
    }

    fn send_window(&self) -> Vec<Vec<u8>> {
        let blocks = (self.file.len() / self.block) as u64 + 1;
        let window = self.last + 1..=(self.last + self.window).min(blocks);
        let block = |n: u64| {
            let from = (n - 1) as usize * self.block;
            data(n as u16, &self.file[from..(from + self.block).min(self.file.len())])
        };
        window.map(block).collect()
    }

    fn hear(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        let number = u16::from_be_bytes([message[2], message[3]]);
        match (message[1], self.write) {
            (5, _) if self.done => vec![],
            (5, _) => {
                assert_eq!(number, 5, "{}", String::from_utf8_lossy(&message[4..]));
                // It was given up there: once more, from the beginning.
                let file = if self.write { take(&mut self.file) } else { vec![] };
                *self = Self::new(self.write, file, self.block, self.window);
                self.again()
            }
            (6, _) if self.heard => {
                if self.write || self.last > 0 {
                    vec![]
                } else {
                    self.acknowledge()
                }
            }
            (6, write) => {
                let options = Options::read(&message[2..]).unwrap();
                self.block = options.blksize.unwrap().into();
                self.window = options.windowsize.unwrap().into();
                self.heard = true;
                if write { self.send_window() } else { self.acknowledge() }
            }
            (3, false) if self.done => self.acknowledge(),
            (3, false) => {
                let bytes = &message[4..];
                if block_near(self.last, number) != Some(self.last + 1) {
                    return self.acknowledge();
                }
                self.last += 1;
                self.unsaid += 1;
                self.file.extend(bytes);
                self.done = bytes.len() < self.block;
                if self.done || self.unsaid == self.window { self.acknowledge() } else { vec![] }
            }
            (4, true) => {
                let Some(block) = block_near(self.last, number) else { return vec![] };
                if block <= self.last || self.done {
                    return vec![];
                }
                self.last = block;
                self.done = block > (self.file.len() / self.block) as u64;
                if self.done { vec![] } else { self.send_window() }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What becomes of a packet.
enum Fate {
    Arrives,
    Lost,
    Twice,
    /// The next one overtakes it.
    Late,
}

/// Runs a transfer to its end, and answers the client and the number of packets.
fn run(
    subject: &mut Subject,
    mut client: Client,
    mut fate: impl FnMut(usize) -> Fate,
) -> (Client, usize) {
    let mut way: [VecDeque<Vec<u8>>; 2] = Default::default();
    let mut late: [Option<Vec<u8>>; 2] = [None, None];
    let mut packets = 0;
    let mut put = |way: &mut [VecDeque<Vec<u8>>; 2], to: usize, sent: Vec<Vec<u8>>| {
        for packet in sent {
            let held_back = late[to].take();
            match fate(packets) {
                Fate::Arrives => way[to].push_back(packet),
                Fate::Lost => {}
                Fate::Twice => way[to].extend([packet.clone(), packet]),
                Fate::Late => late[to] = Some(packet),
            }
            way[to].extend(held_back);
            packets += 1;
        }
    };
    put(&mut way, 1, client.again());
    for quiet in 0.. {
        assert!(quiet < 10_000, "it never ends");
        loop {
            if let Some(packet) = way[1].pop_front() {
                subject.feed(PEER, SERVER, &packet);
                put(&mut way, 0, subject.rig.sent());
            } else if let Some(packet) = way[0].pop_front() {
                let answers = client.hear(&packet);
                put(&mut way, 1, answers);
            } else {
                break;
            }
        }
        if client.done {
            break;
        }
        let sent = subject.wait(1).into_iter().map(|(_, packet)| packet).collect();
        put(&mut way, 0, sent);
        put(&mut way, 1, client.again());
    }
    (client, packets)
}

fn subject(file: Option<&[u8]>) -> Subject {
    let subject = Subject::new(|tftp| {
        tftp.write(true).overwrite(true).retry(Duration::from_millis(400), 100)
    });
    if let Some(file) = file {
        subject.store.put("f", file);
    }
    subject
}

/// Transfers a file, and looks whether it is the same; how many packets that took.
fn transfer(
    write: bool,
    file: &[u8],
    (block, window): (usize, u64),
    fate: impl FnMut(usize) -> Fate,
) -> usize {
    let mut subject = subject((!write).then_some(file));
    let client = Client::new(write, if write { file.to_vec() } else { vec![] }, block, window);
    let (client, packets) = run(&mut subject, client, fate);
    let came = if write { subject.store.files()["f"].clone() } else { client.file };
    assert!(came == file, "{} bytes of {} came", came.len(), file.len());
    subject.finish();
    packets
}

#[test]
fn more_than_65535_blocks_go_round() {
    let file = bytes(8 * 66_000 + 5);
    for write in [false, true] {
        let packets = transfer(write, &file, (8, 1), |_| Fate::Arrives);
        assert!(packets > 2 * 66_000);
        transfer(write, &file, (8, 64), |_| Fate::Arrives);
    }
}

#[test]
fn any_one_packet_may_be_lost_or_come_twice() {
    let file = bytes(16 * 8 + 5);
    for write in [false, true] {
        for window in [1, 3] {
            let whole = transfer(write, &file, (16, window), |_| Fate::Arrives);
            for n in 0..whole {
                transfer(write, &file, (16, window), |k| {
                    if k == n { Fate::Lost } else { Fate::Arrives }
                });
                // The sorcerer's apprentice: what comes twice costs a window at most, and once.
                let packets = transfer(write, &file, (16, window), |k| {
                    if k == n { Fate::Twice } else { Fate::Arrives }
                });
                assert!(
                    packets <= whole + 2 * window as usize + 1,
                    "{packets} packets instead of {whole}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_file_is_the_same_over_any_link(
        write in any::<bool>(),
        len in 0_usize..5000,
        block in 8_usize..600,
        window in 1_u64..9,
        seed in any::<u64>(),
    ) {
        let mut rng = Rng::new(seed);
        transfer(write, &bytes(len), (block, window), |_| match rng.below(10) {
            0 => Fate::Lost,
            1 => Fate::Twice,
            2 => Fate::Late,
            _ => Fate::Arrives,
        });
    }
}
