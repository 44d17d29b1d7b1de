//! What the list refuses, how long its entries live, and how lists of nodes become equal.

use super::*;

const NOW: u64 = 1_700_000_000;
const LIFETIME: Duration = Duration::from_secs(3600);

fn user(name: &str) -> Target {
    Target::User(name.into())
}

#[test]
fn a_credential_is_refused_if_it_matches_and_is_not_later() {
    let list = Revocations::new(LIFETIME);
    let refuse = |user: &str, issued_at: Option<u64>, id: &str, key: &str| {
        list.refuse(user, &list.credential(issued_at, Some(id), Some(key)))
    };
    assert!(!refuse("alice", None, "t", "k"), "nothing is revoked");
    list.add(user("alice"), NOW, NOW).unwrap();
    assert!(refuse("alice", Some(NOW), "t", "k") && refuse("alice", None, "t", "k"));
    assert!(!refuse("alice", Some(NOW + 1), "t", "k") && !refuse("bob", None, "t", "k"));
    list.add(Target::Token("t".into()), 0, NOW).unwrap();
    assert!(refuse("bob", Some(NOW + 9), "t", "k") && !refuse("bob", Some(NOW + 9), "u", "k"));
    list.add(Target::Key("k".into()), 0, NOW).unwrap();
    assert!(refuse("bob", Some(NOW + 9), "u", "k") && !refuse("bob", Some(NOW + 9), "u", "j"));
    list.add(Target::Everybody, NOW - 5, NOW).unwrap();
    assert!(refuse("carol", Some(NOW - 5), "u", "j") && !refuse("carol", Some(NOW), "u", "j"));
    list.add(user("alice"), NOW - 100, NOW).unwrap();
    assert!(refuse("alice", Some(NOW), "u", "j"), "an earlier time takes nothing back");
    assert!(!list.refuse("dora", &Credential { issued_at: NOW, ..Credential::default() }));
}

#[test]
fn an_entry_lives_as_long_as_a_credential_that_it_refuses() {
    let list = Revocations::new(LIFETIME);
    let ahead = NOW + 50;
    list.add(user("alice"), ahead, NOW).unwrap();
    list.add(user("bob"), NOW, NOW).unwrap();
    let refuse = |name: &str| list.refuse(name, &list.credential(Some(NOW), None, None));
    list.take_fresh(NOW + 3600);
    assert!(refuse("alice") && refuse("bob"));
    list.take_fresh(NOW + 3600 + CLOCK_SLACK_S + 1);
    assert!(refuse("alice") && !refuse("bob"), "tokens of then are valid for longer");
    list.take_fresh(ahead + 3600 + CLOCK_SLACK_S + 1);
    assert!(!refuse("alice") && list.is_empty());
}

#[test]
fn a_full_list_takes_no_new_entry_and_keeps_all() {
    let list = Revocations::new(LIFETIME);
    for number in 0..MAX_REVOCATIONS {
        list.add(user(&number.to_string()), NOW, NOW).unwrap();
        if number % 1000 == 0 {
            list.take_fresh(NOW);
        }
    }
    list.take_fresh(NOW);
    assert_eq!(list.add(user("one more"), NOW, NOW), Err(Full));
    assert!(list.add(user("7"), NOW + 1, NOW).is_ok(), "it is in the list already");
    assert!(list.refuse("0", &Credential::default()) && !list.refuse("one more", &Credential::default()));
    let of_others =
        |number: usize| Revocation { target: user(&format!("o{number}")), issued_before: 1, until: u64::MAX };
    let merged = list.merge((0..MAX_MERGED).map(of_others).collect(), NOW);
    assert_eq!((list.len(), merged.left_out, merged.missing.len()), (MAX_MERGED, MAX_REVOCATIONS, MAX_REVOCATIONS));
    assert!(list.add(user("one more"), NOW, NOW + 4000).is_err());
}

#[test]
fn lists_of_two_nodes_become_equal_through_the_store() {
    let (one, other) = (Revocations::new(LIFETIME), Revocations::new(LIFETIME));
    let everything = [user("alice"), Target::Token("a:b".into()), Target::Key("k\tk".into()), Target::Everybody];
    for target in everything.iter().cloned() {
        one.add(target, NOW, NOW).unwrap();
    }
    let Merged { missing, .. } = one.merge(Vec::new(), NOW);
    assert_eq!(missing.len(), everything.len());
    let stored = missing.iter().map(|entry| Revocation::parse(&entry.text(), entry.until).unwrap());
    let stored: Vec<_> = stored.collect();
    assert_eq!(other.merge(stored.clone(), NOW).missing, []);
    assert_eq!(other.take_fresh(NOW).len(), everything.len());
    assert!(other.refuse("alice", &Credential { issued_at: NOW, ..Credential::default() }));
    assert_eq!(other.merge(stored.clone(), NOW).missing, []);
    assert!(other.take_fresh(NOW).is_empty(), "nothing is new");
    one.add(user("alice"), NOW + 7, NOW).unwrap();
    let missing = one.merge(stored, NOW).missing;
    assert_eq!(missing.iter().map(Revocation::text).collect::<Vec<_>>(), [format!("user:{}:alice", NOW + 7)]);
}

#[test]
fn texts_of_another_form_are_no_entries() {
    for text in ["", "user", "user:1", "user:x:alice", "user:1:", "user:-1:alice", "jti:", "all:", "all:x", "who:1:a"] {
        assert_eq!(Revocation::parse(text, NOW), None, "{text}");
    }
    assert!(Revocation::parse(&format!("jti:{}", "x".repeat(MAX_ID_BYTES + 1)), NOW).is_none());
}

#[test]
fn the_time_of_a_revocation_follows_the_clocks_of_issuers() {
    let list = Revocations::new(LIFETIME);
    list.note_issued(NOW - 100, NOW);
    assert_eq!(list.now_of_issuers(NOW), NOW);
    list.note_issued(NOW + 30, NOW);
    list.note_issued(NOW + 3, NOW);
    assert_eq!(list.now_of_issuers(NOW + 7), NOW + 37, "the clock that is furthest ahead counts");
    assert_eq!(list.now_of_issuers(NOW + AHEAD_FOR_S + 1), NOW + AHEAD_FOR_S + 1, "for a while");
    list.note_issued(NOW + 4003, NOW + 4000);
    assert_eq!(list.now_of_issuers(NOW + 4001), NOW + 4004, "it was set meanwhile");
}
