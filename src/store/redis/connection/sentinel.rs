//! Sentinels: servers that watch a Redis and its replicas and know which of them is the master now.

use redis::{AsyncConnectionConfig, Cmd, ConnectionInfo, Value};

use super::commands::text;
use super::servers::with_host;
use super::{DEADLINE, NO_REPLY, RedisServers, check_error, open, within_deadline};
use crate::deadline::timeout;

impl RedisServers {
    /// The master of a service, from the first Sentinel that knows it.
    pub(super) async fn master_of(&self, service: &str) -> Result<ConnectionInfo, String> {
        let mut last_error = String::new();
        for sentinel in &self.configured {
            let limit = DEADLINE / 2;
            let found = timeout(limit, ask(sentinel, service)).await;
            match found.unwrap_or_else(|_| Err(format!("{NO_REPLY} {} ms", limit.as_millis()))) {
                Ok(master) => return Ok(master),
                Err(error) => last_error = format!("{error} (Sentinel at {})", sentinel.addr()),
            }
        }
        Err(last_error)
    }
}

/// Asks without a login first: the one of the URL is for Redis, and Sentinels often have none.
async fn ask(sentinel: &ConnectionInfo, service: &str) -> Result<ConnectionInfo, String> {
    let settings = sentinel.redis_settings().clone().set_db(0);
    let with_login = sentinel.clone().set_redis_settings(settings);
    let without_login =
        sentinel.clone().set_redis_settings(redis::RedisConnectionInfo::default().set_skip_set_lib_name());
    match ask_once(without_login, service).await {
        Err(error) if error.contains("NOAUTH") && sentinel.redis_settings().password().is_some() => {
            ask_once(with_login, service).await
        }
        reply => reply,
    }
    .and_then(|(host, port)| {
        let address = with_host(Some(host), port, sentinel.addr()).ok_or("Sentinels cannot be at a Unix socket")?;
        Ok(sentinel.clone().set_addr(address))
    })
}

async fn ask_once(sentinel: ConnectionInfo, service: &str) -> Result<(String, u16), String> {
    let mut connection = open(sentinel, AsyncConnectionConfig::new()).await?;
    let mut command = Cmd::new();
    command.arg("SENTINEL").arg("get-master-addr-by-name").arg(service);
    let reply = check_error(within_deadline(connection.send_packed_command(&command)).await?)?;
    let Value::Array(parts) = reply else {
        return Err(format!("it does not know the service {service:?}"));
    };
    let mut parts = parts.into_iter().filter_map(text);
    let (host, port) = (parts.next(), parts.next().and_then(|port| port.parse().ok()));
    host.zip(port).ok_or_else(|| "the reply is not an address".to_owned())
}
