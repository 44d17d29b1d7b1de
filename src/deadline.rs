//! Deadlines that count only the time in which this process ran. On a busy machine, or after it was suspended, no
//! client and no server is given up because this process was late to look.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

/// A deadline is waited for in this many parts. Each begins when the process has seen the end of the previous one.
const PARTS: u32 = 10;

/// The deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// Waits for the work until the deadline. A pause of this process counts as at most a tenth of the limit, so that a
/// result which arrived during the pause is taken.
///
/// # Errors
/// [`Elapsed`] if the work is not done by then.
pub async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    for _ in 0..PARTS {
        if let Ok(done) = tokio::time::timeout(limit / PARTS, &mut work).await {
            return Ok(done);
        }
    }
    Err(Elapsed)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::{Instant, advance};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn unfinished_work_ends_at_the_deadline() {
        let started = Instant::now();
        assert_eq!(timeout(LIMIT, std::future::pending::<()>()).await, Err(Elapsed));
        assert!((LIMIT..LIMIT * 2).contains(&started.elapsed()), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_that_arrived_while_the_process_slept_is_taken() {
        let (answer, answered) = oneshot::channel();
        let waiting = tokio::spawn(timeout(LIMIT, answered));
        tokio::task::yield_now().await;
        advance(LIMIT * 3).await;
        tokio::task::yield_now().await;
        // The task that sends the answer had not run either.
        answer.send("late").unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(Ok("late")));
    }
}
