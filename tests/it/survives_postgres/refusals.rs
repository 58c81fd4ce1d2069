//! Results that Postgres refuses for a reason of its own are kept until it accepts them. A trigger raises the errors of a full
//! disk and others that are hard to cause: a client gets the same SQLSTATE.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{ATTEMPTS, CANNOT_RECORD, held_in_flight, impatient, stayed_attached, told};
use crate::support::*;

/// Refuses the first `times` transactions with attempts. A sequence counts them, because a rollback does not set it back.
/// The sequence `refused` holds the process id of the last session that was refused.
const REFUSE: &str = "
    CREATE SEQUENCE refusals MINVALUE 0 START 0;
    CREATE SEQUENCE refused;
    CREATE TABLE refusing (code text, times bigint);
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE refusal refusing;
        BEGIN
            SELECT * INTO refusal FROM refusing;
            IF FOUND AND nextval('refusals') < refusal.times THEN
                PERFORM setval('refused', pg_backend_pid());
                RAISE EXCEPTION 'refused by a test' USING ERRCODE = refusal.code;
            END IF;
            RETURN NULL;
        END $$;
    CREATE TRIGGER refuse AFTER INSERT ON attempts EXECUTE FUNCTION refuse();";

/// Has this many transactions with attempts fail with this SQLSTATE.
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
    let mut worker = ledger.site.worker().await;
    for (round, (code, name)) in CODES.into_iter().enumerate() {
        refuse(&ledger, code, 2).await;
        ledger.publish(10).await;
        ledger.wait_until_done().await;
        worker.wait_for_log(code).await;
        assert_eq!(ledger.count(ATTEMPTS).await, 10 * (round as i64 + 1), "after {name}");
    }
    assert!(
        !worker.log().contains("25P02"),
        "the log gives 25P02 (the transaction has failed already) instead of the reason"
    );
    assert_eq!(ledger.count("SELECT count(*) FROM closed_deliveries").await, 0);
    assert!(stayed_attached(&worker));
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn what_others_hold_up_for_a_moment_is_no_outage() {
    let ledger = Ledger::open(Site::new().await).await;
    ledger.site.sql().await.batch_execute(REFUSE).await.unwrap();
    let mut worker = ledger.site.worker().await;
    for code in ["40P01", "40001", "55P03", "57014"] {
        let so_far = worker.log().matches(CANNOT_RECORD).count();
        refuse(&ledger, code, 3).await;
        ledger.publish(5).await;
        worker.wait_for_log_times(CANNOT_RECORD, so_far + 2).await;
        assert!(worker.is_ready().await, "{code} is no reason not to be ready");
        ledger.wait_until_done().await;
    }
    assert!(!told(&worker).iter().any(|line| line.contains("database")), "{:?}", told(&worker));
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn a_connection_that_is_no_good_any_more_is_replaced() {
    let ledger = Ledger::open(Site::new().await).await;
    ledger.site.sql().await.batch_execute(REFUSE).await.unwrap();
    let worker = ledger.site.worker().await;
    let refused = "SELECT count(*) FROM pg_stat_activity WHERE pid = (SELECT last_value FROM refused)";
    for code in ["25006", "57P01", "57P02", "57P03", "26000", "42P05", "0A000"] {
        refuse(&ledger, code, 1).await;
        ledger.publish(1).await;
        ledger.wait_until_done().await;
        wait_until(&format!("the session that got {code} has ended"), async || ledger.count(refused).await == 0).await;
    }
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

/// Makes the database read-only, as after a fail-over or by an operator.
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

/// The status of the readiness, and whether its text says that writes are refused.
async fn writes_are_refused(replica: &mut Replica) -> (u16, bool) {
    let address = replica.logged("operations address", "address").await;
    let answer = http::get(&address, "/readyz").await;
    (answer.status, answer.text().contains("writes: refused"))
}

#[tokio::test]
async fn sessions_that_may_only_read_are_replaced_once_writes_are_taken_again() {
    // All sessions are opened again at once, which may take a busy machine more than a second.
    let site = impatient(Site::new().await).set("database.connect_timeout", "5s");
    let ledger = Ledger::open(site).await;
    let webhook = ledger.site.create_webhook("acc_2", "http://127.0.0.1:9999/", &["content.created"]).await;
    let (webhook, change) = (format!("/v1/webhooks/{}", webhook.id), json!({ "name": "Another" }));
    read_only(&ledger, true).await;
    let mut api = ledger.site.api().await;
    let customer = api.customer("acc_2");
    let mut worker = ledger.site.worker().await;
    ledger.publish(20).await;
    worker.wait_for_log("25006").await;
    wait_until("the worker is not ready", async || writes_are_refused(&mut worker).await == (503, true)).await;
    wait_until("the API reports that writes are refused", async || {
        writes_are_refused(&mut api.replica).await == (200, true)
    })
    .await;
    assert_eq!(customer.get(&webhook).await.status, 200);
    assert_eq!(customer.patch(&webhook, &change).await.status, 503);
    let lift = "
        SET default_transaction_read_only = off;
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$";
    // A session that was opened while writes were refused still may not write.
    ledger.site.sql().await.batch_execute(lift).await.unwrap();
    let lifted = Instant::now();
    ledger.wait_until_done().await;
    wait_until("the API writes", async || customer.patch(&webhook, &change).await.status == 200).await;
    for replica in [&mut worker, &mut api.replica] {
        replica.wait_for_log("the database takes writes again").await;
        wait_until("it is ready and takes writes", async || writes_are_refused(replica).await == (200, false)).await;
        let told = told(replica).into_iter().filter(|line| line.contains("database"));
        assert_eq!(told.collect::<Vec<_>>(), ["the database refuses writes", "the database takes writes again"]);
    }
    assert!(lifted.elapsed() < Duration::from_secs(40), "{:?}", lifted.elapsed());
    assert!(stayed_attached(&worker));
    assert_eq!(ledger.count(ATTEMPTS).await, 20);
    ledger.close(vec![worker]).await.assert_sound(0);
}
