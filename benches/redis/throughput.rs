//! Prints as one line of JSON how many `SET … EX` per second the store writes to a Redis. `scripts/redis-figures`
//! compares that with redis-benchmark; `benches/redis.rs` shows where the time goes.

mod writer;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use mimalloc::MiMalloc;
use rollcall::os::cpu_ns;

use rollcall::store::redis::command::{RedisCommand, RedisReply};
use writer::{LEASE, Writer, connect, schema, user_name};

/// The allocator of the server.
#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

/// Renews the keys of users who are all due at once, over one partition and one connection.
#[derive(Debug, Parser)]
struct Args {
    /// The Redis to write to
    #[arg(long)]
    url: String,
    /// Number of users whose keys are written
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
        Err(error) => {
            eprintln!("redis-writer: {error}");
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
        // Renewals are spread: some keys are written again in the same round, but none is left out.
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
    let replies = connect(url).await?.execute(&[RedisCommand::MultiGet(vec![key.to_owned()])]).await?;
    match replies.into_iter().next() {
        Some(RedisReply::Texts(mut texts)) => texts.pop().flatten().ok_or_else(|| format!("{key} does not exist")),
        reply => Err(format!("{key} cannot be read: {reply:?}")),
    }
}
