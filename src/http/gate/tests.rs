//! Who may enter.

use std::sync::Arc;

use super::*;
use crate::config::Config;
use crate::node::Node;
use crate::presence::{Registry, Settings};
use crate::store::MemoryStore;

fn entry(flags: &[&str]) -> Entry {
    Config::from_args([&["rollcall"], flags].concat()).unwrap().entry
}

fn request(headers: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = Request::get("/v1/connect").body(()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

fn local() -> ClientAddress {
    ClientAddress::of_peer("127.0.0.1".parse().unwrap())
}

#[test]
fn only_trusted_proxies_name_their_clients() {
    let check = |peer: &str, headers: &[(&'static str, &'static str)], want: &str, is_exempt: bool| {
        let peer = ClientAddress::of_peer(peer.parse().unwrap());
        let entry = entry(&["--trust-proxy", "10.0.0.0/8,127.0.0.1"]);
        let address = client_of(&entry, peer, request(headers).headers());
        assert_eq!(address.ip(), want.parse::<IpAddr>().unwrap(), "{headers:?}");
        assert_eq!(address.limited().is_none(), is_exempt, "{headers:?}");
    };
    check("127.0.0.1", &[], "127.0.0.1", true);
    check("127.0.0.1", &[("x-forwarded-for", "1.1.1.1")], "1.1.1.1", false);
    check("127.0.0.1", &[("x-forwarded-for", "127.0.0.1")], "127.0.0.1", false);
    check("10.0.0.9", &[("x-forwarded-for", "127.0.0.1")], "127.0.0.1", false);
    check("10.0.0.9", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.1.1.1, 10.1.1.1")], "1.1.1.1", false);
    check("10.0.0.9", &[("x-forwarded-for", "1.1.1.1,,"), ("x-forwarded-for", "")], "1.1.1.1", false);
    check("1.2.3.4", &[("x-forwarded-for", "6.6.6.6")], "1.2.3.4", false);
    check("127.0.0.1", &[("x-real-ip", "6.6.6.6")], "127.0.0.1", false);
    check("127.0.0.1", &[("forwarded", "for=6.6.6.6")], "127.0.0.1", false);
    check("::1", &[("x-forwarded-for", "6.6.6.6")], "::1", false);
    check("::1", &[("user-agent", "x")], "::1", true);
}

#[test]
fn only_trusted_proxies_say_whether_the_client_speaks_tls() {
    let config = Config::from_args(["rollcall"]).unwrap();
    let registry = Registry::new(Settings { ttl: 10, workers: 1, incarnation: 1 });
    let node = Node::new(config, "node".to_owned(), Arc::new(registry), Box::<MemoryStore>::default(), Arc::default());
    let node = Arc::new(node);
    let check_with = |is_encrypted, peer: &str, proto: &'static str, want: [bool; 2]| {
        let client = Client::new(&node, ClientAddress::of_peer(peer.parse().unwrap()), is_encrypted);
        let got = ["http://here", "https://here"].map(|origin| {
            let request = request(&[("host", "here"), ("origin", origin), ("x-forwarded-proto", proto)]);
            Visitor::of(&entry(&["--trust-proxy", "10.0.0.0/8"]), &client, request.headers()).may_use_cookies
        });
        assert_eq!(got, want, "{proto} from {peer:?}");
    };
    let check = |peer, proto, want| check_with(false, peer, proto, want);
    check_with(true, "11.0.0.1", "http", [false, true]);
    check_with(true, "10.0.0.1", "http", [true, false]);
    check("10.0.0.1", "HTTPS", [false, true]);
    check("10.0.0.1", "https, http", [true, false]);
    check("10.0.0.1", "gopher", [true, true]);
    check("11.0.0.1", "https", [true, true]);
}

#[test]
fn a_guarded_server_serves_this_machine_only() {
    let check_with = |flags: &[&str], headers: &[(&'static str, &'static str)], want: bool| {
        let got = check(&entry(flags), Some(local()), &request(headers));
        assert_eq!(got.is_ok(), want, "{flags:?} {headers:?}: {got:?}");
        assert!(check(&entry(&["--open"]), Some(local()), &request(headers)).is_ok(), "--open admits {headers:?}");
    };
    let admits = |headers: &[(&'static str, &'static str)]| check_with(&[], headers, true);
    let refuses = |headers: &[(&'static str, &'static str)]| check_with(&[], headers, false);
    for host in ["localhost:8000", "127.0.0.1", "mybox", "10.0.0.7:80", "[::1]:8000", "app.localhost", ""] {
        admits(&[("host", host)]);
    }
    for host in ["example.com", "evil.com:8000", "localhost.evil.com", "127.0.0.1.nip.io"] {
        refuses(&[("host", host)]);
    }
    for origin in ["http://localhost:3000", "http://127.0.0.2", "https://[::1]", "http://a.localhost"] {
        admits(&[("origin", origin)]);
    }
    for origin in ["https://example.com", "null", "", "http://localhost.evil.com", "http://mybox", "garbage"] {
        refuses(&[("origin", origin)]);
    }
    refuses(&[("origin", "http://localhost"), ("origin", "http://evil.com")]);
    for name in ["x-forwarded-for", "x-real-ip"] {
        admits(&[(name, "127.0.0.1")]);
        admits(&[(name, "::1")]);
        refuses(&[(name, "10.0.0.1")]);
        refuses(&[(name, "unknown")]);
        refuses(&[(name, "127.0.0.1"), (name, "1.1.1.1")]);
    }
    refuses(&[("x-forwarded-for", "1.1.1.1, 127.0.0.1")]);
    for forwarded in ["for=127.0.0.1", "proto=https;by=1.1.1.1", "For=\"[::1]:4711\";proto=http"] {
        admits(&[("forwarded", forwarded)]);
    }
    for forwarded in ["for=1.1.1.1", "proto=http; FOR=1.1.1.1", "for=127.0.0.1, for=\"[2001:db8::1]\"", "for=_x"] {
        refuses(&[("forwarded", forwarded)]);
    }
    check_with(&["--origin", "https://example.com"], &[("origin", "https://example.com")], true);
}

#[test]
fn a_guarded_server_refuses_other_names_in_the_request_line_and_other_peers() {
    let mut proxied = request(&[("host", "localhost")]);
    *proxied.uri_mut() = "http://evil.com/v1/connect".parse().unwrap();
    assert!(check(&entry(&[]), None, &proxied).is_err());
    let other = ClientAddress::forwarded("1.1.1.1".parse().unwrap());
    assert!(check(&entry(&[]), Some(other), &request(&[])).is_err());
}

#[test]
fn with_origins_all_others_are_refused() {
    let entry = entry(&["--open", "--origin", "https://a.com,https://*.b.com", "--origin", "null"]);
    let admits = |origin: &'static str| check(&entry, None, &request(&[("origin", origin)])).is_ok();
    for origin in ["https://a.com", "https://a.com:443", "https://x.b.com", "null"] {
        assert!(admits(origin), "{origin}");
    }
    for origin in ["https://b.com", "http://a.com", "http://localhost", "https://a.com.evil.com", "", "garbage"] {
        assert!(!admits(origin), "{origin}");
    }
    assert!(check(&entry, None, &request(&[])).is_ok(), "clients that are not browsers send none");
    assert!(check(&entry, None, &request(&[("origin", "null"), ("origin", "http://a.com")])).is_err());
}
