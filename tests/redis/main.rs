//! Many nodes on one Redis, and what happens when any of them fails: black-box tests on real processes. One binary, so that
//! tests that mostly wait do so side by side.

#[path = "../common/mod.rs"]
mod common;

/// Runs each of these functions on one Redis and on a Redis Cluster.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod on_one_redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::common::Store::single().await).await;
            })+
        }
        mod on_a_redis_cluster {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::common::Store::cluster().await).await;
            })+
        }
    };
}

mod basics;
mod chaos;
mod cluster;
mod harness;
mod health;
mod keys;
mod nodes;
mod outages;
mod partition;
mod people;
mod starting;
