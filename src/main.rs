//! The `rollcall` server: arguments, logging, run, exit code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use mimalloc::MiMalloc;
use rollcall::Server;
use rollcall::config::{Args, Command, Config, ConfigError, EXIT_USAGE, LogFormat};
use rollcall::health;
use rollcall::store::{EXIT_UNAVAILABLE, Unavailable};
use tokio::signal::unix::{SignalKind, signal};
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
    // The server that is asked may have flags that this command has not: only where it listens has to be right.
    if let Some(Command::Health { url }) = &args.command {
        return Ok(end(health::ask(url.as_deref(), args.address()?)));
    }
    let config = args.resolve()?;
    // Written by a thread of its own: a terminal that is stopped, or a pipe that nobody reads, must not stop the server.
    let (writer, _flush_at_end) = tracing_appender::non_blocking(std::io::stderr());
    start_log(&config, writer);
    Ok(end(serve(config)))
}

fn end(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            publish(&mut std::io::stderr(), &format!("error: {error:#}"));
            if error.is::<Unavailable>() { ExitCode::from(EXIT_UNAVAILABLE) } else { ExitCode::FAILURE }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(config: Config) -> anyhow::Result<()> {
    let (workers, connections) = (config.limits.workers, config.limits.max_connections);
    let server = Server::bind(config)?;
    let (address, status_address) = (server.local_addr(), server.status_addr());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let server = tokio::select! {
        server = server.open_store() => server?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let version = env!("CARGO_PKG_VERSION");
    let out = &mut std::io::stdout();
    publish(
        out,
        &format!("rollcall {version} is listening on {address} with {workers} workers, for {connections} connections"),
    );
    if let Some(status) = status_address {
        publish(out, &format!("online status is served on {status} as well"));
    }
    publish(out, &format!("open http://{} (stop with ctrl-C)", browsable(address)));
    server
        .run(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
            tokio::spawn(async move {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                publish(&mut std::io::stderr(), "stopped at once");
                std::process::exit(EXIT_INTERRUPTED);
            });
        })
        .await
}

/// Prints a line. Nobody may be there to read it, which is no reason to fail.
fn publish(out: &mut impl Write, line: &str) {
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// An address that a browser on this machine can open.
fn browsable(address: std::net::SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_unspecified() => format!("localhost:{}", address.port()),
        _ => address.to_string(),
    }
}

fn explain(error: &ConfigError) -> ExitCode {
    match error {
        ConfigError::Usage(error) => {
            // The terminal may be gone; there is nobody to tell then.
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::SUCCESS;
            }
        }
        ConfigError::Invalid(message) => publish(&mut std::io::stderr(), &format!("error: {message}")),
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
