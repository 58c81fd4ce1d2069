//! What Postgres refuses for a reason of its own is held until it takes it. A trigger stands for a full disk and for
//! whatever else would take a cluster or somebody else's luck: to a client it is the same code.

use super::{ATTEMPTS, CANNOT_RECORD, held_in_flight, impatient, stayed_attached};
use crate::support::*;

/// A sequence forgets nothing in a rollback.
const REFUSE: &str = "
    CREATE SEQUENCE refusals MINVALUE 0 START 0;
    CREATE TABLE refusing (code text, times bigint);
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE refusal refusing;
        BEGIN
            SELECT * INTO refusal FROM refusing;
            IF FOUND AND nextval('refusals') < refusal.times THEN
                RAISE EXCEPTION 'refused by a test' USING ERRCODE = refusal.code;
            END IF;
            RETURN NULL;
        END $$;
    CREATE TRIGGER refuse AFTER INSERT ON attempts EXECUTE FUNCTION refuse();";

/// From now on so many transactions with attempts fail for this reason.
async fn refuse(ledger: &Ledger, code: &str, times: u64) {
    let next = format!(
        "
        TRUNCATE refusing; ALTER SEQUENCE refusals RESTART; INSERT INTO refusing VALUES ('{code}', {times})"
    );
    ledger.site.sql().await.batch_execute(&next).await.unwrap();
}

#[tokio::test]
async fn what_fails_for_a_passing_reason_is_recorded_once_it_has_passed() {
    const CODES: [(&str, &str); 9] = [
        ("40P01", "deadlock detected"),
        ("40001", "serialization failure"),
        ("53100", "disk full"),
        ("53200", "out of memory"),
        ("55P03", "lock not available"),
        ("57014", "statement cancelled"),
        ("57P03", "cannot connect now"),
        ("58030", "I/O error"),
        ("XX000", "internal error"),
    ];
    let ledger = Ledger::open(Site::new().await).await;
    ledger.site.sql().await.batch_execute(REFUSE).await.unwrap();
    let worker = ledger.site.worker().await;
    for (round, (code, name)) in CODES.into_iter().enumerate() {
        refuse(&ledger, code, 2).await;
        ledger.publish(10).await;
        ledger.wait_until_done().await;
        assert!(worker.log().contains(code), "{name} is not the reason in the log");
        assert_eq!(ledger.count(ATTEMPTS).await, 10 * (round as i64 + 1), "after {name}");
    }
    assert!(!worker.log().contains("25P02"), "a transaction that has failed is no reason");
    assert_eq!(ledger.count("SELECT count(*) FROM closed_deliveries").await, 0);
    assert!(stayed_attached(&worker));
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn a_full_disk_is_waited_for_with_no_more_in_hand_than_there_is_room_for() {
    const PREFETCH: usize = 50;
    let ledger = Ledger::open(Site::new().await.set("worker.prefetch", &PREFETCH.to_string())).await;
    ledger.site.sql().await.batch_execute(REFUSE).await.unwrap();
    let mut worker = ledger.site.worker().await;
    refuse(&ledger, "53100", u64::MAX >> 1).await;
    ledger.publish(4 * PREFETCH).await;
    worker.wait_for_log_times(CANNOT_RECORD, 4).await;
    let sent = ledger.receiver.count();
    assert!(sent <= PREFETCH, "{sent} requests whose results could not be kept");
    ledger.site.sql().await.batch_execute("TRUNCATE refusing").await.unwrap();
    ledger.wait_until_done().await;
    assert_eq!(ledger.count(ATTEMPTS).await, 4 * PREFETCH as i64);
    ledger.close(vec![worker]).await.assert_sound(0);
}

/// As when the primary has become a standby, or is kept from writing by an operator.
async fn read_only(ledger: &Ledger, on: bool) {
    let change = format!(
        "
        SET default_transaction_read_only = off;
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {on}', current_database());
        END $$;
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'penr-webhooks'"
    );
    ledger.site.sql().await.batch_execute(&change).await.unwrap();
}

#[tokio::test]
async fn a_postgres_that_may_only_be_read_is_waited_for() {
    let ledger = Ledger::open(impatient(Site::new().await)).await;
    let mut worker = ledger.site.worker().await;
    let gate = held_in_flight(&ledger, 20).await;
    read_only(&ledger, true).await;
    gate.open();
    worker.wait_for_log("25006").await;
    read_only(&ledger, false).await;
    ledger.wait_until_done().await;
    assert!(stayed_attached(&worker));
    assert_eq!(ledger.count(ATTEMPTS).await, 20);
    ledger.close(vec![worker]).await.assert_sound(0);
}
