//! Several nodes on one Redis or one Redis Cluster, and what happens when any of them fails. The tests run real processes.

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
mod event_log;
mod harness;
mod health;
mod keys;
mod nodes;
mod observers;
mod outages;
mod partition;
mod starting;
mod user_features;
