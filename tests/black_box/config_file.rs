//! The configuration file: which of its settings take effect beside flags and variables, and errors in a file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use crate::common::Mirror;
use crate::common::folder::Folder;
use crate::common::process::{Process, command, run_to_exit};

const SECRET: &str = "open-sesame-please-open-sesame-please";

/// A server with a configuration file, flags and variables.
fn server(file: &str, flags: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = command(&[&["--config", file], flags].concat());
    command.envs(variables.iter().copied());
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Starts a server, waits until it listens, and stops it. Returns its output.
fn start_and_stop(command: Command) -> String {
    let mut process = Process::spawn(command);
    process.address();
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
    process.final_output().join("\n")
}

/// Expects exit code 64 and a message with these words, and without the secret.
fn check_bad(command: Command, words: &[&str]) {
    let output = run_to_exit(command);
    let message = text(&output);
    assert_eq!(output.status.code(), Some(64), "{message}");
    assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
    assert!(!message.contains("sesame") && !message.contains("panicked"), "{message}");
}

#[tokio::test]
async fn a_server_starts_from_a_file() {
    let folder = Folder::new("config-file-start");
    let file = folder.file("rollcall.toml", "listen = '127.0.0.1:0'\nworkers = 1\nttl = '3s'\ntick = '70ms'\n");
    let variables = [("ROLLCALL_CONFIG", &*file)];
    let mut by_variable = command(&["--tick", "30ms"]);
    by_variable.envs(variables);
    for (command, tick) in [(server(&file, &[], &[]), 70), (by_variable, 30)] {
        let mut process = Process::spawn(command);
        let alice = Mirror::connect(process.address(), "alice", &[]).await;
        assert_eq!(alice.welcome["ttl_ms"], 3000);
        assert_eq!(alice.welcome["tick_ms"], tick);
        let started = process.wait_for_line("started");
        assert!(started.contains("workers=1") && started.contains(&format!("ttl=3s ({file}:3)")), "{started}");
    }
}

/// Flag, variable, `_FILE` variable, file, default.
#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let folder = Folder::new("config-file-precedence");
    let key = folder.file("key", SECRET);
    let base = "listen = '127.0.0.1:0'\nworkers = 1\n";
    let check = |content: &str, flags: &[&str], variables: &[(&str, &str)], want: &str| {
        let file = folder.file("rollcall.toml", format!("{base}{content}"));
        let output = start_and_stop(server(&file, flags, variables));
        let want = want.replace("{file}", &file);
        let started = output.lines().find(|line| line.contains("started")).unwrap_or_else(|| panic!("{output}"));
        assert!(format!("{started} ").contains(&format!(" {want} ")), "{want}: {started}");
        assert!(!output.contains("sesame"), "{output}");
    };
    check("", &[], &[], "ttl=10s");
    check("ttl = '30s'", &[], &[], "ttl=30s ({file}:3)");
    check("ttl = '30s'", &[], &[("ROLLCALL_TTL", "40s")], "ttl=40s (ROLLCALL_TTL)");
    check("ttl = '30s'", &["--ttl", "50s"], &[("ROLLCALL_TTL", "40s")], "ttl=50s");
    // Compose files pass on empty variables: they count as unset.
    check("ttl = '30s'", &[], &[("ROLLCALL_TTL", "")], "ttl=30s ({file}:3)");
    check("dev-login = true", &[], &[], "dev-login=true ({file}:3)");
    check("dev-login = true", &[], &[("ROLLCALL_DEV_LOGIN", "0")], "dev-login=false (ROLLCALL_DEV_LOGIN)");
    let in_file = format!("api-key = '{SECRET}'");
    check(&in_file, &[], &[], "api-key=hidden ({file}:3)");
    let by_file = format!("api-key-file={key} (ROLLCALL_API_KEY_FILE)");
    check(&in_file, &[], &[("ROLLCALL_API_KEY_FILE", &key)], &by_file);
    check(
        &format!("api-key-file = '{key}'"),
        &[],
        &[("ROLLCALL_API_KEY", SECRET)],
        "api-key=hidden (ROLLCALL_API_KEY)",
    );
    check(&in_file, &["--api-key", SECRET], &[], "api-key=hidden");
}

