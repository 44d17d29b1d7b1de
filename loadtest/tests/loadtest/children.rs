//! Child processes of the tests: a floor on a free port, and a `loadtest` whose end is waited for with a
//! bound, so that a hang fails instead of hanging.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far beyond what any of these runs takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with the test, whatever becomes of it.
pub(crate) struct Floor {
    child: Child,
    pub(crate) url: String,
}

/// What a finished `loadtest` left behind.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Floor {
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut child = command(&["floor", "--listen", "127.0.0.1:0"]).args(options).spawn().expect("floor starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped"))
            .read_line(&mut line)
            .expect("floor says where it listens");
        let url = line.trim().rsplit(' ').next().expect("an address").to_owned();
        Self { child, url }
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill");
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {}", self.stderr))
    }

    pub(crate) fn expect(self, code: i32, words: &str) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code(), code, "\n{stdout}\n{stderr}");
        assert!(stdout.contains(words) || stderr.contains(words), "{words:?} is missing:\n{stdout}\n{stderr}");
        self
    }
}

/// Runs to the end.
pub(crate) fn loadtest(arguments: &[&str]) -> Finished {
    finish(spawn(arguments))
}

pub(crate) fn spawn(arguments: &[&str]) -> Child {
    command(arguments).spawn().expect("loadtest starts")
}

pub(crate) fn finish(mut child: Child) -> Finished {
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().expect("kill");
            panic!("loadtest hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.take().expect("piped").read_to_string(&mut stdout).expect("utf-8");
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("utf-8");
    Finished { status, stdout, stderr }
}

/// Ctrl-C.
pub(crate) fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
}

/// Where a test's report goes: one file per test in cargo's directory for that.
pub(crate) fn json_file(test: &str) -> String {
    format!("{}/{test}.json", env!("CARGO_TARGET_TMPDIR"))
}

pub(crate) fn read_json(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).expect("the report was written")).expect("JSON")
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
