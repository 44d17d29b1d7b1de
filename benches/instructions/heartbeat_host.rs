//! A connection with one session that only sends heartbeats.

use std::hint::black_box;
use std::sync::Arc;

use rollcall::presence::Session;
use rollcall::protocol::client::{Host, ServerInfo};
use rollcall::protocol::{Command, Outcome, SessionNumber};

use crate::common::BusyRoom;

/// See the module's documentation.
pub(super) struct HeartbeatHost<'a> {
    pub(super) busy: &'a BusyRoom,
    pub(super) session: &'a Arc<Session>,
}

impl Host for HeartbeatHost<'_> {
    fn execute(&mut self, _: SessionNumber, command: Command<'_>) -> Outcome {
        if matches!(command, Command::Heartbeat) {
            self.busy.registry.renew(self.session, black_box(self.busy.now));
        }
        Ok(())
    }

    fn identify(&mut self, _: &str) -> Option<SessionNumber> {
        None
    }

    fn is_identified(&self) -> bool {
        true
    }

    fn count_refusal(&mut self) {
        panic!("a heartbeat is never refused");
    }

    fn expect_close(&mut self) {
        panic!("a heartbeat does not close the connection");
    }

    fn name(&self) -> String {
        String::new()
    }

    fn server(&self) -> ServerInfo<'_> {
        panic!("a heartbeat does not ask about the server");
    }
}
