//! A Redis Cluster that a test starts: three masters with one replica each. `fail_over` replaces a master by its
//! replica.

use futures_util::future::join_all;

use super::redis::{ATTEMPTS, Redis, free_port};

const SLOTS: usize = 16384;
const MASTERS: usize = 3;
/// After this time a silent master counts as failed. It is long, so that a loaded machine causes no failover.
const NODE_TIMEOUT_MS: &str = "30000";
/// The same while a test waits for the failover of a killed master.
const FAILOVER_TIMEOUT_MS: &str = "1500";

pub(crate) struct RedisCluster {
    /// The first three start as masters. Each of the others starts as the replica of the server three places before it.
    pub(crate) servers: Vec<Redis>,
}

impl RedisCluster {
    pub(crate) async fn start() -> Self {
        let servers = join_all((0..2 * MASTERS).map(|_| server())).await;
        let cluster = Self { servers };
        let slots: Vec<_> = (0..=MASTERS).map(|master| (SLOTS * master / MASTERS).to_string()).collect();
        for (master, server) in cluster.servers[..MASTERS].iter().enumerate() {
            let last = (slots[master + 1].parse::<usize>().expect("a slot") - 1).to_string();
            server.command(&["CLUSTER", "ADDSLOTSRANGE", &slots[master], &last]).await;
            server.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(master + 1).to_string()]).await;
        }
        let first = &cluster.servers[0];
        for server in &cluster.servers[1..] {
            let bus = server.command(&["CONFIG", "GET", "cluster-port"]).await.texts()[1].clone();
            first.command(&["CLUSTER", "MEET", "127.0.0.1", &server.port.to_string(), &bus]).await;
        }
        let all = format!("cluster_known_nodes:{}", cluster.servers.len());
        for server in &cluster.servers {
            server.until(&["CLUSTER", "INFO"], |info| info.text().contains(&all)).await;
        }
        for (master, replica) in cluster.servers.iter().zip(&cluster.servers[MASTERS..]) {
            let master = master.command(&["CLUSTER", "MYID"]).await;
            replica.command(&["CLUSTER", "REPLICATE", master.text()]).await;
        }
        cluster.settle().await;
        cluster
    }

    /// Waits until each server reports a healthy cluster and each replica follows its master.
    async fn settle(&self) {
        for (number, server) in self.servers.iter().enumerate() {
            server.until(&["CLUSTER", "INFO"], |info| info.text().contains("cluster_state:ok")).await;
            if number >= MASTERS {
                server.until(&["INFO", "replication"], |info| info.text().contains("master_link_status:up")).await;
                let replicas = |nodes: &str| nodes.lines().filter(|line| line.contains("slave")).count() == MASTERS;
                self.servers[0].until(&["CLUSTER", "NODES"], |nodes| replicas(nodes.text())).await;
            }
        }
    }

    /// The URLs that a node is started with: those of two of the masters.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.servers[..2].iter().map(Redis::url).collect()
    }

    /// The flags of a node that uses this cluster.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--redis-cluster".to_owned()];
        flags.extend(self.urls().into_iter().flat_map(|url| ["--redis".to_owned(), url]));
        flags
    }

    /// The master that had the slot of `key` at the start, and another one.
    pub(crate) async fn master_and_next(&self, key: &str) -> (usize, usize) {
        let master = self.master_of(key).await;
        (master, (master + 1) % MASTERS)
    }

    /// Begins to move the slot of `key` from one master to another. Returns the slot.
    pub(crate) async fn begin_to_move(&self, key: &str, from: usize, to: usize) -> String {
        let slot = self.servers[from].command(&["CLUSTER", "KEYSLOT", key]).await.number().to_string();
        let (from_id, to_id) = (self.id(from).await, self.id(to).await);
        self.servers[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        self.servers[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
        slot
    }

    /// Moves up to this number of keys of a slot.
    pub(crate) async fn move_keys(&self, from: usize, to: usize, slot: &str, count: usize) {
        let keys = self.servers[from].command(&["CLUSTER", "GETKEYSINSLOT", slot, &count.to_string()]).await.texts();
        let port = self.servers[to].port.to_string();
        for key in keys {
            self.servers[from].command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]).await;
        }
    }

    /// Moves the rest of a slot, and makes its new master known to all servers.
    pub(crate) async fn finish_move(&self, from: usize, to: usize, slot: &str) {
        // Between the two commands a node may write a key on the old master.
        while !self.servers[from].command(&["CLUSTER", "GETKEYSINSLOT", slot, "100"]).await.texts().is_empty() {
            self.move_keys(from, to, slot, 100).await;
        }
        let id = self.id(to).await;
        for server in [to, from].into_iter().chain((0..MASTERS).filter(|server| ![to, from].contains(server))) {
            self.servers[server].command(&["CLUSTER", "SETSLOT", slot, "NODE", &id]).await;
        }
    }

    async fn id(&self, server: usize) -> String {
        self.servers[server].command(&["CLUSTER", "MYID"]).await.text().to_owned()
    }

    /// Kills a master and waits until its replica has taken over its slots.
    pub(crate) async fn fail_over(&mut self, master: usize) {
        self.servers[master].kill();
        let running = |number: &usize| *number != master;
        for timeout in [FAILOVER_TIMEOUT_MS, NODE_TIMEOUT_MS] {
            for number in (0..2 * MASTERS).filter(running) {
                self.servers[number].command(&["CONFIG", "SET", "cluster-node-timeout", timeout]).await;
            }
            let replica = &self.servers[master + MASTERS];
            replica.until(&["INFO", "replication"], |info| info.text().contains("role:master")).await;
            for number in (0..2 * MASTERS).filter(running) {
                let server = &self.servers[number];
                server.until(&["CLUSTER", "INFO"], |info| info.text().contains("cluster_state:ok")).await;
            }
        }
    }

    /// The index of the master that had the slot of `key` at the start.
    pub(crate) async fn master_of(&self, key: &str) -> usize {
        let slot =
            self.servers.last().expect("the servers are running").command(&["CLUSTER", "KEYSLOT", key]).await.number();
        usize::try_from(slot).expect("a slot") * MASTERS / SLOTS
    }

    /// All keys of all masters, sorted.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for server in &self.servers[..MASTERS] {
            keys.extend(server.keys().await);
        }
        keys.sort();
        keys
    }
}

async fn server() -> Redis {
    for _ in 0..ATTEMPTS {
        // The default cluster port is 10,000 above the other port, in the range that the system gives to clients.
        let bus = free_port().to_string();
        let flags = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", NODE_TIMEOUT_MS];
        let flags = [&flags[..], &["--cluster-replica-validity-factor", "0"]].concat();
        if let Some(redis) = Redis::attempt(&flags, None).await {
            return redis;
        }
    }
    panic!("no server of a Redis Cluster could be started");
}
