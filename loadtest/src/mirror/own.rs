//! One observer's mirror of a room: a snapshot in pages, and the diffs that follow or come between them.

use super::members::Members;
use super::wire::{Diff, Snapshot, read};

#[derive(Debug)]
pub(super) struct Own {
    pub(super) epoch: Box<str>,
    pub(super) seq: u64,
    count: u64,
    pub(super) members: Members,
    pub(super) pages_to_come: u32,
    /// Diffs that came between the pages: they apply on top.
    pub(super) held: Vec<Vec<u8>>,
}

impl Own {
    pub(super) fn new(first: &Snapshot<'_>) -> Self {
        Self {
            epoch: first.epoch.as_ref().into(),
            seq: first.seq,
            count: first.count,
            members: Members::default(),
            pages_to_come: first.pages,
            held: Vec::new(),
        }
    }

    pub(super) fn add_page(&mut self, page: Snapshot<'_>) -> Result<(), String> {
        let expected = page.pages.wrapping_sub(self.pages_to_come).wrapping_add(1);
        if self.pages_to_come == 0 || page.page != expected || page.seq != self.seq || *page.epoch != *self.epoch {
            return Err(format!(
                "page {} of {} of a snapshot at seq {} is out of place",
                page.page, page.pages, page.seq
            ));
        }
        self.pages_to_come -= 1;
        self.members.extend(page.members);
        if self.pages_to_come > 0 {
            return Ok(());
        }
        if self.members.len() as u64 != self.count {
            return Err(format!("the snapshot counts {} members and lists {}", self.count, self.members.len()));
        }
        for bytes in std::mem::take(&mut self.held) {
            let diff: Diff<'_> = read(&bytes, true)?;
            if diff.seq > self.seq {
                self.apply(&diff)?;
            }
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, diff: &Diff<'_>) -> Result<(), String> {
        check_next(diff.seq, self.seq)?;
        self.seq = diff.seq;
        self.members.apply(diff)
    }
}

/// Per room and epoch `seq` grows by exactly one.
pub(super) fn check_next(seq: u64, before: u64) -> Result<(), String> {
    if seq == before + 1 { Ok(()) } else { Err(format!("seq {seq} came after {before}")) }
}
