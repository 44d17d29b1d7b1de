//! The `rollcall` server: arguments, logging, signals, exit codes.

use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use rollcall::Server;
use rollcall::config::{Args, Command, Config, ConfigError, EXIT_USAGE, LogFormat, Pages};
use rollcall::config::{completions, manual, report, template};
use rollcall::os::ignores_signal;
use rollcall::server::reload::Reload;
use rollcall::store::event_log::Target;
use rollcall::store::{EXIT_UNAVAILABLE, Unavailable};
use rollcall::{health, logging};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{Level, info, warn};

#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

/// The exit code of a process that ctrl-C has ended.
const EXIT_INTERRUPTED: i32 = 130;
/// Signals within this time of the first one are the same request: a wrapper may signal the process and its group.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let format = LogFormat::of(&words);
    // Before files are read and names are resolved, which may take long: a reload right after the start must not end
    // the process.
    let (runtime, hangup) = match listen_for_hangup() {
        Ok(listening) => listening,
        Err(error) => return end(format, Err(error.into())),
    };
    match Args::read(words).and_then(|args| run(args, format, &runtime, hangup)) {
        Ok(code) => code,
        Err(error) => explain(format, &error),
    }
}

/// The runtime of the main thread, and SIGHUP if it neither is ignored nor stops the server. Other signals end the
/// process until the server waits for clients, as no client would notice it.
fn listen_for_hangup() -> std::io::Result<(Runtime, Option<Signal>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let hangup = match hangup_stops() {
        true => None,
        false => runtime.block_on(async { listen(SignalKind::hangup()) })?,
    };
    Ok((runtime, hangup))
}

fn run(args: Args, format: LogFormat, runtime: &Runtime, hangup: Option<Signal>) -> Result<ExitCode, ConfigError> {
    match &args.command {
        // The environment may be the server's: of its settings, this command needs only a correct address.
        Some(Command::Health { url }) => {
            let (addresses, opening) = args.addresses_to_ask(health::running_server)?;
            return Ok(end(format, health::ask(url.as_deref(), &addresses, opening)));
        }
        Some(Command::Completions { shell }) => return Ok(end(format, print(&completions(*shell)))),
        Some(Command::Config) => return Ok(end(format, print(&template()))),
        Some(Command::Man) => return Ok(end(format, manual().map_err(Into::into).and_then(|page| print(&page)))),
        Some(Command::Check) => {
            let config = args.resolve()?;
            Server::check(&config)?;
            return Ok(end(format, print(&report(&config))));
        }
        None => {}
    }
    let config = args.resolve()?;
    // A thread of its own writes the log: a stopped terminal or a pipe that nothing reads must not stop the server.
    let (writer, _flush_at_end) = tracing_appender::non_blocking(std::io::stderr());
    logging::start(&config.log, writer);
    Ok(end(format, runtime.block_on(serve(config, hangup))))
}

/// Prints the result of a command. It is not an error if the reader closes the pipe early, such as `head`.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn end(format: LogFormat, result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return explain(format, error);
    }
    print_error(format, &format!("{error:#}"));
    if error.is::<Unavailable>() { ExitCode::from(EXIT_UNAVAILABLE) } else { ExitCode::FAILURE }
}

