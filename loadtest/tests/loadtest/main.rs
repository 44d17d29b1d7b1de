//! `loadtest` as a process, against the floor, the real server, a native stub and a proxy that can be wrong, and
//! against nothing.

mod children;
mod churn;
mod engine;
mod failures;
mod floor;
mod native;
mod proxy;
mod series;
mod soak;
mod storm;
mod stub;
