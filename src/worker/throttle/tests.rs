//! What budgets do to connections, and what not.

use std::sync::atomic::Ordering;

use super::*;
use crate::worker::commands::tests::with_connection;

/// Has the connection execute a cheap command in each tick for five minutes.
fn go_on(worker: &mut Worker, connection: &mut Connection, price: Price) {
    for _ in 0..300 * worker.times.second {
        worker.node.tick.fetch_add(1, Ordering::Relaxed);
        worker.charge(connection, price);
        worker.end_if_over_limit(connection, &mut BytesMut::new());
    }
}

#[test]
fn a_connection_that_ends_while_it_waits_leaves_nothing() {
    with_connection(|worker, connection| {
        worker.node.user_work.spend(&("mallory", None::<PeerAddress>), USER.burst, 0);
        assert_eq!(worker.admit(connection, Some("mallory"), 1), Admission::Later);
        assert_eq!(worker.throttle.spenders.len(), 1);
        worker.disconnected(connection);
        assert_eq!(worker.throttle.spenders.len(), 0);
    });
}

#[test]
fn the_address_of_an_arrival_is_looked_up_once() {
    with_connection(|worker, connection| {
        assert_eq!(worker.admit(connection, Some("alice"), 1), Admission::Now);
        worker.identify(connection, "alice", None).unwrap();
        assert_eq!(worker.addresses.looked_up(), 1);
        worker.charge(connection, Price::new(256, 1));
        // The snapshot of a room comes with one of the next two ticks.
        worker.addresses.end_tick();
        worker.charge(connection, Price::new(2000, 0));
        assert_eq!(worker.addresses.looked_up(), 0, "it is known");
        worker.addresses.end_tick();
        worker.charge(connection, Price::new(2000, 0));
        assert_eq!(worker.addresses.looked_up(), 1, "it was forgotten");
    });
}

#[test]
fn a_client_is_not_disconnected_for_what_others_of_the_same_user_spend() {
    with_connection(|worker, connection| {
        worker.identify(connection, "mallory", None).unwrap();
        worker.node.user_work.spend(&("mallory", None::<PeerAddress>), USER.burst + USER.limit / 2, 0);
        go_on(worker, connection, Price::new(128, 1));
        assert!(worker.counters.pauses.get() > 0);
        assert_eq!(connection.phase, Phase::Open);
    });
}

#[test]
fn a_client_whose_debt_shrinks_is_not_disconnected() {
    with_connection(|worker, connection| {
        // Two long lists, and then the position of a cursor, ten times per second.
        worker.charge(connection, Price::new(600 << 10, 0));
        worker.charge(connection, Price::new(3 << 20, 0));
        go_on(worker, connection, Price::new(139, 0));
        assert!(worker.counters.pauses.get() > 0);
        assert_eq!(connection.phase, Phase::Open);
    });
}