#[test]
fn mistakes_in_a_file_exit_with_64_and_name_its_line() {
    let folder = Folder::new("config-file-mistakes");
    let check = |content: &str, words: &[&str]| {
        let file = folder.file("rollcall.toml", content);
        check_bad(server(&file, &[], &[]), &[&[&*file], words].concat());
    };
    check("# A comment\nttll = '30s'", &[":2: unknown setting \"ttll\"; did you mean `ttl`?"]);
    check("port = 9000", &[":1: unknown setting \"port\"; did you mean `listen`?"]);
    check("ttl = 30", &[":1: ttl is a number", "\"10s\""]);
    check("history = 'fifty'", &["'fifty' for 'history (", ":1)'", "write a whole number"]);
    check("open = 'yes'", &[":1: open is a string; write true or false"]);
    check("ttl = 'soon'", &["'soon' for 'ttl (", ":1)'", "write a duration with its unit, such as 500ms"]);
    check("\nttl = '100ms'", &["ttl (", ":2) is 100ms and --tick is 100ms"]);
    check(&format!("api-key = {SECRET}"), &[":1: this is not valid TOML"]);
    let both = format!("api-key = '{SECRET}'\napi-key-file = '/etc/key'");
    check(&both, &["api-key (", ":1) and api-key-file (", ":2) are both given"]);
    check_bad(server("/not-a-file", &[], &[]), &["the file that --config names, /not-a-file", "No such file"]);
    let mut by_variable = command(&[]);
    by_variable.env("ROLLCALL_CONFIG", "/not-a-file");
    check_bad(by_variable, &["the file that ROLLCALL_CONFIG names, /not-a-file"]);
    // Without its file, the server might be an open one.
    let mut empty = command(&[]);
    empty.env("ROLLCALL_CONFIG", "");
    check_bad(empty, &["ROLLCALL_CONFIG"]);
    check_bad(server(folder.0.to_str().unwrap(), &[], &[]), &["it is a directory"]);
    let fifo = folder.0.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    check_bad(server(fifo.to_str().unwrap(), &[], &[]), &["it is not a regular file"]);
    check_bad(server("/dev/zero", &[], &[]), &["it is not a regular file"]);
    check_bad(server(&folder.file("latin", b"log = '\xe9'"), &[], &[]), &["it is not UTF-8 text"]);
    check_bad(server(&folder.file("huge", "#".repeat(2 << 20)), &[], &[]), &["it is larger than 1024 KiB"]);
}

#[test]
fn errors_are_json_if_the_file_says_so() {
    let folder = Folder::new("config-file-json");
    let file = folder.file("rollcall.toml", "log-format = 'json'\nttl = '1ms'\n");
    let output = run_to_exit(server(&file, &[], &[]));
    let error: serde_json::Value = serde_json::from_str(text(&output).trim()).expect("JSON");
    let message = error["fields"]["message"].as_str().expect("a message");
    assert!(message.contains(&format!("ttl ({file}:2) is 1ms")), "{message}");
    // The command is for people.
    for flags in [&["check"][..], &["--log-format=json", "check"], &["check", "--ttl", "soon"], &["--grace=x", "check"]]
    {
        let message = text(&run_to_exit(server(&file, flags, &[("ROLLCALL_LOG_FORMAT", "json")])));
        assert!(message.starts_with("error: "), "{flags:?}: {message}");
    }
}

