//! Equal permissions are stored once: most tokens of an application grant one of a few sets.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::super::Permissions;

/// The limit of sets that are remembered. Tokens with further sets have their own: nothing is refused.
const MAX_SETS: usize = 4096;

/// The permissions that connections have now.
#[derive(Debug)]
pub(in crate::auth) struct SharedPermissions {
    default: Arc<Permissions>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    sets: HashSet<Arc<Permissions>, RandomState>,
    /// Sets that found no room since unused ones were last dropped.
    turned_away: usize,
}

impl SharedPermissions {
    /// Nothing is known but the permissions of tokens without `caps`.
    pub(in crate::auth) fn new(default: Permissions) -> Self {
        Self { default: Arc::new(default), known: Mutex::default() }
    }

    /// The permissions of tokens without `caps`.
    pub(super) fn default(&self) -> &Arc<Permissions> {
        &self.default
    }

    /// The set that is equal to this one.
    pub(super) fn share(&self, permissions: Permissions) -> Arc<Permissions> {
        let mut known = self.known.lock();
        if let Some(shared) = known.sets.get(&permissions) {
            return Arc::clone(shared);
        }
        let shared = Arc::new(permissions);
        if known.sets.len() >= MAX_SETS {
            known.turned_away += 1;
            // Rarely, so that it costs little per token however many sets are in use.
            if known.turned_away % MAX_SETS == 1 {
                known.sets.retain(|set| Arc::strong_count(set) > 1);
            }
        }
        if known.sets.len() < MAX_SETS {
            known.sets.insert(Arc::clone(&shared));
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn permissions(room: usize) -> Permissions {
        let caps = json!([{"rooms": [format!("room-{room}")], "allow": ["join"]}]);
        Permissions::from_claims(Some(&caps), None, &Permissions::everything()).unwrap()
    }

    #[test]
    fn equal_permissions_are_one_set() {
        let shared = SharedPermissions::new(Permissions::everything());
        let (first, second) = (shared.share(permissions(1)), shared.share(permissions(1)));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &shared.share(permissions(2))));
    }

    #[test]
    fn the_number_of_remembered_sets_is_limited_and_unused_ones_make_room() {
        let shared = SharedPermissions::new(Permissions::everything());
        let used: Vec<_> = (0..MAX_SETS).map(|room| shared.share(permissions(room))).collect();
        for room in 0..10 {
            shared.share(permissions(MAX_SETS + room));
        }
        assert_eq!(shared.known.lock().sets.len(), MAX_SETS);
        drop(used);
        for room in 0..=MAX_SETS {
            shared.share(permissions(2 * MAX_SETS + room));
        }
        assert!(shared.known.lock().sets.len() < MAX_SETS);
        assert!(Arc::ptr_eq(&shared.share(permissions(7)), &shared.share(permissions(7))));
    }
}
