//! A recovery may be killed, run twice at once, or meet other changes: no delivery is doubled or lost.

use tokio_postgres::Client;

use super::many::{NOBODY, Quiet};
use super::*;

/// The number of closed deliveries.
const MANY: i64 = 5000;
/// The number of deliveries that a stopped recovery has made pending: three batches.
const SOME: i64 = 1500;
/// Takes the lock that a stopped recovery waits for.
const LOCK: &str = "SELECT pg_advisory_lock(4711)";
/// Takes the lock that retention holds while it marks partitions, and that every batch takes first.
const RETENTION: &str = "SELECT pg_advisory_lock(x'70656e7270617274'::bigint)";
const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted
    AND (database IS NULL OR database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
/// Counts the sessions of our processes.
const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'penr-webhooks'";

/// A site with many closed deliveries. A recovery stops in the transaction after the first `SOME` deliveries, until the client
/// unlocks.
async fn stopped_halfway() -> (Quiet, Client) {
    // A statement may wait for as long as the test takes.
    let quiet = Quiet::on(Site::new().await.set("database.statement_timeout", "200s"), NOBODY).await;
    quiet.close(MANY as i32, "exhausted", "1 minute").await;
    let stand = format!(
        "CREATE FUNCTION stand() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
             IF (SELECT count(*) FROM pending_deliveries) = {SOME} THEN PERFORM pg_advisory_xact_lock(4711); END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER stand AFTER INSERT ON pending_deliveries FOR EACH STATEMENT EXECUTE FUNCTION stand()"
    );
    quiet.execute(&stand).await;
    let holder = quiet.site.another_sql().await;
    holder.batch_execute(LOCK).await.unwrap();
    (quiet, holder)
}

async fn unlock(holder: &Client) {
    holder.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
}

async fn wait_for_blocked_sessions(quiet: &Quiet, count: i64) {
    wait_until(&format!("{count} wait for a lock"), async || quiet.site.count(WAITING).await == count).await;
}

fn started(quiet: &Quiet) -> Replica {
    quiet.site.launch(&quiet.recover(&["--since", "2h", "--json"])).start()
}

/// Two recoveries that both wait for a lock. A recovery gives up after a wait of 2 s, which may be over before the other one has
/// started; then both are started again.
async fn two_that_wait(quiet: &Quiet) -> [Replica; 2] {
    eventually("two recoveries wait", async || {
        let mut both = [started(quiet), started(quiet)];
        while both.iter_mut().all(Replica::is_running) {
            if quiet.site.count(WAITING).await == 2 {
                return Some(both);
            }
        }
        for replica in &mut both {
            let _ = replica.wait().await;
        }
        None
    })
    .await
}

fn recovering(replica: &Replica) -> i64 {
    let said: serde_json::Value = serde_json::from_str(&replica.stdout()).unwrap();
    said["recovering"].as_i64().unwrap()
}

/// Checks that each delivery is pending once.
async fn assert_all_pending(quiet: &Quiet) {
    quiet.assert_counts(MANY, 0).await;
    let known = format!("{PENDING} p JOIN events e ON e.key = p.id");
    assert_eq!(quiet.site.count(&known).await, MANY);
    quiet.assert_spread(MANY, 100).await;
}

#[tokio::test]
async fn a_recovery_that_is_killed_and_run_again_recovers_all_once() {
    let (quiet, holder) = stopped_halfway().await;
    let mut killed = started(&quiet);
    wait_for_blocked_sessions(&quiet, 1).await;
    killed.kill9();
    killed.wait().await;
    unlock(&holder).await;
    // Postgres finds that the client is gone when it answers: by then the transaction is either committed or rolled back.
    wait_until("its session has ended", async || quiet.site.count(SESSIONS).await == 0).await;
    let pending = quiet.site.count(PENDING).await;
    assert!((SOME - 500..=SOME).contains(&pending), "{pending}");
    quiet.assert_counts(pending, MANY - pending).await;
    assert_eq!(quiet.recovered("2h").await, MANY - pending);
    assert_all_pending(&quiet).await;
}

#[tokio::test]
async fn a_recovery_that_a_signal_ends_says_how_many_are_recovering_and_those_are() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let (quiet, holder) = stopped_halfway().await;
        let mut stopped = started(&quiet);
        wait_for_blocked_sessions(&quiet, 1).await;
        stopped.signal(signal);
        assert_eq!(stopped.wait().await.code(), Some(code));
        // The transaction that stands still is not among them.
        let told = recovering(&stopped);
        assert_eq!(told, SOME - 500);
        let said = stopped.log();
        assert!(said.contains(&format!("stopped by a signal: {told} of {MANY} are recovering")), "{said}");
        unlock(&holder).await;
        wait_until("its session has ended", async || quiet.site.count(SESSIONS).await == 0).await;
        let pending = quiet.site.count(PENDING).await;
        assert!((told..=SOME).contains(&pending), "{pending}");
        quiet.assert_counts(pending, MANY - pending).await;
    }
}

