//! What the other end says.

use mbuf::{Chain, io::store::FileNo, stack::Context};

use super::{FileSender, Phase, item::Stage};
use crate::file::{
    event::Event,
    talk::agree,
    tree::Hash,
    trouble::{Code, Trouble},
    wire::{self, ALL, Bye, Message},
};

impl FileSender {
    /// A message. What is the whole transfer's trouble comes back.
    pub(super) fn take(&mut self, chain: &mut Chain, cx: &mut Context<'_>) -> Result<(), Trouble> {
        let (no, message) = wire::parse(chain)?;
        match (self.phase, message) {
            (Phase::Hello, Message::Hello(hello)) => {
                self.chunk = agree(self.chunk_max.ilog2() as u8, &hello)?;
                self.phase = Phase::Open;
            }
            (_, Message::Fail(trouble)) if no == ALL => return Err(trouble),
            (Phase::Open | Phase::Finishing, Message::Fail(trouble)) => {
                self.refused(no, &trouble, cx)?;
            }
            (Phase::Open | Phase::Finishing, Message::Done) => self.confirmed(no)?,
            (Phase::Finishing, Message::Bye(bye)) => return self.bye(&bye, cx),
            (_, Message::Alive) => {}
            (phase, message) => {
                let text = format_args!("{} out of turn ({phase:?})", message.name());
                return Err(Trouble::new(Code::Malformed, text));
            }
        }
        self.go_on(cx);
        Ok(())
    }

    /// DONE: the other end has it.
    fn confirmed(&mut self, no: FileNo) -> Result<(), Trouble> {
        match self.sent(no) {
            Some(sent) if sent.kept.is_none() => sent.kept = Some(true),
            _ => {
                let text = format_args!("DONE of file {no}, which does not wait for it");
                return Err(Trouble::new(Code::Malformed, text));
            }
        }
        self.settle();
        Ok(())
    }

    /// FAIL: the other end does not take it.
    fn refused(
        &mut self,
        no: FileNo,
        trouble: &Trouble,
        cx: &mut Context<'_>,
    ) -> Result<(), Trouble> {
        if let Some(sent) = self.sent(no)
            && sent.kept.is_none()
        {
            sent.kept = Some(false);
            let name = sent.name.clone();
            self.done.failed += 1;
            self.tell(Event::Failed { name: name.as_str(), trouble });
            self.settle();
            return Ok(());
        }
        match self.items.front() {
            Some(item) if item.no == no && item.started => {
                if item.stage == Stage::File {
                    self.fail(0, trouble, cx);
                }
                Ok(())
            }
            // It was given up here, too; that crossed on the way.
            _ if no < self.begun => Ok(()),
            _ => {
                let text = format_args!("FAIL of file {no}, which was not sent");
                Err(Trouble::new(Code::Malformed, text))
            }
        }
    }

    /// Takes note of what is confirmed or refused, in order.
    fn settle(&mut self) {
        while let Some(sent) = self.unconfirmed.pop_front_if(|sent| sent.kept.is_some()) {
            match (sent.kept, sent.file) {
                (Some(true), Some((length, root))) => {
                    self.listing.add(root, sent.name.as_str());
                    self.done.files += 1;
                    self.done.bytes += length;
                    self.tell(Event::Done { name: &sent.name, length, root });
                }
                (Some(true), None) => self.done.folders += 1,
                _ => {}
            }
        }
    }

    /// BYE: the other end is done, too.
    fn bye(&mut self, bye: &Bye, cx: &mut Context<'_>) -> Result<(), Trouble> {
        let (files, bytes) = (bye.files.get(), bye.bytes.get());
        self.done.root = self.listing.root();
        if let Some(sent) = self.unconfirmed.front() {
            let text = format_args!("the other end is done, but has not confirmed {}", sent.name);
            return Err(Trouble::new(Code::Malformed, text));
        }
        if (files, bytes) != (self.done.files, self.done.bytes) {
            let (here, whole) = (self.done.files, self.done.bytes);
            let text = format_args!(
                "the other end has {files} files and {bytes} bytes, not {here} and {whole}"
            );
            return Err(Trouble::new(Code::Length, text));
        }
        if Hash::from(bye.root) != self.done.root {
            return Err(Trouble::new(Code::Hash, "the other end has another hash of everything"));
        }
        self.phase = Phase::Over;
        self.talk.close(cx);
        let done = self.done;
        self.tell(Event::Finished(&done));
        Ok(())
    }
}
