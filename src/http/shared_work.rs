//! Work that takes long and whose result many requests share.
//!
//! It runs on a thread for long work, once at a time. If the request that started it ends before the work does, the
//! result serves the other requests.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// A result that took less time is not reused: another one is cheap.
const CHEAP: Duration = Duration::from_millis(20);
/// A result that took longer is reused for this many times its duration. So the work takes at most a tenth of the time
/// of one thread.
const REUSE_FACTOR: u32 = 10;

/// The latest result, and the work under way.
#[derive(Debug)]
pub(super) struct SharedWork<T> {
    state: Arc<Mutex<State<T>>>,
}

#[derive(Debug)]
struct State<T> {
    done: Option<Done<T>>,
    /// Closed when the work under way has ended.
    running: Option<watch::Receiver<()>>,
}

#[derive(Debug)]
struct Done<T> {
    result: T,
    started: Instant,
    reused_until: Instant,
}

impl<T> Default for SharedWork<T> {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(State { done: None, running: None })) }
    }
}

impl<T: Clone + Send + 'static> SharedWork<T> {
    /// A result of work that began after this call, or a result that is reused. `work` is called if the work has to be
    /// started.
    pub(super) async fn get(&self, work: impl Fn() -> T + Clone + Send + 'static) -> T {
        let asked = Instant::now();
        loop {
            let mut running = {
                let mut state = self.state.lock();
                if let Some(done) = &state.done
                    && (done.started >= asked || done.reused_until > asked)
                {
                    return done.result.clone();
                }
                match state.running.as_ref().filter(|running| running.has_changed().is_ok()) {
                    Some(running) => running.clone(),
                    None => self.start(&mut state, work.clone()),
                }
            };
            // Nothing is ever sent: this waits for the end.
            let _ = running.changed().await;
        }
    }

    fn start(&self, state: &mut State<T>, work: impl FnOnce() -> T + Send + 'static) -> watch::Receiver<()> {
        let (ends, running) = watch::channel(());
        state.running = Some(running.clone());
        // A result that was reused for long enough may go before the next one takes as much memory. Requests may still
        // be about to take one that was not reused.
        state.done.take_if(|done| done.reused_until > done.started + CHEAP * REUSE_FACTOR);
        let state = Arc::clone(&self.state);
        tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let result = work();
            let took = started.elapsed();
            let reuse = if took < CHEAP { Duration::ZERO } else { took * REUSE_FACTOR };
            state.lock().done = Some(Done { result, started, reused_until: Instant::now() + reuse });
            drop(ends);
        });
        running
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::task::Poll;

    use tokio::task::yield_now;
    use tokio::time::advance;

    use super::*;

    /// Work that counts how often it was done, and waits for a message before it ends.
    fn counted_work() -> (Arc<AtomicUsize>, mpsc::Sender<()>, impl Fn() -> usize + Clone + Send + 'static) {
        let (count, (end, may_end)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel());
        let (counted, may_end) = (Arc::clone(&count), Arc::new(Mutex::new(may_end)));
        let work = move || {
            let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
            let _ = may_end.lock().recv();
            number
        };
        (count, end, work)
    }

    async fn is_pending<T>(mut request: Pin<&mut impl Future<Output = T>>) -> bool {
        poll_fn(|context| Poll::Ready(request.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn work_survives_the_requests_that_asked_for_it_and_is_done_once() {
        let shared = SharedWork::default();
        let (count, end, work) = counted_work();
        for _ in 0..100 {
            assert!(is_pending(pin!(shared.get(work.clone()))).await);
        }
        while count.load(Ordering::Relaxed) == 0 {
            yield_now().await;
        }
        // A request that arrives during the work does not take its result, which may be older than the request, unless
        // the work took long: then it is reused.
        advance(CHEAP).await;
        let mut last = pin!(shared.get(work.clone()));
        assert!(is_pending(last.as_mut()).await);
        end.send(()).unwrap();
        assert_eq!(last.await, 1, "it took long");
        assert_eq!(shared.get(work).await, 1, "it is reused");
        assert_eq!(count.load(Ordering::Relaxed), 1, "one thread, not one per request");
    }

    #[tokio::test(start_paused = true)]
    async fn cheap_work_is_done_again_for_requests_that_arrive_during_it() {
        let shared = SharedWork::default();
        let (count, end, work) = counted_work();
        drop(end);
        for number in 1..10 {
            assert_eq!(shared.get(work.clone()).await, number);
            // On a clock that stands still, the result would not be older than the next request.
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(count.load(Ordering::Relaxed), 9);
    }
}
