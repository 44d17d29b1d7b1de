//! Runs `loadtest` as a process: against the floor, the real server, a stub and a proxy that can be faulty, and against
//! no server.

mod children;
mod churn;
mod failures;
mod floor;
mod native;
mod proxy;
mod real_server;
mod renew;
mod series;
mod soak;
mod storm;
mod stub;
