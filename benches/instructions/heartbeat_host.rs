//! A connection with one session that only sends heartbeats.

use std::any::Any;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

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

    fn forget(&mut self, _: SessionNumber) {
        panic!("a heartbeat takes no user away");
    }

    fn charge(&mut self, _: usize) {
        panic!("a heartbeat is free");
    }

    fn renew(&mut self, _: &str) -> Outcome {
        panic!("a heartbeat renews no token");
    }

    fn check_user(&self, _: &str) -> Result<(), &'static str> {
        Ok(())
    }

    fn watched(&self) -> Vec<Arc<str>> {
        Vec::new()
    }

    fn has_rooms(&self) -> bool {
        true
    }

    fn count_refused_handshake(&mut self) {
        panic!("a heartbeat is not a handshake");
    }

    fn count_refusal(&mut self) {
        panic!("a heartbeat is never refused");
    }

    fn expect_close(&mut self) {
        panic!("a heartbeat does not close the connection");
    }

    fn data(&mut self) -> &mut Option<Box<dyn Any + Send>> {
        panic!("nothing is kept about a connection that only sends heartbeats");
    }

    fn set_number(&mut self, _: u64) {
        panic!("a heartbeat has no number");
    }

    fn set_alarm(&mut self, _: Duration) {
        panic!("a heartbeat sets no alarm");
    }

    fn is_encrypted(&self) -> bool {
        false
    }

    fn name(&self) -> String {
        String::new()
    }

    fn server(&self) -> ServerInfo<'_> {
        panic!("a heartbeat does not ask about the server");
    }
}
