//! The binary as a child process: for tests of the command line, of signals and of the server's memory.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::DEADLINE;

/// How often a condition on a child process is checked.
const POLL: Duration = Duration::from_millis(5);

/// Children inherit signals that are ignored: `nohup` starts the tests with SIGHUP ignored, and shells without job
/// control start programs in the background with SIGINT ignored. A signal with a handler is the default in a child.
fn stop_ignoring_signals() {
    static ONCE: Once = Once::new();
    let install = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        let _context = runtime.enter();
        let ignored = [SignalKind::hangup(), SignalKind::interrupt()].into_iter();
        // The handler stays, and does nothing.
        ignored
            .filter(|kind| rollcall::os::ignores_signal(kind.as_raw_value()))
            .for_each(|kind| drop(signal(kind).expect("a handler")));
    };
    // On a thread of its own: a test may run in a runtime, which must not drop another one.
    ONCE.call_once(|| std::thread::spawn(install).join().expect("the handlers are installed"));
}

/// The binary without the `ROLLCALL_…` variables of the user who runs the tests.
pub(crate) fn command(arguments: &[&str]) -> Command {
    stop_ignoring_signals();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROLLCALL_") {
            command.env_remove(name);
        }
    }
    command
}

/// The binary, started by a shell that executes `before` first.
pub(crate) fn command_after(before: &str, arguments: &[&str]) -> Command {
    let program = command(arguments);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(program.get_program()).args(program.get_args());
    for (name, _) in program.get_envs() {
        shell.env_remove(name);
    }
    shell.stdin(Stdio::null());
    shell
}

/// Runs a command that must exit by itself.
pub(crate) fn run_to_exit(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let stdout = read_all(child.stdout.take().expect("piped"));
    let stderr = read_all(child.stderr.take().expect("piped"));
    let Some(status) = wait(&mut child, DEADLINE) else {
        let _ = child.kill();
        let _ = child.wait();
        let errors = String::from_utf8_lossy(&stderr.join().unwrap_or_default()).into_owned();
        panic!("{command:?} does not exit: {errors}");
    };
    let stdout = stdout.join().expect("read to its end");
    let stderr = stderr.join().expect("read to its end");
    Output { status, stdout, stderr }
}

/// A running server. Dropping it kills the process.
pub(crate) struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

/// The lines of a stream so far, and the thread that reads them.
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Lines {
    fn so_far(&self) -> Vec<String> {
        self.lines.lock().expect("the reader does not panic").clone()
    }
}

impl Process {
    /// Starts the server on port 0 with further flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut arguments = vec!["--listen", "127.0.0.1:0"];
        arguments.extend(flags);
        Self::spawn(command(&arguments))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let stdout = collect(child.stdout.take().expect("piped"));
        let stderr = collect(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    /// The address in the URL that the server prints.
    pub(crate) fn address(&mut self) -> SocketAddr {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(address) = self.try_address() {
                return address;
            }
            let waiting = self.running() && Instant::now() < deadline;
            assert!(waiting, "no URL was printed: {:#?}", self.output());
            sleep(POLL);
        }
    }

    /// The address in the URL, if the server has printed it.
    pub(crate) fn try_address(&self) -> Option<SocketAddr> {
        self.output().iter().find_map(|line| url_of(line))
    }

    pub(crate) fn running(&mut self) -> bool {
        self.child.try_wait().expect("the status of a child is known").is_none()
    }

    /// The output so far: standard output, then standard error.
    pub(crate) fn output(&self) -> Vec<String> {
        let mut lines = self.stdout();
        lines.extend(self.stderr());
        lines
    }

    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.so_far()
    }

    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.so_far()
    }

    /// The whole output of a process that has exited.
    pub(crate) fn final_output(&self) -> Vec<String> {
        while !(self.stdout.reader.is_finished() && self.stderr.reader.is_finished()) {
            sleep(POLL);
        }
        self.output()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name} {pid}");
    }

    /// Sets the limit of its open files, as a number more than it has open now. Returns the former limit.
    pub(crate) fn limit_new_files(&self, more: u64) -> Rlimit {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("procfs has our child").count();
        // Without a change of the hard limit, which only root may raise again.
        let limit = Rlimit { current: Some(open as u64 + more), maximum: getrlimit(Resource::Nofile).maximum };
        self.set_file_limit(limit)
    }

    /// Sets the limit of its open files. Returns the former limit.
    pub(crate) fn set_file_limit(&self, limit: Rlimit) -> Rlimit {
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit).expect("a child can be limited")
    }

    /// Waits until a line of its output contains this text, and returns the line.
    pub(crate) fn wait_for_line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            // Asked first: the last lines of a process that ends are read afterwards.
            let output = if self.running() { self.output() } else { self.final_output() };
            if let Some(line) = output.into_iter().find(|line| line.contains(text)) {
                return line;
            }
            let waiting = self.running() && Instant::now() < deadline;
            assert!(waiting, "no line has {text:?}: {:#?}", self.output());
            sleep(POLL);
        }
    }

    /// Waits until it exits.
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        wait(&mut self.child, DEADLINE).unwrap_or_else(|| panic!("still running: {:#?}", self.output()))
    }

    /// Heap and stacks in bytes: RssAnon of Linux's procfs. Pages of the binary do not count: they come with the first
    /// use of some code, and go when the machine is short of memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("procfs has our child");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon is there");
        let kilobytes = line.split_whitespace().nth(1).expect("a number follows");
        kilobytes.parse::<u64>().expect("in kB") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the line that says where clients connect.
fn url_of(line: &str) -> Option<SocketAddr> {
    // Other lines have URLs of settings.
    let (_, url) = line.split_once("open http").or_else(|| line.split_once("connect to http"))?;
    let rest = url.trim_start_matches('s').strip_prefix("://")?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("the status of a child is known") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(POLL);
    }
}

fn read_all(mut source: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = source.read_to_end(&mut bytes);
        bytes
    })
}

fn collect(source: impl Read + Send + 'static) -> Lines {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let shared = Arc::clone(&lines);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            shared.lock().expect("no thread panics with the lock").push(line);
        }
    });
    Lines { lines, reader }
}