#[tokio::test]
async fn two_recoveries_at_once_recover_all_once_at_one_rate() {
    let quiet = Quiet::new().await;
    quiet.close(MANY as i32, "exhausted", "1 minute").await;
    let holder = quiet.site.another_sql().await;
    holder.batch_execute("BEGIN; SELECT FROM webhooks FOR UPDATE").await.unwrap();
    let mut both = two_that_wait(&quiet).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    for replica in &mut both {
        assert!(replica.wait().await.success(), "{}", replica.log());
    }
    assert_eq!(both.iter().map(recovering).sum::<i64>(), MANY);
    assert!(both.iter().all(|replica| recovering(replica) > 0), "one recovery did everything");
    assert_all_pending(&quiet).await;
}

#[tokio::test]
async fn a_webhook_switched_off_during_its_recovery_is_not_called() {
    let (quiet, holder) = stopped_halfway().await;
    let receiver = Receiver::start().await;
    quiet
        .execute(&format!("UPDATE webhooks SET url = '{}', header_names = NULL, headers = NULL", receiver.url()))
        .await;
    let mut recovery = started(&quiet);
    wait_for_blocked_sessions(&quiet, 1).await;
    let update = ["webhooks", "update", &quiet.webhook.id, "--active", "false"];
    let mut switch_off = quiet.site.launch(&update).start();
    wait_for_blocked_sessions(&quiet, 2).await;
    // Keeps the next batch of the recovery behind the switch.
    let retention = quiet.site.another_sql().await;
    let (locked, ()) = tokio::join!(retention.batch_execute(RETENTION), async {
        wait_for_blocked_sessions(&quiet, 3).await;
        unlock(&holder).await;
    });
    locked.unwrap();
    let off = "SELECT count(*) FROM webhooks WHERE NOT active";
    wait_until("it is switched off", async || quiet.site.count(off).await == 1).await;
    unlock(&retention).await;
    assert!(switch_off.wait().await.success());
    assert_eq!(recovery.wait().await.code(), Some(1));
    let said = format!("error: only {SOME} of {MANY} are recovering: webhook {} is switched off", quiet.webhook.id);
    assert!(recovery.log().contains(&said), "{}", recovery.log());
    quiet.assert_counts(SOME, MANY - SOME).await;

    quiet.execute("DROP TRIGGER stand ON pending_deliveries; UPDATE pending_deliveries SET due_at = now()").await;
    let mut worker = quiet.site.worker().await;
    wait_until("all are closed again", async || quiet.site.count(CLOSED).await == MANY).await;
    worker.terminate();
    worker.wait().await;
    assert_eq!((receiver.count(), quiet.site.count(PENDING).await), (0, 0));
    quiet.site.json(&["webhooks", "update", &quiet.webhook.id, "--active", "true"]).await;
    assert_eq!(quiet.recovered("2h").await, MANY);
    quiet.assert_counts(MANY, 0).await;
}

#[tokio::test]
async fn a_closed_delivery_whose_row_is_locked_is_recovered_once_the_lock_is_released() {
    let quiet = Quiet::new().await;
    quiet.close(600, "exhausted", "1 minute").await;
    let holder = quiet.site.another_sql().await;
    holder.batch_execute("BEGIN; SELECT FROM closed_deliveries LIMIT 1 FOR UPDATE").await.unwrap();
    let mut recovery = started(&quiet);
    wait_until("the others are pending", async || quiet.site.count(PENDING).await == 599).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert!(recovery.wait().await.success());
    assert_eq!(recovering(&recovery), 600);
    quiet.assert_counts(600, 0).await;
}

#[tokio::test]
async fn what_retention_drops_meanwhile_is_not_recovered() {
    let quiet = Quiet::new().await;
    quiet.close(2, "exhausted", "1 minute").await;
    quiet
        .execute(
            "CREATE TABLE events_20200101 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2020-01-02');
             WITH c AS (UPDATE closed_deliveries SET event_day = '2020-01-01' RETURNING event_key)
             UPDATE events SET day = '2020-01-01' FROM c WHERE key = event_key",
        )
        .await;
    let retention = quiet.site.another_sql().await;
    retention.batch_execute(RETENTION).await.unwrap();
    let mut recovery = started(&quiet);
    wait_for_blocked_sessions(&quiet, 1).await;
    retention.batch_execute("ALTER TABLE events DETACH PARTITION events_20200101 CONCURRENTLY").await.unwrap();
    unlock(&retention).await;
    assert!(recovery.wait().await.success());
    assert_eq!(recovering(&recovery), 0);
    quiet.assert_counts(0, 2).await;
}
