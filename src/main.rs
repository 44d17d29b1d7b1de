//! The `rollcall` server: arguments, logging, run, exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use mimalloc::MiMalloc;
use rollcall::Server;
use rollcall::config::{Config, ConfigError, EXIT_USAGE, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

/// The exit code of a process that ctrl-C has ended.
const EXIT_INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let config = match Config::from_args(std::env::args_os()) {
        Ok(config) => config,
        Err(error) => return explain(&error),
    };
    start_log(&config);
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(config: Config) -> anyhow::Result<()> {
    let workers = config.workers;
    let server = Server::bind(config)?;
    let address = server.local_addr();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!("rollcall {} is listening on {address} with {workers} workers", env!("CARGO_PKG_VERSION"));
    println!("open http://{} (stop with ctrl-C)", browsable(address));
    server
        .run(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            tokio::spawn(async move {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                eprintln!("stopped at once");
                std::process::exit(EXIT_INTERRUPTED);
            });
        })
        .await
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
        ConfigError::Invalid(message) => eprintln!("error: {message}"),
    }
    ExitCode::from(EXIT_USAGE)
}

fn start_log(config: &Config) {
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(&config.log)).with_writer(std::io::stderr);
    let log = log.with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
