//! What the connections of a worker may do. Connections without a grant, as all are in open mode, take no memory here.
//! A connection with one takes 40 bytes, and the grant of its credential is dropped.

use std::collections::HashMap;
use std::sync::Arc;

use crate::auth::{Action, Grant, Held, Permissions, Renewal};
use crate::connection::ConnectionId;
use crate::presence::Audience;
use crate::protocol::{Command, Outcome, Protocol, Refused};
use crate::revocations::TextHashes;

/// Connections per block, so that growing moves none of them and leaves little room unused.
const BLOCK: usize = 64;

/// The grants, by the slot of the connection.
#[derive(Debug, Default)]
pub(super) struct Grants {
    blocks: Vec<Option<Box<[Option<Held>; BLOCK]>>>,
    /// The application's names for sessions about which it is asked again, by slot.
    rechecked: HashMap<u32, Option<Arc<str>>>,
    hashes: TextHashes,
}

impl Grants {
    /// No grants yet. They are compared by these hashes.
    pub(super) fn new(hashes: TextHashes) -> Self {
        Self { hashes, ..Self::default() }
    }

    /// Sets what a connection may do from now on.
    pub(super) fn set(&mut self, connection: ConnectionId, grant: &Grant) {
        let held = Held::new(grant, &self.hashes);
        let (block, place) = place(connection);
        if block >= self.blocks.len() {
            self.blocks.resize_with(block + 1, || None);
        }
        self.blocks[block].get_or_insert_with(|| Box::new([const { None }; BLOCK]))[place] = Some(held);
        match &grant.renewal {
            Renewal::Recheck { session } => drop(self.rechecked.insert(connection.index, session.clone())),
            _ => drop(self.rechecked.remove(&connection.index)),
        }
    }

    /// What a connection may do; `None` if it may do everything.
    pub(super) fn get(&self, connection: ConnectionId) -> Option<&Held> {
        let (block, place) = place(connection);
        self.blocks.get(block)?.as_ref()?[place].as_ref()
    }

    /// The application's name for the session of a connection, if the application is asked again about it.
    pub(super) fn rechecked(&self, connection: ConnectionId) -> Option<Option<Arc<str>>> {
        if self.rechecked.is_empty() { None } else { self.rechecked.get(&connection.index).cloned() }
    }

    /// Whether a grant comes from the issuer of the present one.
    pub(super) fn is_of_same_issuer(&self, connection: ConnectionId, grant: &Grant) -> bool {
        let issuer = grant.issuer.as_ref().map(|name| self.hashes.short(name));
        self.get(connection).is_some_and(|held| held.issuer == issuer)
    }

    /// Forgets a connection, whose slot another one may take.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        let (block, place) = place(connection);
        if let Some(Some(block)) = self.blocks.get_mut(block)
            && block[place].take().is_some()
        {
            self.rechecked.remove(&connection.index);
        }
    }
}

fn place(connection: ConnectionId) -> (usize, usize) {
    let slot = connection.index as usize;
    (slot / BLOCK, slot % BLOCK)
}

/// Checks that a connection may execute a command. A client that may see numbers only observes as an audience that gets
/// nothing else.
pub(super) fn check(permissions: &Permissions, protocol: Protocol, command: &mut Command<'_>) -> Outcome {
    if permissions.is_everything() {
        return Ok(());
    }
    let may = |action, room: &str| match permissions.allow(action, room) {
        true => Ok(()),
        false => Err(Refused::Forbidden(action)),
    };
    match command {
        Command::Join { room, audience, resume, .. } => {
            may(Action::Join, room)?;
            audience
                .as_mut()
                .map_or(Ok(()), |audience| observe(permissions, protocol, room, audience, resume.is_some()))
        }
        Command::Observe { room, audience, resume } => observe(permissions, protocol, room, audience, resume.is_some()),
        Command::SetState { room, .. } => may(Action::Join, room),
        Command::Resync { room } => may(Action::Observe, room),
        Command::Publish { room, .. } => may(Action::Join, room).and_then(|()| may(Action::Publish, room)),
        Command::Relay { room, .. } => may(Action::Observe, room).and_then(|()| may(Action::Publish, room)),
        Command::Watch { users } => match users.iter().all(|user| permissions.allow_watch(user)) {
            true => Ok(()),
            false => Err(Refused::ForbiddenWatch),
        },
        Command::Heartbeat | Command::Leave { .. } | Command::Unobserve { .. } | Command::Unwatch { .. } => Ok(()),
    }
}

