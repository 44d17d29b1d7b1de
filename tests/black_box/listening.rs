//! Where the server listens, and what it says if it cannot, or if the system allows only few connections.

use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::process::Output;

use crate::common::http;
use crate::common::process::{Process, command, command_after, run_to_exit};

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_host_name_listens_on_all_of_its_addresses() {
    let mut process = Process::spawn(command(&["--listen", "localhost:0", "--status-port", "0"]));
    let port = process.address().port();
    let addresses: Vec<_> = ("localhost", port).to_socket_addrs().expect("localhost is known").collect();
    let usable = |ip: IpAddr| TcpListener::bind((ip, 0)).is_ok();
    for address in addresses.iter().filter(|address| usable(address.ip())) {
        assert_eq!(http::request(*address, "GET", "/livez", &[], b"").await.status, 200, "{address}");
    }
    process.signal("TERM");
    assert!(process.wait_for_exit().success(), "{:?}", process.output());
}

#[test]
fn an_address_of_another_machine_is_refused_with_the_cause_first() {
    // TEST-NET-1 of RFC 5737: no machine has this address.
    let output = run_to_exit(command(&["--listen", "192.0.2.1:8000", "--open"]));
    let message = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.starts_with("error: cannot listen on 192.0.2.1:8000: this machine has no such address"),
        "{message}"
    );
    assert!(message.contains("--listen") && message.contains("0.0.0.0:8000"), "{message}");
    assert!(!message.contains("another server") && !message.contains("in use"), "{message}");
}

#[test]
fn a_status_port_in_use_names_its_own_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("port 0 can be bound");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let output = run_to_exit(command(&["--listen", "127.0.0.1:0", "--status-port", &port]));
    let message = errors(&output);
    assert!(message.contains("in use") && message.contains("--status-port"), "{message}");
    assert!(!message.contains("--listen"), "{message}");
}

#[test]
fn a_bad_variable_is_reported_by_its_own_name() {
    let check = |name: &str, value: &str, arguments: &[&str], named: &str, not_named: &str| {
        let mut command = command(&[&["--listen", "127.0.0.1:0"], arguments].concat());
        command.env(name, value);
        let output = run_to_exit(command);
        let message = errors(&output);
        assert_eq!(output.status.code(), Some(64), "{message}");
        assert!(message.contains(named) && !message.contains(not_named), "{name}={value} {arguments:?}: {message}");
    };
    // What the command line parser refuses, and what the rules between settings refuse.
    check("ROLLCALL_TTL", "banana", &[], "'ROLLCALL_TTL'", "--ttl");
    check("ROLLCALL_LIVENESS", "sometimes", &[], "'ROLLCALL_LIVENESS'", "--liveness");
    check("ROLLCALL_TTL", "150ms", &[], "ROLLCALL_TTL is 150ms and --tick is 100ms", "--ttl");
    check("ROLLCALL_API_KEY", "short", &[], "ROLLCALL_API_KEY must", "--api-key");
    // A flag wins over the variable, so the flag is named.
    check("ROLLCALL_TTL", "banana", &["--ttl", "150ms"], "--ttl is 150ms", "ROLLCALL_TTL");
    check("ROLLCALL_TTL", "1s", &["--ttl=banana"], "'--ttl <DURATION>'", "ROLLCALL_TTL");
}

#[test]
fn few_open_files_are_explained_with_a_warning() {
    let mut process = Process::spawn(command_after("ulimit -n 64", &["--listen", "127.0.0.1:0", "--workers", "1"]));
    let line = process.wait_for_line("limit of open files");
    assert!(line.contains("WARN") && line.contains("is 64; 265 are reserved"), "{line}");
    assert!(line.contains("at most 16 clients") && line.contains("ulimit -n 1265"), "{line}");
    let mut process = Process::start(&["--workers", "1", "--max-connections", "16"]);
    process.address();
    process.signal("TERM");
    process.wait_for_exit();
    assert!(!process.final_output().iter().any(|line| line.contains("WARN")), "{:?}", process.output());
}

#[test]
fn help_is_a_command_as_well_as_a_flag() {
    let output = run_to_exit(command(&["help"]));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, run_to_exit(command(&["--help"])).stdout);
    let output = run_to_exit(command(&["help", "health"]));
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("URL"), "{output:?}");
}
