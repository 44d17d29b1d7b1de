//! Kicks and revocations. Revocations of many credentials look at all connections, in slices, so that others need not
//! wait.

use super::EventLoop;
use crate::presence::kick::Kick;
use crate::revocations::Target;

/// Slots that one turn of the loop looks at.
const SLOTS_PER_TURN: usize = 4096;
/// Connections that one turn of the loop closes.
const CLOSES_PER_TURN: usize = 256;

impl EventLoop {
    /// Executes kicks.
    pub(super) fn kick(&mut self, kicks: &[Kick]) {
        for kick in kicks {
            for slot in self.worker.start_kick(kick) {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    self.worker.kick_connection(connection, kick);
                }
            }
        }
        self.kick_late(kicks);
    }

    /// Ends connections with revoked credentials: at once if their users are known, or in the next turns.
    pub(super) fn revoke(&mut self, revoked: &[Target]) {
        if revoked.is_empty() {
            return;
        }
        self.worker.end_revoked_sessions(revoked);
        match self.worker.slots_of_revoked(revoked) {
            Some(slots) => slots.into_iter().for_each(|slot| {
                self.revoke_at(slot as usize);
            }),
            // What was looked at before may match now.
            None => self.next_revoked_slot = Some(0),
        }
    }

    /// Looks at the next connections, if there are any to look at.
    pub(super) fn continue_revoking(&mut self) {
        let Some(first) = self.next_revoked_slot.take() else { return };
        let mut closed = 0;
        for slot in first..self.connections.capacity().min(first + SLOTS_PER_TURN) {
            closed += usize::from(self.revoke_at(slot));
            if closed == CLOSES_PER_TURN {
                self.next_revoked_slot = Some(slot + 1);
                return;
            }
        }
        let next = first + SLOTS_PER_TURN;
        self.next_revoked_slot = Some(next).filter(|next| *next < self.connections.capacity());
    }

    fn revoke_at(&mut self, slot: usize) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else { return false };
        self.worker.end_if_revoked(connection)
    }
}