#[test]
fn secrets_in_a_file_that_everybody_can_read_are_a_warning() {
    let folder = Folder::new("config-file-mode");
    let file = folder.file("rollcall.toml", format!("listen = '127.0.0.1:0'\nworkers = 1\napi-key = '{SECRET}'\n"));
    for (mode, is_warned) in [(0o644, true), (0o640, false)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let output = start_and_stop(server(&file, &[], &[]));
        assert_eq!(output.contains("every user of this machine can read it"), is_warned, "{mode:o}: {output}");
        assert!(!output.contains("other processes can see it") && !output.contains("sesame"), "{output}");
    }
}

#[test]
fn the_health_command_finds_the_server_of_a_file() {
    let folder = Folder::new("config-file-health");
    let mut process = Process::start(&["--workers", "1"]);
    let file = folder.file("rollcall.toml", format!("listen = '{}'\ngrace = '1h'\n", process.address()));
    let mut health = server(&file, &[], &[]);
    health.arg("health");
    let output = run_to_exit(health);
    // On a very busy machine the answer may take longer than the three seconds that the command waits.
    assert!(output.status.success() || text(&output).contains("no answer"), "{}", text(&output));
    // The file has changed since, and the server goes on: a mistake elsewhere does not concern the command.
    let changed = folder.file("changed.toml", format!("listen = '{}'\nttll = '1h'\nttl = 7\n", process.address()));
    let url = format!("http://{}/readyz", process.address());
    for (file, arguments) in [(&*changed, &["health"][..]), (&changed, &["health", &url]), ("/no", &["health", &url])] {
        let mut health = server(file, &[], &[]);
        health.args(arguments);
        let output = run_to_exit(health);
        assert!(output.status.success() || text(&output).contains("no answer"), "{}", text(&output));
    }
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
}

#[test]
fn the_completions_and_the_manual_are_printed_whatever_the_settings_are() {
    let printed = |arguments: &[&str], word: &str| {
        let mut command = command(arguments);
        command.env("ROLLCALL_CONFIG", "/not-a-file");
        let output = run_to_exit(command);
        assert!(output.status.success(), "{}", text(&output));
        let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(errors.is_empty() && text.contains(word), "{arguments:?}: {errors}");
        text
    };
    for (shell, word) in [
        ("bash", "complete -F _rollcall"),
        ("zsh", "#compdef rollcall"),
        ("fish", "complete -c rollcall"),
        ("elvish", "rollcall"),
        ("powershell", "rollcall"),
    ] {
        let script = printed(&["completions", shell], word);
        assert!(script.contains("max-connections"), "{shell}");
    }
    let page = printed(&["man"], ".TH rollcall 8");
    for part in [".SH COMMANDS", ".SH PRESENCE", "\\-\\-max\\-connections", "ROLLCALL_TTL", ".SH \"EXIT STATUS\""] {
        assert!(page.contains(part), "{part}");
    }
    check_bad(command(&["completions", "tcsh"]), &["tcsh", "possible values: bash, elvish, fish, powershell, zsh"]);
}

#[test]
fn flags_of_other_servers_have_a_hint() {
    check_bad(command(&["--port", "9000"]), &["unexpected argument '--port'", "'--listen <HOST:PORT>'"]);
    check_bad(command(&["--host=0.0.0.0"]), &["unexpected argument '--host'", "'--listen <HOST:PORT>'"]);
    check_bad(command(&["--threads", "4"]), &["'--workers <N>'"]);
    check_bad(command(&["--ttll", "4s"]), &["a similar argument exists: '--ttl'"]);
    check_bad(command(&["--listen", "localhost"]), &["the port is missing; write localhost:8000"]);
    let mut by_variable = command(&["--listen", "127.0.0.1:0", "--workers", "1"]);
    by_variable.env("ROLLCALL_PORT", "9000");
    let output = start_and_stop(by_variable);
    assert!(
        output.contains("ROLLCALL_PORT is ignored") && output.contains("did you mean ROLLCALL_LISTEN?"),
        "{output}"
    );
}