async fn serve(config: Config, hangup: Option<Signal>) -> anyhow::Result<()> {
    let (workers, connections) = (config.limits.workers, config.limits.max_connections);
    let lines_go_to_stdout = config.sinks.event_log == Some(Target::Stdout);
    let format = config.log.format;
    let print_line = move |line: String| match lines_go_to_stdout {
        true => logging::print(format, Level::INFO, std::io::stderr(), &line),
        false => logging::print(format, Level::INFO, std::io::stdout(), &line),
    };
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    let settings = config.settings.to_string();
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let invitation = if config.pages == Pages::All { "open" } else { "clients connect to" };
    if let Some(few_files) = &config.limits.few_files {
        warn!("{few_files}");
    }
    let server = Server::bind(config)?;
    let (addresses, reload) = (server.addresses().to_vec(), server.reload());
    let (status_address, internal_address) = (server.status_addr(), server.internal_addr());
    let mut signals = Signals::listen(hangup)?;
    let server = tokio::select! {
        server = server.open_store() => server?,
        () = signals.stop() => return Ok(()),
    };
    let version = env!("CARGO_PKG_VERSION");
    let listening = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" and ");
    print_line(format!(
        "rollcall {version} is listening on {listening} with {workers} {}, for {connections} connections",
        if workers == 1 { "worker" } else { "workers" }
    ));
    if let Some(status) = status_address {
        print_line(format!("online status is served on {status} as well"));
    }
    if let Some(internal) = internal_address {
        print_line(format!("probes and counters are served on {internal}, without a key"));
    }
    print_line(format!("{invitation} {scheme}://{} (stop with ctrl-C)", browsable(addresses[0])));
    info!(version, %listening, workers, connections, settings, "started");
    server
        .run(async move {
            signals.stop_or_reload(&reload).await;
            tokio::spawn(async move {
                let first = Instant::now();
                while first.elapsed() < SAME_SIGNAL {
                    signals.stop().await;
                }
                logging::print(format, Level::INFO, std::io::stderr(), &"stopped at once");
                std::process::exit(EXIT_INTERRUPTED);
            });
        })
        .await
}

/// The signals that the server answers. One that was ignored at the start stays ignored: `nohup`, and shells that start
/// a program in the background, mean it.
struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
    hangup_stops: bool,
}

/// Whether SIGHUP says that the terminal is gone, and not that something is to be reloaded.
fn hangup_stops() -> bool {
    std::io::stdin().is_terminal()
}

/// Signals of this kind; none if they were ignored at the start.
fn listen(kind: SignalKind) -> std::io::Result<Option<Signal>> {
    if ignores_signal(kind.as_raw_value()) { Ok(None) } else { signal(kind).map(Some) }
}

impl Signals {
    /// `hangup` was listened for at the start, unless it stops the server.
    fn listen(hangup: Option<Signal>) -> std::io::Result<Self> {
        let hangup_stops = hangup_stops();
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: Some(signal(SignalKind::terminate())?),
            hangup: if hangup_stops { listen(SignalKind::hangup())? } else { hangup },
            hangup_stops,
        })
    }

    /// Waits for SIGINT or SIGTERM, or for SIGHUP if it stops the server.
    async fn stop(&mut self) {
        let Self { interrupt, terminate, hangup, hangup_stops } = self;
        tokio::select! {
            () = next(interrupt) => {},
            () = next(terminate) => {},
            () = next(hangup), if *hangup_stops => {},
        }
    }

    /// The same, and reloads at each SIGHUP that does not stop the server.
    async fn stop_or_reload(&mut self, reload: &Reload) {
        loop {
            tokio::select! {
                () = next(&mut self.interrupt) => return,
                () = next(&mut self.terminate) => return,
                () = next(&mut self.hangup) => if self.hangup_stops { return } else { reload.run() },
            }
        }
    }
}

/// The next signal of this kind; never if it is ignored.
async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Prints the error that ends the process.
fn print_error(format: LogFormat, message: &str) {
    let prefix = if format == LogFormat::Text { "error: " } else { "" };
    logging::print(format, Level::ERROR, std::io::stderr(), &format!("{prefix}{message}"));
}

/// An address that a browser on this machine can open.
fn browsable(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_unspecified() => format!("localhost:{}", address.port()),
        _ => address.to_string(),
    }
}

fn explain(format: LogFormat, error: &ConfigError) -> ExitCode {
    match error {
        ConfigError::Usage(error) if format == LogFormat::Text || !error.use_stderr() => {
            // As for other lines, a closed output does not matter.
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::SUCCESS;
            }
        }
        ConfigError::Usage(error) => {
            let message = error.render().to_string();
            print_error(format, message.strip_prefix("error: ").unwrap_or(&message).trim_end());
        }
        ConfigError::Invalid(message) => print_error(format, message),
    }
    ExitCode::from(EXIT_USAGE)
}
