//! The applications whose clients speak the Pusher protocol (`--pusher-app`), found by number or key.
//!
//! An application signs what its clients may do, so these clients need no other credential. The list follows a reload:
//! connections stay, and what they do next is checked with the new keys and options.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{Derived, Pusher, PusherApp, PusherKey, Secret};
use crate::metrics::{AppCounters, AppTotals};
use crate::signature::is_signature;

/// All applications.
#[derive(Debug, Default)]
pub struct Apps(Option<Derived<App>>);

/// An application. Dereferences to its settings.
#[derive(Debug, Clone)]
pub struct App {
    settings: Arc<PusherApp>,
    /// What is counted on this node. It stays the same after a reload.
    counts: Arc<Counts>,
}

/// What is counted of an application on this node.
#[derive(Debug)]
struct Counts {
    /// The connections. All workers write it, because it has a limit.
    connections: AtomicU64,
    /// By worker. Written by the worker.
    workers: Box<[AppCounters]>,
    /// By HTTP thread. Written by the thread.
    http: Box<[AppCounters]>,
}

/// A connection of an application, counted as long as it lives.
#[derive(Debug)]
pub struct CountedConnection {
    counts: Arc<Counts>,
    worker: usize,
}

impl CountedConnection {
    /// What the worker of the connection counts of the application.
    #[must_use]
    pub fn counters(&self) -> &AppCounters {
        &self.counts.workers[self.worker]
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Deref for App {
    type Target = PusherApp;

    fn deref(&self) -> &PusherApp {
        &self.settings
    }
}

impl Apps {
    /// The applications of the settings, on a node with this many workers, and as many HTTP threads.
    #[must_use]
    pub fn new(settings: &Pusher, workers: usize) -> Self {
        // The settings log mistakes in values that are read again.
        let make = move |values: &[Secret], known: &[App]| {
            let apps = PusherApp::parse_all(values).ok()?;
            Some(apps.into_iter().map(|app| App::new(app, known, workers)).collect())
        };
        Self(settings.secrets().cloned().map(|values| values.derive_all(make)))
    }

    /// The present applications, sorted by number.
    #[must_use]
    pub fn current(&self) -> Arc<[App]> {
        self.0.as_ref().map(Derived::current).unwrap_or_default()
    }

    /// The application with this number.
    #[must_use]
    pub fn by_id(&self, id: u64) -> Option<App> {
        self.read(id, App::clone)
    }

    /// Calls `read` with the application that has this number.
    pub fn read<T>(&self, id: u64, read: impl FnOnce(&App) -> T) -> Option<T> {
        self.current().iter().find(|app| app.id == id).map(read)
    }

    /// The application that has this key.
    #[must_use]
    pub fn by_key(&self, key: &str) -> Option<App> {
        self.current().iter().find(|app| app.key(key).is_some()).cloned()
    }
}

impl App {
    fn new(settings: PusherApp, known: &[Self], workers: usize) -> Self {
        let counts = known.iter().find(|app| app.id == settings.id).map(|app| Arc::clone(&app.counts));
        let counters = || (0..workers).map(|_| AppCounters::default()).collect();
        let new = || Counts { connections: AtomicU64::new(0), workers: counters(), http: counters() };
        Self { settings: Arc::new(settings), counts: counts.unwrap_or_else(|| Arc::new(new())) }
    }

    /// One of its keys.
    #[must_use]
    pub fn key(&self, key: &str) -> Option<&PusherKey> {
        self.keys.iter().find(|known| *known.key == *key)
    }

    /// Whether `KEY:SIGNATURE` is the signature of a text with the secret of one of its keys. The parts of the text are
    /// signed as if they were one.
    #[must_use]
    pub fn has_signed(&self, auth: &str, parts: &[&[u8]]) -> bool {
        let Some((key, signature)) = auth.split_once(':') else { return false };
        self.key(key).is_some_and(|key| is_signature(signature, key.secret.as_bytes(), parts))
    }

    /// The number of its connections on this node.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// What a worker counts of it.
    #[must_use]
    pub fn of_worker(&self, number: usize) -> &AppCounters {
        &self.counts.workers[number]
    }

    /// What an HTTP thread counts of it.
    #[must_use]
    pub fn of_http_thread(&self, number: usize) -> &AppCounters {
        &self.counts.http[number]
    }

    /// The sums of what all threads count of it.
    #[must_use]
    pub fn totals(&self) -> AppTotals {
        AppTotals::sum(self.counts.workers.iter().chain(&self.counts.http))
    }

    /// Counts a connection of this worker; `None` if the application has as many as it may have.
    #[must_use]
    pub fn count_connection(&self, worker: usize) -> Option<CountedConnection> {
        let before = self.counts.connections.fetch_add(1, Ordering::Relaxed);
        let counted = CountedConnection { counts: Arc::clone(&self.counts), worker };
        self.options.max_connections.is_none_or(|limit| before < limit).then_some(counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const FLAGS: [&str; 5] = ["rollcall", "--pusher-app", "1:k1:s1,max-connections=1", "--pusher-app", "2:k2:s2"];

    #[test]
    fn applications_are_found_by_number_and_by_key() {
        let apps = Apps::new(&Config::from_args(FLAGS).unwrap().pusher, 1);
        assert_eq!((apps.by_id(2).unwrap().id, apps.by_key("k1").unwrap().id), (2, 1));
        assert!(apps.by_id(3).is_none() && apps.by_key("s1").is_none() && Apps::default().current().is_empty());
        assert!(!format!("{apps:?}").contains("s1"));
    }

    #[test]
    fn only_a_key_of_the_application_signs_for_it() {
        let apps = Apps::new(&Config::from_args(FLAGS).unwrap().pusher, 1);
        let (first, second) = (apps.by_id(1).unwrap(), apps.by_id(2).unwrap());
        let signature = crate::signature::sign(b"s1", &[b"1.2:private-a"]);
        let parts: &[&[u8]] = &[b"1.2", b":", b"private-a"];
        assert!(first.has_signed(&format!("k1:{signature}"), parts));
        assert!(!second.has_signed(&format!("k1:{signature}"), parts));
        assert!(!second.has_signed(&format!("k2:{signature}"), parts));
        for wrong in ["", ":", "k1", "k1:", &signature, &format!("k1:{signature}:")] {
            assert!(!first.has_signed(wrong, parts), "{wrong}");
        }
    }

    #[test]
    fn connections_are_counted_until_they_end() {
        let apps = Apps::new(&Config::from_args(FLAGS).unwrap().pusher, 1);
        let app = apps.by_id(1).unwrap();
        let one = app.count_connection(0).unwrap();
        assert!(app.count_connection(0).is_none());
        assert_eq!((app.connections(), apps.by_id(1).unwrap().connections()), (1, 1));
        drop(one);
        assert!(app.count_connection(0).is_some());
    }
}
