//! How many `SET … EX` a second the store's writer brings into a Redis, as one line of JSON: what `scripts/redis-figures` compares
//! with redis-benchmark. `benches/redis.rs` shows where the time goes.

mod writer;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use mimalloc::MiMalloc;
use rollcall::os::cpu_ns;

use rollcall::store::redis::command::{Command, Reply};
use writer::{LEASE, Writer, connect, schema, user_name};

/// The allocator of the server.
#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

/// Renews the keys of users that are all due at once, over one lane and one connection.
#[derive(Debug, Parser)]
struct Args {
    /// The Redis to write to
    #[arg(long)]
    url: String,
    /// Users whose keys are written
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    users: u32,
    /// How often each is written
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default());
    let measured = runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(measure(&args)));
    match measured {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            eprintln!("redis-writer: {trouble}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &Args) -> Result<serde_json::Value, String> {
    let users = args.users as usize;
    let mut writer = Writer::open(&args.url, users).await?;
    let (began, cpu_before_ns) = (Instant::now(), cpu_ns());
    let mut commands = 0;
    for _ in 0..args.rounds {
        let written = writer.renew_all().await?;
        // Renewals are spread: one may fall into this round or the next, but none is missing.
        if written < u64::from(args.users) {
            return Err(format!("{written} keys were written for {users} users"));
        }
        commands += written;
    }
    let (seconds, ran_ns) = (began.elapsed().as_secs_f64(), cpu_ns() - cpu_before_ns);
    let key = schema().user_key(&user_name(0));
    let value = value_of(&args.url, &key).await?;
    Ok(serde_json::json!({
        "commands": commands,
        "commands_per_s": commands as f64 / seconds,
        "cpu_per_command_us": ran_ns as f64 / 1e3 / commands as f64,
        "key": key,
        "value": value,
        "ttl_s": LEASE.as_secs(),
    }))
}

async fn value_of(url: &str, key: &str) -> Result<String, String> {
    let replies = connect(url).await?.run(&[Command::Get(vec![key.to_owned()])]).await?;
    match replies.into_iter().next() {
        Some(Reply::Texts(mut texts)) => texts.pop().flatten().ok_or_else(|| format!("{key} is not there")),
        reply => Err(format!("{key} cannot be read: {reply:?}")),
    }
}
