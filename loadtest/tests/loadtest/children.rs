//! Child processes of the tests: a floor on a free port, and a `loadtest` whose output and end are awaited with a
//! timeout, so that a hang fails the test.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far beyond the time of these runs, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Killed when it is dropped.
pub(crate) struct Floor {
    child: Child,
    pub(crate) url: String,
}

/// A running `loadtest`.
pub(crate) struct Running {
    child: Child,
    /// Its lines on stderr. The channel closes when the process ends.
    lines: Receiver<String>,
    stderr: String,
}

/// The result of a `loadtest` that has ended.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Floor {
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut child = command(&["floor", "--listen", "127.0.0.1:0"]).args(options).spawn().expect("floor starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("floor prints its address");
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
        // It fails if the process has already ended.
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

impl Running {
    /// Waits for a line on stderr that contains `words`.
    pub(crate) fn wait_for(&mut self, words: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.stderr += &line;
            if line.contains(words) {
                return;
            }
        }
        // Otherwise the process would outlive the test.
        let _ = self.child.kill();
        panic!("{words:?} was not printed:\n{}", self.stderr);
    }

    /// Sends SIGINT, like Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("kill");
        assert!(sent.success());
    }

    pub(crate) fn finish(mut self) -> Finished {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.stderr += &line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.child.kill().expect("kill");
                    panic!("loadtest hangs:\n{}", self.stderr);
                }
            }
        }
        let mut stdout = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut stdout).expect("utf-8");
        Finished { status: self.child.wait().expect("wait"), stdout, stderr: self.stderr }
    }
}

/// Runs `loadtest` to its end.
pub(crate) fn loadtest(arguments: &[&str]) -> Finished {
    spawn(arguments).finish()
}

pub(crate) fn spawn(arguments: &[&str]) -> Running {
    let mut child = command(arguments).spawn().expect("loadtest starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let (line_sender, lines) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        while stderr.read_line(&mut line).is_ok_and(|length| length > 0) {
            if line_sender.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    Running { child, lines, stderr: String::new() }
}

/// The file for a test's report.
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
