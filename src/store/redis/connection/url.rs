//! URLs of Redis servers: what is accepted, and what is wrong with others. No message repeats a URL, which may contain
//! a password.

use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use super::KEEPALIVE;
use super::tls::TlsPem;

/// The port of a Sentinel.
const SENTINEL_PORT: u16 = 26379;
const FORMS: &str = "write it like redis://127.0.0.1:6379/0, rediss://user:password@host:6380, \
                     redis+unix:///path/to/socket or redis+sentinel://host1,host2/service; in a password, write special \
                     characters as in %40 for @";

/// Where to connect to.
#[derive(Debug)]
pub(super) struct Target {
    /// The servers, or the Sentinels that know the server.
    pub(super) servers: Vec<ConnectionInfo>,
    /// The name by which Sentinels know the server.
    pub(super) service: Option<String>,
    /// Whether the servers are those of a cluster.
    pub(super) is_cluster: bool,
}

impl Target {
    /// Reads URLs; several belong to one cluster.
    pub(super) fn parse(urls: &[String], is_cluster: bool, tls: &TlsPem) -> Result<Self, String> {
        let is_sentinel = |url: &String| url.split_once("://").is_some_and(|(scheme, _)| scheme.ends_with("+sentinel"));
        if let Some(url) = urls.iter().find(|url| is_sentinel(url)) {
            return match (urls.len(), is_cluster) {
                (1, false) => Self::of_sentinels(url, tls),
                (1, true) => Err("names Sentinels and --redis-cluster is given: a cluster has no Sentinels".to_owned()),
                _ => Err("names Sentinels: write all of them in one URL, separated by commas".to_owned()),
            };
        }
        let servers = urls.iter().map(|url| parse_url(url, tls)).collect::<Result<Vec<_>, _>>()?;
        let is_cluster = is_cluster || urls.len() > 1;
        if is_cluster && servers.iter().any(|server| server.redis_settings().db() != 0) {
            return Err("names a database other than 0: a Redis Cluster has only that one".to_owned());
        }
        if servers.windows(2).any(|pair| !have_same_settings(&pair[0], &pair[1])) {
            return Err(
                "is given several times with different users, passwords or schemes: all servers of a cluster need the same"
                    .to_owned(),
            );
        }
        Ok(Self { servers, service: None, is_cluster })
    }

    /// `redis+sentinel://[user:password@]host1[:port],host2[:port]/service[/database]`.
    fn of_sentinels(url: &str, tls: &TlsPem) -> Result<Self, String> {
        check_extras(url, &[])?;
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let base = match scheme {
            "redis+sentinel" | "valkey+sentinel" => "redis",
            "rediss+sentinel" | "valkeys+sentinel" => "rediss",
            _ => return Err(format!("is not the URL of a Redis server: {FORMS}")),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (service, database) =
            path.trim_end_matches('/').split_once('/').unwrap_or((path.trim_end_matches('/'), "0"));
        if service.is_empty() {
            return Err(
                "does not name the service that the Sentinels watch: redis+sentinel://host1,host2/service".to_owned()
            );
        }
        let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        let separator = if login.is_empty() { "" } else { "@" };
        let server = |host: &str| {
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let port = if has_port { String::new() } else { format!(":{SENTINEL_PORT}") };
            parse_url(&format!("{base}://{login}{separator}{host}{port}/{database}"), tls)
        };
        if hosts.split(',').any(str::is_empty) {
            return Err("has an empty host in its list of Sentinels: is there a comma too many?".to_owned());
        }
        let servers = hosts.split(',').map(server).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { servers, service: Some(service.to_owned()), is_cluster: false })
    }
}

/// Reads a URL.
fn parse_url(url: &str, tls: &TlsPem) -> Result<ConnectionInfo, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let is_unix = scheme.ends_with("unix");
    check_extras(url, if is_unix { &["db", "user", "pass", "protocol"] } else { &["protocol"] })?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if !is_unix && authority.rsplit('@').next().is_some_and(|host| host.contains(',')) {
        return Err("has a comma in its host. Several URLs are separated by spaces or line breaks, or --redis is \
                    repeated; a comma in a password needs no escape"
            .to_owned());
    }
    let info = url
        .into_connection_info()
        .map_err(|error| format!("is not the URL of a Redis server ({:?}): {FORMS}", error.kind()))?;
    if info.redis_settings().db() < 0 {
        return Err("has a negative number of a database".to_owned());
    }
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 5);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(KEEPALIVE * 2);
    // Naming the client would need a further permission and helps nobody.
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    tls.apply(info.set_tcp_settings(tcp).set_redis_settings(settings))
}

