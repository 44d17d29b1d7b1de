//! Random sequences of events against a model of what must come out: the presence core, watched users, and several nodes with
//! a simulated Redis. Time is simulated; nothing here opens a socket.

mod presence;
mod simulation;
mod store;
mod watch;
