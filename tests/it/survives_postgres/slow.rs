//! A Postgres that answers slowly: nothing is written twice, and a batch that is too large for one statement is written in
//! parts.

use super::*;

/// Adds a partition for an old day to the log, and locks it until the returned session ends its transaction. A statement
/// about new attempts that read it would wait.
async fn an_old_day_locked(ledger: &Ledger) -> tokio_postgres::Client {
    let locker = ledger.site.another_sql().await;
    let old = "(now() AT TIME ZONE 'UTC')::date - 10";
    locker.batch_execute(&format!("SELECT make_partition('attempts', {old})")).await.unwrap();
    let lock = format!(
        "BEGIN; DO $$ BEGIN
            EXECUTE format('LOCK TABLE attempts_%s IN ACCESS EXCLUSIVE MODE', to_char({old}, 'YYYYMMDD'));
        END $$"
    );
    locker.batch_execute(&lock).await.unwrap();
    locker
}

#[tokio::test]
async fn a_commit_that_ends_after_its_time_is_not_repeated() {
    let ledger = Ledger::open(impatient(Site::new().await)).await;
    let mut worker = ledger.site.worker().await;
    let gatekeeper = ledger.site.another_sql().await;
    gatekeeper.batch_execute(END_LATE).await.unwrap();
    let locker = an_old_day_locked(&ledger).await;
    ledger.publish(1).await;
    worker.wait_for_log(CANNOT_RECORD).await;
    // The commit is still under way, and another session waits for it.
    let waiting = "SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
                   WHERE NOT l.granted AND a.datname = current_database()";
    ledger.wait_for_count(waiting, 2).await;
    gatekeeper.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    worker.wait_for_log("waited_ms").await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    // The recorder takes this batch after the first.
    ledger.publish(1).await;
    ledger.wait_until_done().await;
    ledger.wait_for_count("SELECT count(DISTINCT delivery_id) FROM attempts", 2).await;
    assert_eq!(ledger.count(ATTEMPTS).await, 2);
    assert_eq!(ledger.receiver.count(), 2);
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn results_that_are_too_many_for_one_statement_are_recorded_in_parts() {
    let ledger = Ledger::open(patient(Site::new().await).set("database.statement_timeout", "1s")).await;
    let mut worker = ledger.site.worker().await;
    let gate = held_in_flight(&ledger, 200).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END';
                CREATE TRIGGER slow BEFORE INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION slow();";
    ledger.site.sql().await.batch_execute(slow).await.unwrap();
    gate.open();
    ledger.wait_until_done().await;
    // Without this line one statement took them all.
    worker.wait_for_log(CANNOT_RECORD).await;
    assert_eq!(ledger.count(ATTEMPTS).await, 200);
    ledger.close(vec![worker]).await.assert_sound(0);
}