/// Refuses parameters and fragments that mean nothing: a setting that is ignored is worse than an error.
fn check_extras(url: &str, known: &[&str]) -> Result<(), String> {
    let (url, fragment) = url.split_once('#').map_or((url, None), |(url, fragment)| (url, Some(fragment)));
    match fragment {
        Some("insecure") => {
            return Err(
                "ends with #insecure, which is not supported: anyone could answer in place of Redis. Name the \
                        certificate of its authority with --redis-ca FILE instead"
                    .to_owned(),
            );
        }
        Some(_) => {
            return Err("has a #; nothing may follow it. In a password, write it as %23".to_owned());
        }
        None => {}
    }
    let Some((_, query)) = url.split_once('?') else { return Ok(()) };
    if query.contains('@') {
        return Err("has a ? before the @; in a password, write it as %3F".to_owned());
    }
    let mut names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    match names.find(|name| !known.contains(name)) {
        Some("db") => Err("has the parameter db: write the number of the database as in redis://host/4".to_owned()),
        Some(name) => Err(format!("has the parameter {name:?}, which is not supported")),
        None => Ok(()),
    }
}

fn have_same_settings(one: &ConnectionInfo, other: &ConnectionInfo) -> bool {
    let login = |info: &ConnectionInfo| {
        let settings = info.redis_settings();
        (settings.username().map(str::to_owned), settings.password().map(str::to_owned), settings.db())
    };
    let is_tls = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    login(one) == login(other) && is_tls(one) == is_tls(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expects an error with these words, or none.
    fn check(urls: &[&str], is_cluster: bool, words: &[&str]) {
        let urls: Vec<_> = urls.iter().map(|&url| url.to_owned()).collect();
        let error = Target::parse(&urls, is_cluster, &TlsPem::default()).err().unwrap_or_default();
        assert_eq!(error.is_empty(), words.is_empty(), "{urls:?}: {error}");
        assert!(words.iter().all(|word| error.contains(word)), "{urls:?}: {error}");
        assert!(!error.contains("hunter2"), "{urls:?}: {error}");
    }

    #[test]
    fn urls_are_accepted_only_if_every_part_is_understood() {
        check(&["redis://h"], false, &[]);
        check(&["redis://user:hunter2,%40@h:1/4"], false, &[]);
        check(&["redis://h/4?protocol=resp3"], false, &[]);
        check(&["redis+unix:///tmp/s?db=4&user=a&pass=hunter2"], false, &[]);
        check(&["redis://h?db=4"], false, &["parameter db", "redis://host/4"]);
        check(&["redis://h/?timeout=4"], false, &["timeout"]);
        check(&["redis+unix:///tmp/s?database=4"], false, &["database"]);
        check(&["redis://h/-4"], false, &["negative"]);
        check(&["redis://h,"], false, &["comma", "spaces"]);
        check(&["redis://:hunter2@h:1,redis://:hunter2@i:1"], false, &["comma", "spaces"]);
        check(&["redis://:hun#hunter2@h"], false, &["%23"]);
        check(&["redis://:hun?hunter2@h"], false, &["%3F"]);
        check(&["redis://:hun/hunter2@h"], false, &["%40"]);
        check(&["rediss://h#insecure"], false, &["#insecure", "--redis-ca"]);
        check(&["rediss://h#verify"], false, &["#"]);
    }

    #[test]
    fn servers_of_a_cluster_have_the_same_settings() {
        check(&["redis://a", "redis://b"], false, &[]);
        check(&["redis://a/0", "redis://b"], true, &[]);
        check(&["redis://a/4"], true, &["database", "Cluster"]);
        check(&["redis://a", "redis://:hunter2@b"], false, &["passwords"]);
        check(&["redis://a", "rediss://b"], false, &["schemes"]);
    }

    #[test]
    fn sentinels_are_in_one_url_with_the_service() {
        let parse = |url: &str| Target::parse(&[url.to_owned()], false, &TlsPem::default()).unwrap();
        let target = parse("redis+sentinel://user:hunter2@a,b:1,[::1]/main/4");
        let servers: Vec<_> = target.servers.iter().map(|server| server.addr().to_string()).collect();
        assert_eq!(servers, ["a:26379", "b:1", "::1:26379"]);
        assert_eq!((target.service.as_deref(), target.is_cluster), (Some("main"), false));
        assert_eq!(target.servers[1].redis_settings().db(), 4);
        assert!(matches!(parse("rediss+sentinel://a/main").servers[0].addr(), ConnectionAddr::TcpTls { .. }));
        check(&["redis+sentinel://a,b"], false, &["service"]);
        check(&["redis+sentinel://a,/main"], false, &["comma"]);
        check(&["redis+sentinel://a/main?db=4"], false, &["db"]);
        check(&["redis+sentinel://a/main/x"], false, &["InvalidClientConfig"]);
        check(&["redis+sentinel://a/main", "redis://b"], false, &["one URL"]);
        check(&["redis+sentinel://a/main"], true, &["--redis-cluster"]);
        check(&["http+sentinel://a/main"], false, &["redis+sentinel://"]);
    }
}
