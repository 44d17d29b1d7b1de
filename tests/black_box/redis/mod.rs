//! Several nodes on one Redis or one Redis Cluster, and failures of both. Nodes and Redis servers run as processes.

/// Makes two tests of each function: one runs it on a single Redis, the other on a Redis Cluster.
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

mod amplification;
mod basics;
mod chaos;
mod chat_history;
mod cluster;
mod event_log;
mod front_door;
mod harness;
mod health;
mod keys;
mod nodes;
mod observers;
mod outages;
mod partial_failures;
mod partition;
mod permissions;
mod revocation;
mod sentinel;
mod starting;
mod tls;
mod user_features;
mod webhooks;
