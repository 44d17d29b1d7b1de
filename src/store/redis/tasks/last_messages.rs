//! The last messages of rooms that are read because an observer asks for them.

use std::convert::Infallible;

use super::super::connection::RedisConnection;
use super::super::partition::{last_answers, read_last};
use super::Tasks;
use crate::os::unix_ms;

/// The limit of rooms per pipeline.
const MAX_ROOMS: usize = 500;

impl Tasks {
    /// Reads the last messages of rooms about which this node does not know enough.
    pub(super) async fn read_last_messages(
        &self,
        number: usize,
        mut connection: RedisConnection,
    ) -> Result<Infallible, String> {
        let (task, messages) = (&self.partitions[number], &self.queue.last_messages);
        // The subscription is younger than this.
        messages.listens(number);
        loop {
            let (question, rooms) = messages.take_questions(number, MAX_ROOMS);
            if rooms.is_empty() {
                task.has_questions.notified().await;
                continue;
            }
            let replies = self.execute(&mut connection, &read_last(&rooms, &self.schema)).await?;
            messages.answered(number, question, last_answers(rooms, &replies, self.latest_message_time())?);
        }
    }

    /// Messages of later times have their times from wrong clocks, and would displace all others.
    pub(super) fn latest_message_time(&self) -> u64 {
        self.queue.clock().latest_message_time(unix_ms())
    }
}
