//! The store that nodes share: one Redis or a Redis Cluster, so that a test can run on both.

use tokio::time::{Instant, sleep};

use super::redis::POLL;
use super::{DEADLINE, Node, Redis, RedisCluster};

pub(crate) enum Store {
    Single(Redis),
    Cluster(RedisCluster),
}

impl Store {
    pub(crate) async fn single() -> Self {
        Self::Single(Redis::start().await)
    }

    pub(crate) async fn cluster() -> Self {
        Self::Cluster(RedisCluster::start().await)
    }

    pub(crate) fn flags(&self) -> Vec<String> {
        match self {
            Self::Single(redis) => vec!["--redis".to_owned(), redis.url()],
            Self::Cluster(cluster) => cluster.flags(),
        }
    }

    pub(crate) async fn node(&self, id: &str) -> Node {
        self.node_with(id, &[]).await
    }

    pub(crate) async fn node_with(&self, id: &str, flags: &[&str]) -> Node {
        let own = self.flags();
        let own: Vec<_> = own.iter().map(String::as_str).collect();
        Node::with_flags(id, &[&own, flags].concat()).await
    }

    /// Nodes `a`, `b` and `c`.
    pub(crate) async fn three_nodes(&self, flags: &[&str]) -> [Node; 3] {
        let start = |id| self.node_with(id, flags);
        let (a, b, c) = tokio::join!(start("a"), start("b"), start("c"));
        [a, b, c]
    }

    pub(crate) async fn keys(&self) -> Vec<String> {
        match self {
            Self::Single(redis) => redis.keys().await,
            Self::Cluster(cluster) => cluster.keys().await,
        }
    }

    /// Waits for a key with this ending.
    pub(crate) async fn until_key(&self, end: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let keys = self.keys().await;
            if keys.iter().any(|key| key.ends_with(end)) {
                return;
            }
            assert!(Instant::now() < deadline, "no key ends with {end}: {keys:?}");
            sleep(POLL).await;
        }
    }
}
