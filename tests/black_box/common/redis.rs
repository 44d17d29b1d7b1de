//! A redis-server that a test starts: on a free port, in its own folder, without persistence. It can be killed,
//! restarted empty on the same port, and stopped and resumed.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::DEADLINE;
use super::resp::{self, Reply};
use super::tls::Certificates;

/// How often a condition is checked.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// Below the ports that the system gives to clients. Otherwise a client that reconnects to a stopped Redis could be
/// given the port of that Redis. Tests in other languages, which run at the same time, use others.
const FIRST_PORT: u16 = 16_000;
const PORTS: u16 = 4000;
/// The number of ports to try: at least one of them is free.
pub(crate) const ATTEMPTS: usize = 20;

/// A port without a listener, and another one for each call: nothing else of these tests takes the port of a server
/// that is dead for a while. Another process may still bind it first.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static FIRST: LazyLock<u16> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()) as u16 % PORTS);
    loop {
        let offset = (*FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS) % PORTS;
        let port = FIRST_PORT + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub(crate) struct Redis {
    /// `None` while it is killed.
    child: Option<Child>,
    pub(crate) port: u16,
    folder: PathBuf,
    flags: Vec<String>,
    /// The user and password with which the tests log in.
    login: Option<[String; 2]>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts with further flags of redis-server.
    pub(crate) async fn with(flags: &[&str]) -> Self {
        Self::launch(flags, None).await
    }

    /// Starts a server that accepts only this user with this password.
    pub(crate) async fn with_login(user: &str, password: &str, flags: &[&str]) -> Self {
        let rule = format!("--user {user} on >{password} ~* &* +@all");
        let mut flags = [flags, &["--user", "default", "off"]].concat();
        flags.extend(rule.split(' '));
        Self::launch(&flags, Some([user.to_owned(), password.to_owned()])).await
    }

    /// Starts a server that accepts TLS on a second port.
    pub(crate) async fn with_tls(certificates: &Certificates, port: &str) -> Self {
        Self::with_certificate(certificates, port, "redis", "no").await
    }

    /// The same with another certificate. `auth_clients` says whether clients need one as well.
    pub(crate) async fn with_certificate(
        certificates: &Certificates,
        port: &str,
        name: &str,
        auth_clients: &str,
    ) -> Self {
        let [certificate, key] = ["crt", "key"].map(|end| certificates.path(&format!("{name}.{end}")));
        let authority = certificates.path("ca.crt");
        let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &authority];
        Self::with(&[&["--tls-port", port, "--tls-auth-clients", auth_clients], &files[..]].concat()).await
    }

    async fn launch(flags: &[&str], login: Option<[String; 2]>) -> Self {
        // Another process may bind the free port before redis-server does. Then the next port is tried.
        for _ in 0..ATTEMPTS {
            if let Some(redis) = Self::attempt(flags, login.clone()).await {
                return redis;
            }
        }
        panic!("redis-server does not start with {flags:?}");
    }

    /// Starts a server on the next free port. `None` if another process has bound the port first.
    pub(crate) async fn attempt(flags: &[&str], login: Option<[String; 2]>) -> Option<Self> {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("rollcall-redis-{}-{port}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
        let mut redis = Self { child: None, port, folder, flags, login };
        redis.spawn();
        redis.ready().await.then_some(redis)
    }

    fn spawn(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("a file");
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--dir", self.folder.to_str().expect("a plain path")])
            .args(["--repl-diskless-sync-delay", "0", "--unixsocket", &self.socket_path()])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error}. Install it with scripts/install redis-server"));
        self.child = Some(child);
    }

    /// Waits until the server answers. False if it has exited instead. Another server may have the port.
    async fn ready(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        let own = format!("process_id:{}\r\n", self.pid());
        while !matches!(self.try_command(&["INFO", "server"]).await, Ok(Reply::Text(info)) if info.contains(&own)) {
            let child = self.child.as_mut().expect("it was started");
            if child.try_wait().expect("a child can be asked").is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "redis-server does not answer: {}", self.log());
            sleep(POLL).await;
        }
        true
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The URL for a node, without a login.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub(crate) fn socket_path(&self) -> String {
        self.folder.join("socket").to_str().expect("a plain path").to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Executes a command that must succeed.
    pub(crate) async fn command(&self, words: &[&str]) -> Reply {
        match self.try_command(words).await {
            Ok(Reply::Error(error)) => panic!("{words:?}: {error}"),
            Ok(reply) => reply,
            Err(error) => panic!("{words:?}: {error}"),
        }
    }

    pub(crate) async fn try_command(&self, words: &[&str]) -> std::io::Result<Reply> {
        match &self.login {
            Some([user, password]) => resp::execute(self.address(), &[&["AUTH", user, password], words]).await,
            None => resp::execute(self.address(), &[words]).await,
        }
    }

    /// Repeats a command until its reply meets the condition.
    pub(crate) async fn until(&self, words: &[&str], done: impl Fn(&Reply) -> bool) -> Reply {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let reply = self.command(words).await;
            if done(&reply) {
                return reply;
            }
            assert!(Instant::now() < deadline, "{words:?} still returns {reply:?}");
            sleep(POLL).await;
        }
    }

    /// All keys, sorted.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut keys = self.command(&["KEYS", "*"]).await.texts();
        keys.sort();
        keys
    }

    /// How often a command was executed, by `INFO commandstats`.
    pub(crate) async fn calls(&self, command: &str) -> u64 {
        let info = self.command(&["INFO", "commandstats"]).await;
        let head = format!("cmdstat_{command}:calls=");
        let line = info.text().lines().find_map(|line| line.strip_prefix(&head));
        line.map_or(0, |rest| rest.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number of calls"))
    }

    /// Sends SIGKILL. The data is lost.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts an empty server on the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.spawn();
        assert!(self.ready().await, "redis-server does not start again: {}", self.log());
    }

    /// Sends SIGSTOP: connections stay open, but commands are not answered.
    pub(crate) fn hang(&self) {
        self.signal("STOP");
    }

    /// Sends SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name}");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
