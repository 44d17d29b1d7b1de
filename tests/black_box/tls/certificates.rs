//! The files of the certificate and its key: which are accepted, and how they are replaced.

use std::fs;
use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;

use crate::common::process::{Process, command, run_to_exit};
use crate::common::tls::Certificates;
use crate::common::tls_client::TlsClient;

const USAGE: i32 = 64;

/// The binary with these files, on a free port.
fn start(certificate: &str, key: &str) -> (Process, SocketAddr) {
    let mut process = Process::start(&["--tls-cert", certificate, "--tls-key", key, "--ttl", "600s", "--grace", "5s"]);
    let address = process.address();
    (process, address)
}

/// The certificate that a server shows.
async fn shown(client: &TlsClient, address: SocketAddr) -> CertificateDer<'static> {
    let stream = client.stream(address).await;
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

#[tokio::test]
async fn files_that_cannot_be_used_exit_64() {
    let certificates = Certificates::make();
    certificates.sign("other");
    certificates.encrypt_key("redis.key", "encrypted.key");
    fs::write(certificates.path("empty"), "\n").unwrap();
    fs::write(certificates.path("broken"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let check = |certificate: &str, key: &str, words: &[&str]| {
        let [certificate, key] = [certificate, key].map(|name| certificates.path(name));
        let output = run_to_exit(command(&["--tls-cert", &certificate, "--tls-key", &key]));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(USAGE), "{message}");
        assert!(words.iter().all(|word| message.contains(word)) && !message.contains("panicked"), "{message}");
    };
    check("missing", "redis.key", &["--tls-cert", "missing"]);
    check("redis.crt", "missing", &["--tls-key", "missing"]);
    check("empty", "redis.key", &["--tls-cert", "empty"]);
    check("redis.crt", "empty", &["--tls-key", "empty"]);
    check("broken", "redis.key", &["--tls-cert", "broken"]);
    check("redis.key", "redis.key", &["--tls-cert", "no certificate"]);
    check("redis.crt", "redis.crt", &["--tls-key", "no private key"]);
    check("redis.crt", "encrypted.key", &["--tls-key", "encrypted"]);
    check("redis.crt", "other.key", &["--tls-key", "is not the key of", "--tls-cert"]);
    for flag in ["--tls-cert", "--tls-key"] {
        let output = run_to_exit(command(&[flag, &certificates.path("redis.crt")]));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(USAGE) && message.contains("belong together"), "{message}");
    }
}

#[tokio::test]
async fn a_chain_with_an_ecdsa_key_is_served() {
    let certificates = Certificates::make();
    certificates.sign_ecdsa("ecdsa");
    let chain = ["ecdsa.crt", "ca.crt"].map(|name| fs::read_to_string(certificates.path(name)).unwrap()).concat();
    fs::write(certificates.path("chain.crt"), chain).unwrap();
    let (_process, address) = start(&certificates.path("chain.crt"), &certificates.path("ecdsa.key"));
    let client = TlsClient::new(&certificates);
    let stream = client.stream(address).await;
    assert_eq!(stream.get_ref().1.peer_certificates().map(<[_]>::len), Some(2));
    assert!(client.native(address, "user=ann").await.is_served().await);
}

#[tokio::test]
async fn an_expired_certificate_is_a_warning() {
    let certificates = Certificates::make();
    certificates.expire("redis", "old");
    let (mut process, address) = start(&certificates.path("old.crt"), &certificates.path("redis.key"));
    process.wait_for_line("has expired");
    let client = TlsClient::new(&certificates);
    let refused = client.handshake(TcpStream::connect(address).await.unwrap()).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("xpired")));
}

#[tokio::test]
async fn a_certificate_that_expires_soon_is_a_warning() {
    let certificates = Certificates::make();
    let (mut process, _) = start(&certificates.path("redis.crt"), &certificates.path("redis.key"));
    process.wait_for_line("expires soon");
}

#[tokio::test]
async fn new_files_are_used_without_touching_connections() {
    let certificates = Certificates::make();
    certificates.sign("other");
    let [certificate, key] = ["live.crt", "live.key"].map(|name| certificates.path(name));
    let install = |name: &str| {
        fs::copy(certificates.path(&format!("{name}.crt")), &certificate).unwrap();
        fs::copy(certificates.path(&format!("{name}.key")), &key).unwrap();
    };
    install("redis");
    let (mut process, address) = start(&certificate, &key);
    let client = TlsClient::new(&certificates);
    let mut ann = client.native(address, "user=ann").await;
    let first = shown(&client, address).await;
    // A key that does not belong to the certificate: the old pair stays.
    fs::copy(certificates.path("other.key"), &key).unwrap();
    process.signal("HUP");
    process.wait_for_line("the old one stays");
    assert_eq!(shown(&client, address).await, first);
    // A pair.
    install("other");
    process.signal("HUP");
    process.wait_for_line("was replaced");
    let second = shown(&client, address).await;
    assert_ne!(second, first);
    // Without a signal, and then without the file.
    install("redis");
    while shown(&client, address).await != first {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    fs::remove_file(&key).unwrap();
    process.signal("HUP");
    process.wait_for_line("is not reloaded");
    assert_eq!(shown(&client, address).await, first);
    assert!(ann.is_served().await);
}

#[tokio::test]
async fn the_health_command_asks_a_server_with_tls() {
    let certificates = Certificates::make();
    let [certificate, key] = ["redis.crt", "redis.key"].map(|name| certificates.path(name));
    let (_process, address) = start(&certificate, &key);
    let address = address.to_string();
    let url = format!("https://{address}");
    let own = ["--listen", &address, "--tls-cert", &certificate, "--tls-key", &key, "health"];
    for arguments in [&["health", &url][..], &own] {
        let output = run_to_exit(command(arguments));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        // On a very busy machine the answer may take longer than the command waits.
        assert!(output.status.success() || message.contains("no answer"), "{message}");
    }
    let output = run_to_exit(command(&["health", &format!("http://{address}")]));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let hint = format!("this port requires TLS; ask https://{address}");
    let is_told = message.contains(&hint) || message.contains("no answer");
    assert!(output.status.code() == Some(1) && is_told, "{message}");
}
