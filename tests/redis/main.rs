//! Many nodes on one Redis, and what happens when any of them fails: black-box tests on real processes. One binary, so that
//! tests that mostly wait do so side by side.

#[path = "../common/mod.rs"]
mod common;

mod harness;
