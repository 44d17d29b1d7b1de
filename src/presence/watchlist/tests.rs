//! What watchers are told when a watched user comes, goes, or shows another state.

use super::*;

const NOW: u64 = 500;

fn live(announced: bool, held: bool, since_unix_ms: u64) -> LiveStatus {
    LiveStatus { announced, held, since_unix_ms, ..LiveStatus::default() }
}

/// Checks the status after these updates, and whether the next tick looks at the user again.
fn check(updates: &[LiveStatus], online: bool, since_unix_ms: Option<u64>, again: bool) {
    let list = Watchlist::new(1);
    let user = list.watch(0, ["bob"].into_iter(), false).remove(0);
    list.with_list(|list| {
        for update in updates {
            list.due.clear();
            list.update(&user, update.clone(), NOW);
        }
        let status = list.users[&user].last_status();
        assert_eq!(*status, UserStatus { online, since_unix_ms, state: None }, "{updates:?}");
        assert_eq!(list.due.len(), usize::from(again), "{updates:?}");
    });
}

#[test]
fn a_user_is_online_once_announced_and_stays_online_when_changing_rooms() {
    let (offline, member, unannounced) =
        (|| live(false, false, 0), || live(true, true, 100), || live(false, true, 300));
    check(&[offline()], false, None, false);
    check(&[member()], true, Some(100), false);
    check(&[member(), offline()], false, Some(NOW), false);
    check(&[member(), offline(), offline()], false, Some(NOW), false);
    check(&[member(), offline(), live(true, true, 400)], true, Some(400), false);
    // The join is announced by the next tick.
    check(&[unannounced()], false, None, true);
    check(&[member(), unannounced()], true, Some(100), true);
    check(&[member(), unannounced(), live(true, true, 300)], true, Some(100), false);
    // The user left again before the next tick: no diff shows it.
    check(&[member(), unannounced(), offline()], false, Some(NOW), false);
    // The leave is not announced yet.
    check(&[member(), live(true, false, 100)], true, Some(100), false);
}

/// A client may watch users who do not exist; the limit of memory depends on this size.
#[test]
fn a_watched_user_who_was_never_online_takes_little() {
    assert!(size_of::<(Arc<str>, Watched)>() <= 56);
    let mut watched = Watched::new(1);
    watched.set_status(&UserStatus::OFFLINE);
    assert!(watched.has_status && watched.last_status.is_none());
}

#[test]
fn watchers_of_users_of_an_application_see_whether_they_are_online_and_nothing_else() {
    let list = Watchlist::new(1);
    list.watch(0, ["\0pusher:1:#7"].into_iter(), false);
    let user: Arc<str> = Arc::from("\0pusher:1:#7");
    let settle = |live: LiveStatus| {
        list.with_list(|list| list.mark_due(&user));
        let changes = list.settle(NOW, |_, _| live.clone());
        changes.into_iter().next().map(|change| (change.status, change.changed))
    };
    let status = |online| UserStatus { online, since_unix_ms: None, state: None };
    assert_eq!(settle(live(true, true, 300)), Some((status(true), false)), "requested by the watcher");
    assert_eq!(settle(live(true, true, 100)), None, "another node knew the user before");
    assert_eq!(settle(live(false, false, 0)), Some((status(false), true)));
    assert_eq!(settle(live(false, false, 0)), None);
    assert_eq!(settle(live(true, true, 500)), Some((status(true), true)));
}

#[test]
fn restricted_watchers_learn_of_changes_that_others_do_not_see() {
    let list = Watchlist::new(1);
    let user = list.watch(0, ["bob"].into_iter(), false).remove(0);
    let settle = |states: &[(&str, &str)], requested: bool| {
        list.with_list(|list| if requested { list.request_status(&user) } else { list.mark_due(&user) });
        let changes = list.settle(NOW, |_, is_detailed| {
            let state = |(room, state): &(&str, &str)| (Arc::from(*room), State::from((*state).to_owned()));
            let states: States = states.iter().map(state).collect();
            let state = states.first().map(|(_, state)| state.clone());
            LiveStatus { state, states: is_detailed.then_some(states), ..live(true, true, 1) }
        });
        changes.into_iter().next().map(|change| (change.changed, change.details.is_some()))
    };
    assert_eq!(settle(&[("a", "1")], false), Some((false, false)), "requested by the first watcher");
    assert_eq!(settle(&[("a", "1"), ("b", "2")], false), None);
    list.watch(0, ["bob"].into_iter(), true);
    assert_eq!(settle(&[("a", "1"), ("b", "2")], false), Some((false, true)), "requested by the second watcher");
    assert_eq!(settle(&[("a", "1"), ("b", "3")], false), Some((false, true)));
    assert_eq!(settle(&[("a", "1"), ("b", "3")], false), None);
    assert_eq!(settle(&[("a", "2"), ("b", "3")], false), Some((true, true)));
    list.unwatch(0, [Arc::clone(&user)].iter(), true);
    assert_eq!(settle(&[("a", "2"), ("b", "4")], false), None);
    assert_eq!(settle(&[("a", "2"), ("b", "4")], true), Some((false, false)));
}

#[test]
fn repeated_watching_and_unwatching_leaves_nothing_behind() {
    let list = Watchlist::new(2);
    for _ in 0..100 {
        let names = list.watch(1, ["bob"].into_iter(), false);
        list.watch(1, ["bob"].into_iter(), true);
        list.unwatch(1, names.iter(), true);
        assert!(list.with_list(|list| list.restricted.is_empty()));
        list.unwatch(1, names.iter(), false);
    }
    assert!(list.with_list(|list| list.due.len()) <= 1);
    assert!(list.settle(NOW, |_, _| live(false, false, 0)).is_empty());
    assert_eq!(list.watched(), 0);
}