/// The work of the check, in bytes as [`crate::work_budget`] counts it.
pub(super) fn work(permissions: &Permissions, command: &Command<'_>) -> usize {
    let checks = match command {
        Command::Heartbeat | Command::Leave { .. } | Command::Unobserve { .. } | Command::Unwatch { .. } => 0,
        Command::SetState { .. } | Command::Resync { .. } => 1,
        Command::Observe { .. } | Command::Publish { .. } | Command::Relay { .. } => 2,
        Command::Join { .. } => 3,
        Command::Watch { users } => users.len(),
    };
    checks * permissions.check_work()
}

fn observe(
    permissions: &Permissions,
    protocol: Protocol,
    room: &str,
    audience: &mut Audience,
    resumes: bool,
) -> Outcome {
    if permissions.allow(Action::Observe, room) {
        return Ok(());
    }
    match protocol.numbers_only(*audience) {
        Some(numbers) if !resumes && permissions.allow(Action::Count, room) => {
            *audience = numbers;
            Ok(())
        }
        Some(_) if !resumes => Err(Refused::Forbidden(Action::Count)),
        _ => Err(Refused::Forbidden(Action::Observe)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::presence::State;
    use crate::protocol::Resume;

    fn grant(allow: &[&str]) -> Permissions {
        let (caps, watch) = (json!([{"rooms": ["r"], "allow": allow}]), json!(["friend-*"]));
        let permissions = Permissions::from_claims(Some(&caps), Some(&watch), &Permissions::everything());
        permissions.unwrap()
    }

    /// The commands of all kinds, about the room `r`, with the actions that each needs.
    fn commands() -> Vec<(Command<'static>, &'static [&'static str])> {
        let protocol = Protocol::ALL[0];
        let (members, count) = (protocol.audience(0), protocol.audience(1));
        let resume = Some(Resume { epoch: "e", seq: 1 });
        let join = |audience, resume| Command::Join { room: "r", state: None, audience, resume };
        let observe = |audience, resume| Command::Observe { room: "r", audience, resume };
        vec![
            (Command::Heartbeat, &[]),
            (join(None, None), &["join"]),
            (join(Some(members), None), &["join", "observe"]),
            (join(Some(members), resume), &["join", "observe"]),
            (join(Some(count), None), &["join", "count"]),
            (join(Some(count), resume), &["join", "observe"]),
            (observe(members, None), &["observe"]),
            (observe(members, resume), &["observe"]),
            (observe(count, None), &["count"]),
            (observe(count, resume), &["observe"]),
            (Command::SetState { room: "r", state: Some(State::from("{}".to_owned())) }, &["join"]),
            (Command::Resync { room: "r" }, &["observe"]),
            (Command::Publish { room: "r", data: "1".to_owned() }, &["join", "publish"]),
            (Command::Relay { room: "r", data: "1".to_owned() }, &["observe", "publish"]),
            (Command::Leave { room: "r" }, &[]),
            (Command::Unobserve { room: "r" }, &[]),
            (Command::Watch { users: vec!["friend-1"] }, &[]),
            (Command::Unwatch { users: vec!["anybody"] }, &[]),
        ]
    }

    #[test]
    fn each_command_needs_its_actions_and_no_other() {
        let all = ["join", "observe", "count", "publish"];
        for (command, needed) in commands() {
            for bits in 0..1 << all.len() {
                let allowed: Vec<_> = (0..all.len()).filter(|at| bits >> at & 1 == 1).map(|at| all[at]).collect();
                let has = |action: &str| allowed.contains(&action) || action == "count" && allowed.contains(&"observe");
                let expected = needed.iter().all(|action| has(action));
                let done = check(&grant(&allowed), Protocol::ALL[0], &mut command.clone());
                assert_eq!(done.is_ok(), expected, "{command:?} with {allowed:?}: {done:?}");
            }
        }
    }

    #[test]
    fn no_action_is_allowed_in_other_rooms_and_no_other_user_is_watched() {
        let everything = grant(&["join", "observe", "count", "publish"]);
        let check = |mut command| check(&everything, Protocol::ALL[0], &mut command).is_err();
        assert!(check(Command::Join { room: "R", state: None, audience: None, resume: None }));
        assert!(check(Command::Publish { room: "r2", data: String::new() }));
        assert!(check(Command::Watch { users: vec!["friend-1", "stranger"] }));
    }

    #[test]
    fn a_client_that_may_see_numbers_only_is_sent_no_messages() {
        let protocol = Protocol::ALL[0];
        let observe = |allow| {
            let mut command = Command::Observe { room: "r", audience: protocol.audience(1), resume: None };
            check(&grant(allow), protocol, &mut command).unwrap();
            command
        };
        let audience = |number| Command::Observe { room: "r", audience: protocol.audience(number), resume: None };
        assert_eq!(observe(&["count"]), audience(2));
        assert_eq!(observe(&["observe"]), audience(1));
    }

    #[test]
    fn a_connection_with_a_grant_takes_40_bytes_and_one_without_takes_none() {
        assert_eq!(size_of::<Option<Held>>(), 40);
        let grant = Grant {
            expires_at: Some(1_700_000_060),
            token_id: Some("t".into()),
            issuer: Some("app".into()),
            renewal: Renewal::Recheck { session: Some("s".into()) },
            ..Grant::anonymous(Arc::new(grant(&[])))
        };
        let mut grants = Grants::default();
        let id = |index| ConnectionId { index, serial: 1 };
        grants.set(id(200), &grant);
        assert!(grants.get(id(199)).is_none() && grants.get(id(1000)).is_none());
        assert_eq!(grants.blocks.iter().flatten().count(), 1);
        let held = grants.get(id(200)).unwrap();
        let hashes = &grants.hashes;
        assert_eq!((held.expires_at, held.issued_at, held.token_id), (1_700_000_060, 0, hashes.long("t")));
        assert_eq!((held.issuer, held.key_id), (Some(hashes.short("app")), None));
        assert_ne!(hashes.long("t"), hashes.long("u"));
        assert_eq!(grants.rechecked[&200].as_deref(), Some("s"));
        grants.set(id(200), &Grant { renewal: Renewal::Token, ..grant });
        assert!(grants.rechecked.is_empty() && grants.get(id(200)).is_some());
        grants.forget(id(200));
        grants.forget(id(5000));
        assert!(grants.get(id(200)).is_none());
    }

    #[test]
    fn the_check_of_large_permissions_is_paid_for() {
        let rooms: Vec<String> = (0..100).map(|number| format!("team-{number}/*")).collect();
        let caps = json!([{"rooms": rooms, "allow": ["join"]}]);
        let permissions = Permissions::from_claims(Some(&caps), None, &Permissions::everything()).unwrap();
        let (large, everything) = (permissions, Permissions::everything());
        for (command, _) in commands() {
            assert_eq!(work(&everything, &command), 0);
            let checks = match &command {
                Command::Heartbeat => 0,
                command => work(&large, command) / large.check_work(),
            };
            assert!(checks <= 3, "{command:?}");
        }
        assert_eq!(work(&large, &Command::Watch { users: vec!["a"; 1000] }), 1000 * 50);
    }
}
