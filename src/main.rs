//! The `rollcall` server: arguments, logging, signals, exit codes.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use mimalloc::MiMalloc;
use rollcall::Server;
use rollcall::config::{Args, Command, Config, ConfigError, EXIT_USAGE, LogFormat};
use rollcall::health;
use rollcall::store::event_log::Target;
use rollcall::store::{EXIT_UNAVAILABLE, Sinks, Unavailable};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

/// The exit code of a process that ctrl-C has ended.
const EXIT_INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    match Args::read(std::env::args_os()).and_then(run) {
        Ok(code) => code,
        Err(error) => explain(&error),
    }
}

fn run(args: Args) -> Result<ExitCode, ConfigError> {
    // The environment may be the server's: of its settings, this command needs only a correct address.
    if let Some(Command::Health { url }) = &args.command {
        return Ok(end(health::ask(url.as_deref(), args.address()?)));
    }
    let config = args.resolve()?;
    // A thread of its own writes the log: a stopped terminal or a pipe that nothing reads must not stop the server.
    let (writer, _flush_at_end) = tracing_appender::non_blocking(std::io::stderr());
    start_log(&config, writer);
    Ok(end(serve(config)))
}

fn end(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return explain(error);
    }
    print_line(&mut std::io::stderr(), &format!("error: {error:#}"));
    if error.is::<Unavailable>() { ExitCode::from(EXIT_UNAVAILABLE) } else { ExitCode::FAILURE }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(config: Config) -> anyhow::Result<()> {
    let (workers, connections) = (config.limits.workers, config.limits.max_connections);
    let lines_go_to_stdout = config.sinks.event_log == Some(Target::Stdout);
    let mut out: Box<dyn Write> =
        if lines_go_to_stdout { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) };
    let server = Server::bind(config)?;
    let (address, status_address, sinks) = (server.local_addr(), server.status_addr(), server.sinks());
    let mut signals = Signals::listen()?;
    let server = tokio::select! {
        server = server.open_store() => server?,
        () = signals.stop() => return Ok(()),
    };
    let version = env!("CARGO_PKG_VERSION");
    print_line(
        &mut out,
        &format!("rollcall {version} is listening on {address} with {workers} workers, for {connections} connections"),
    );
    if let Some(status) = status_address {
        print_line(&mut out, &format!("online status is served on {status} as well"));
    }
    print_line(&mut out, &format!("open http://{} (stop with ctrl-C)", browsable(address)));
    server
        .run(async move {
            signals.stop_or_reopen(&sinks).await;
            tokio::spawn(async move {
                signals.stop().await;
                print_line(&mut std::io::stderr(), "stopped at once");
                std::process::exit(EXIT_INTERRUPTED);
            });
        })
        .await
}

/// The signals that the server answers.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGINT or SIGTERM.
    async fn stop(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }

    /// The same, and answers SIGHUP: sinks reopen what they write to. If there is nothing to reopen, SIGHUP stops the
    /// server.
    async fn stop_or_reopen(&mut self, sinks: &Sinks) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => if !sinks.reopen() { return },
            }
        }
    }
}

/// Prints a line. A failure is ignored: a closed output must not stop the server.
fn print_line(out: &mut impl Write, line: &str) {
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// An address that a browser on this machine can open.
fn browsable(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_unspecified() => format!("localhost:{}", address.port()),
        _ => address.to_string(),
    }
}

fn explain(error: &ConfigError) -> ExitCode {
    match error {
        ConfigError::Usage(error) => {
            // As in print_line, a closed output does not matter.
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::SUCCESS;
            }
        }
        ConfigError::Invalid(message) => print_line(&mut std::io::stderr(), &format!("error: {message}")),
    }
    ExitCode::from(EXIT_USAGE)
}

fn start_log(config: &Config, writer: NonBlocking) {
    // A log line that cannot be written is lost: reporting that on the same broken pipe would end the process.
    let log = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(EnvFilter::new(&config.log.filter))
        .with_writer(writer);
    let log = log.with_ansi(std::io::stderr().is_terminal());
    match config.log.format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
