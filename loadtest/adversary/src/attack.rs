//! What an attack is: a state machine that drives a swarm, with a random seed.

use std::time::Duration;

use fastrand::Rng;

use crate::swarm::{Event, Swarm};

/// An attacker. The driver calls `react` for each event and then `step`, again and again, until the time is over.
pub trait Attack: Send {
    /// Something happened to a socket.
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        let _ = (swarm, event);
    }

    /// Does what is due. `now` is the time since the attack began.
    fn step(&mut self, swarm: &mut Swarm, now: Duration);

    /// Whether its preparation is done. From then on, the attack can go on for as long as the attacker likes, so this
    /// part also has ratios of its own.
    fn is_prepared(&self, swarm: &Swarm) -> bool {
        let _ = swarm;
        true
    }
}

/// What the server holds before the attack begins, on behalf of honest users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Background {
    /// Users in the lobby who send heartbeats over REST.
    pub rest_users: usize,
    /// The length of their names.
    pub name_bytes: usize,
    /// The number of these users that are replaced by others, per second.
    pub replaced_per_s: usize,
    /// Users with a connection each.
    pub members: usize,
    /// The rooms of each user: `hall 0` and so on for the first 100 users, others for the next 100.
    pub rooms_each: usize,
    /// Whether all of them are in the same rooms.
    pub same_rooms: bool,
    /// The size of a member's state in each room; 0: none.
    pub state_bytes: usize,
}

/// A known attack.
pub struct Kind {
    /// Its row in the table of results.
    pub id: &'static str,
    /// Its name on the command line.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// Whether it needs a server that uses Redis.
    pub needs_redis: bool,
    /// Whether it needs a server that requires tokens.
    pub needs_tokens: bool,
    /// At full size.
    pub background: Background,
    /// The attacker.
    pub make: fn(&Size) -> Box<dyn Attack>,
}

/// How large an attack is, and its seed.
#[derive(Clone, Debug)]
pub struct Size {
    /// 1.0: as published. Tests use less.
    pub share: f64,
    /// For everything random.
    pub rng: Rng,
}

impl Size {
    /// A share and a seed.
    #[must_use]
    pub fn new(share: f64, seed: u64) -> Self {
        Self { share, rng: Rng::with_seed(seed) }
    }

    /// This share of a full number, at least one.
    pub fn of(&self, full: usize) -> usize {
        ((full as f64 * self.share).round() as usize).max(1)
    }
}

impl Background {
    /// This share of it. Sizes of names and states stay.
    #[must_use]
    pub fn scaled(self, size: &Size) -> Self {
        let of = |full| if full == 0 { 0 } else { size.of(full) };
        Self {
            rest_users: of(self.rest_users),
            replaced_per_s: of(self.replaced_per_s),
            members: of(self.members),
            ..self
        }
    }
}

/// A rate on a schedule: says how many operations are due.
#[derive(Debug)]
pub struct Pace {
    per_second: f64,
    done: f64,
}

impl Pace {
    /// This many operations per second.
    pub fn new(per_second: f64) -> Self {
        Self { per_second, done: 0.0 }
    }

    /// The operations that are due and not yet done. Late ones stay due for a quarter of a second.
    pub fn due(&mut self, now: Duration) -> usize {
        let planned = now.as_secs_f64() * self.per_second;
        self.done = self.done.max(planned - (self.per_second / 4.0).max(1.0));
        let due = (planned - self.done).max(0.0).floor();
        self.done += due;
        due as usize
    }

    /// Returns operations that could not be done.
    pub fn give_back(&mut self, count: usize) {
        self.done -= count as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_follows_its_schedule_and_forgets_what_is_too_late() {
        let mut pace = Pace::new(100.0);
        assert_eq!(pace.due(Duration::from_millis(55)), 5);
        assert_eq!(pace.due(Duration::from_millis(55)), 0);
        assert_eq!(pace.due(Duration::from_millis(105)), 5);
        assert_eq!(pace.due(Duration::from_secs(10)), 25);
        pace.give_back(3);
        assert_eq!(pace.due(Duration::from_secs(10)), 3);
    }
}
