//! `loadtest` as a process, against the floor, against a native stub that can be wrong, and against nothing.

mod children;
mod failures;
mod floor;
mod native;
mod stub;
