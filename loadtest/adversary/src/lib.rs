//! Hostile clients next to honest ones: what an attack costs a server, and whether honest clients notice.
//!
//! ```text
//! trial ─► attacks/*   what an attacker does: state machines with a seed
//!    │        └─ swarm ── client, answer    many sockets on one thread, traffic counted
//!    ├───► honest      clients whose guarantees are checked all the time: join → seen, snapshots, answers
//!    ├───► background  users and rooms that the server holds before the attack
//!    └───► sampler     ticks, CPU time and memory of the server, from /v1/stats and /proc; traffic of Redis
//! ```
//!
//! `loadtest adversary` and `tests/adversary` run the same attacks, in another size.

mod answer;
mod attack;
mod attacks;
mod background;
mod client;
mod credentials;
mod honest;
mod http;
mod sampler;
mod swarm;
mod trial;

pub use attack::{Attack, Background, Kind, Pace, Size};
pub use attacks::KINDS;
pub use client::Reading;
pub use credentials::Credentials;
pub use honest::{Broken, Waits};
pub use sampler::Sample;
pub use swarm::{Event, Id, Swarm, Traffic};
pub use trial::{Outcome, Plan, Steady, calibrate, run};
