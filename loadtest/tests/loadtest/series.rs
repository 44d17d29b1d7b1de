//! `sweep`, `compare`, `merge` and `--report`: many runs, one report.

use crate::children::{Floor, json_file, loadtest, read_json, spawn};
use crate::real_server;

const SHORT: [&str; 6] = ["--warm-up", "0s", "--duration", "300ms", "--rate", "500"];

#[test]
fn a_sweep_has_a_run_per_size_and_a_page() {
    let floor = Floor::start(&[]);
    let file = json_file("a_sweep_has_a_run_per_size_and_a_page");
    let folder = file.replace(".json", "");
    let mut arguments = vec!["sweep", "--over", "connections=5,20,200", "--pause", "0s", "--json", &file];
    let pid = floor.pid();
    arguments.extend_from_slice(&["--report", &folder, "heartbeat", "--protocol", "floor", "--url", &floor.url]);
    arguments.extend_from_slice(&["--pid", &pid]);
    arguments.extend_from_slice(&SHORT);
    loadtest(&arguments).expect(0, "server_cpu_per_heartbeat_us");
    let series = read_json(&file);
    let sizes: Vec<_> = series["runs"].as_array().unwrap().iter().map(|run| run["value"].as_f64().unwrap()).collect();
    assert_eq!(sizes, [5.0, 20.0, 200.0]);
    assert_eq!(series["runs"][2]["report"]["settings"]["connections"], 200);
    let page = std::fs::read_to_string(format!("{folder}/index.html")).expect("the page was written");
    assert!(page.contains("Server CPU time per heartbeat") && page.contains("<svg"), "{page}");
}

#[test]
fn a_comparison_alternates_servers_and_has_ratios() {
    let floor = Floor::start(&[]);
    let file = json_file("a_comparison_alternates_servers_and_has_ratios");
    let first = format!("floor={},pid={},protocol=floor", floor.url, floor.pid());
    let second = format!("rollcall={},pid={}", real_server::start(&[]), std::process::id());
    let mut arguments = vec!["compare", "--server", &first, "--server", &second, "--rounds", "2", "--pause", "0s"];
    arguments.extend_from_slice(&["--json", &file, "heartbeat", "--connections", "20"]);
    arguments.extend_from_slice(&SHORT);
    loadtest(&arguments).expect(0, "rollcall");
    let series = read_json(&file);
    let turns: Vec<_> = series["runs"].as_array().unwrap().iter().map(|run| run["server"].as_str().unwrap()).collect();
    assert_eq!(turns, ["floor", "rollcall", "floor", "rollcall"]);
    let summary = series["summary"].as_array().unwrap();
    let cost = |server: &str| {
        let found =
            summary.iter().find(|entry| entry["server"] == server && entry["figure"] == "server_cpu_per_heartbeat_us");
        found.unwrap_or_else(|| panic!("no cost of {server}")).clone()
    };
    assert_eq!(cost("floor").get("ratio"), None);
    assert!(cost("rollcall")["ratio"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn an_unreachable_server_ends_the_series_with_the_completed_runs() {
    let floor = Floor::start(&[]);
    let file = json_file("an_unreachable_server_ends_the_series_with_the_completed_runs");
    let there = format!("there={},protocol=floor", floor.url);
    let mut arguments = vec!["compare", "--server", &there, "--server", "gone=ws://127.0.0.1:1", "--json", &file];
    arguments.extend_from_slice(&["--pause", "0s", "heartbeat", "--connections", "5"]);
    arguments.extend_from_slice(&SHORT);
    loadtest(&arguments).expect(1, "run 2 of 10");
    assert_eq!(read_json(&file)["runs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_wrong_option_in_a_series_is_reported_before_the_first_run() {
    loadtest(&["sweep", "--over", "nothing=1,2", "idle"]).expect(64, "--nothing");
    loadtest(&["sweep", "--over", "rate=1,2", "floor"]).expect(64, "floor");
    loadtest(&["compare", "idle"]).expect(64, "--server");
    loadtest(&["sweep", "--over", "rate", "idle"]).expect(64, "OPTION=V1,V2");
}

#[test]
fn reports_of_two_generators_are_merged() {
    let floor = Floor::start(&[]);
    let files =
        [json_file("reports_of_two_generators_are_merged-a"), json_file("reports_of_two_generators_are_merged-b")];
    let merged = json_file("reports_of_two_generators_are_merged");
    let both = files.each_ref().map(String::as_str).into_iter().zip(["0", "100"]).map(|(file, first_user)| {
        // Each generator counts its own heartbeats, the server those of both; so verification is off.
        let mut arguments =
            vec!["heartbeat", "--protocol", "floor", "--url", &floor.url, "--no-verify", "--json", file];
        arguments.extend_from_slice(&["--connections", "20", "--first-user", first_user]);
        arguments.extend_from_slice(&SHORT);
        spawn(&arguments)
    });
    let children: Vec<_> = both.collect();
    children.into_iter().for_each(|child| drop(child.finish().expect(0, "sent_per_s")));
    loadtest(&["merge", &files[0], &files[1], "--json", &merged]).expect(0, "sent_per_s");
    let [a, b, sum] = [&files[0], &files[1], &merged].map(|file| read_json(file)["figures"]["sent"].as_f64().unwrap());
    assert_eq!(a + b, sum);
    let count = |file: &str| read_json(file)["latencies"]["send_delay"]["count"].as_u64().unwrap();
    assert_eq!(count(&files[0]) + count(&files[1]), count(&merged));
    loadtest(&["merge", &files[0], &files[0]]).expect(1, "same first_user");
    loadtest(&["merge", "no-such-file"]).expect(1, "no-such-file");
}

#[test]
fn ctrl_c_ends_a_series_with_the_completed_runs() {
    let floor = Floor::start(&[]);
    let mut arguments = vec!["sweep", "--over", "connections=5,10,20", "--rounds", "100", "--pause", "0s", "heartbeat"];
    arguments.extend_from_slice(&["--protocol", "floor", "--url", &floor.url]);
    arguments.extend_from_slice(&SHORT);
    let mut child = spawn(&arguments);
    child.wait_for("run 3 of 300");
    child.interrupt();
    child.finish().expect(0, "ended early");
}
