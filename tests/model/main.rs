//! Random sequences of events against models: the presence core, watched users, and several nodes with a simulated
//! Redis. Time is simulated; no test opens a socket.

mod presence;
mod simulation;
mod store;
mod watch;
