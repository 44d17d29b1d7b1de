//! Passes renewals of grants to the HTTP thread, and their results to the connections.

use bytes::BytesMut;

use super::EventLoop;
use crate::auth::{Denied, Reason, Renewed};
use crate::connection::find_connection;
use crate::presence::Tick;
use crate::worker::verifications::RenewalId;

impl EventLoop {
    /// Has the HTTP thread verify what is new since the last call.
    pub(super) fn send_renewals(&mut self) {
        for job in self.worker.take_renewals() {
            self.http.renew(job);
        }
    }

    /// Handles the result of a renewal.
    pub(super) fn take_renewed(&mut self, id: RenewalId, renewed: Renewed) {
        let Some(connection) = find_connection(&mut self.connections, id.connection) else { return };
        let mut replies = BytesMut::new();
        self.worker.renewed(connection, id, renewed, &mut replies);
        self.worker.reply(connection, &mut replies);
        self.remove_if_dead(id.connection);
    }

    /// Ends renewals that take too long.
    pub(super) fn end_renewals(&mut self, now: Tick) {
        while let Some(id) = self.worker.next_overdue_renewal(now) {
            let message = "the credential could not be verified in time; try again later";
            self.take_renewed(id, Err(Denied::new(Reason::Undecided, message)));
        }
    }
}
