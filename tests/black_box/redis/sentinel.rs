//! A Redis that Sentinels watch: nodes follow when a replica becomes the master.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tokio::time::{Instant, sleep};

use super::starting::{UNAVAILABLE, check_refused};
use crate::common::redis::{POLL, free_port};
use crate::common::resp::{self, Reply};
use crate::common::{DEADLINE, Node, Redis, RoomObservers};

const PASSWORD: &str = "hunter2secret";

struct Sentinel {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Sentinel {
    /// Watches this master as the service `main`.
    async fn watching(master: &Redis) -> Self {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("rollcall-sentinel-{}-{port}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
        let settings = format!(
            "port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {} 1\n\
             sentinel auth-user main rollcall\nsentinel auth-pass main {PASSWORD}\nsentinel down-after-milliseconds main 60000\n\
             sentinel failover-timeout main 60000\n",
            master.port,
            folder = folder.display(),
        );
        fs::write(folder.join("sentinel.conf"), settings).expect("a file");
        let mut command = Command::new("redis-server");
        command.arg(folder.join("sentinel.conf")).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null());
        let sentinel = Self { child: command.spawn().expect("redis-server starts"), port, folder };
        sentinel.until(&["PING"], |reply| *reply == Reply::Text("PONG".to_owned())).await;
        sentinel
    }

    async fn until(&self, words: &[&str], done: impl Fn(&Reply) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let reply = resp::execute(([127, 0, 0, 1], self.port).into(), &[words]).await;
            if reply.as_ref().is_ok_and(&done) {
                return;
            }
            assert!(Instant::now() < deadline, "{words:?}: {reply:?}");
            sleep(POLL).await;
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn nodes_follow_the_master_that_sentinels_name() {
    let login = ["--masteruser", "rollcall", "--masterauth", PASSWORD];
    let master = Redis::with_login("rollcall", PASSWORD, &login).await;
    let port = master.port.to_string();
    let flags = [&login[..], &["--replicaof", "127.0.0.1", &port]].concat();
    let replica = Redis::with_login("rollcall", PASSWORD, &flags).await;
    let sentinel = Sentinel::watching(&master).await;
    let knows_replica = |reply: &Reply| format!("{reply:?}").contains("num-slaves\"), Text(\"1\")");
    sentinel.until(&["SENTINEL", "MASTER", "main"], knows_replica).await;
    replica.until(&["INFO", "replication"], |info| info.text().contains("master_link_status:up")).await;
    // The first Sentinel is not there.
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", free_port(), sentinel.port);
    check_refused(&["--redis", &format!("redis+sentinel://{hosts}/other")], UNAVAILABLE, &["\"other\""]).await;
    let url = format!("redis+sentinel://rollcall:{PASSWORD}@{hosts}/main");
    let (a, b) = tokio::join!(Node::start("a", &url, &[]), Node::start("b", &url, &[]));
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    let _alice = a.connect_to("alice", "lobby").await;
    observers.wait_for_members(&[&a, &b], &["alice"]).await;
    sentinel.until(&["SENTINEL", "FAILOVER", "main"], |reply| *reply == Reply::Text("OK".to_owned())).await;
    let new_port = replica.port.to_string();
    let names_replica = |reply: &Reply| format!("{reply:?}").contains(&new_port);
    sentinel.until(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"], names_replica).await;
    let _bob = b.connect_to("bob", "lobby").await;
    observers.wait_for_members(&[&a, &b], &["alice", "bob"]).await;
    replica.until(&["EXISTS", "presence:{0}:u:bob"], |reply| reply.number() == 1).await;
    for node in [&a, &b] {
        node.wait_until_degraded(false).await;
    }
    observers.assert_stable(&["alice"]);
    assert!(!a.output().contains(PASSWORD), "{}", a.output());
}
