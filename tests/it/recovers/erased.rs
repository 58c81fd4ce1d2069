//! A delivery whose event was erased, while its partition is still there, cannot be sent again, and is not counted as
//! recoverable.

use super::many::Quiet;
use super::*;

const ERASE: &str = "DELETE FROM events";

#[tokio::test]
async fn a_delivery_whose_event_was_erased_is_not_resent() {
    let stage = Stage::set("[]").await;
    let event = stage.publish().await;
    stage.site.wait_for_attempts(&stage.webhook, 1).await;
    stage.execute(ERASE).await;
    assert_refused(&stage.resend(&event).await, &["event is no longer kept"]);
    stage.ends_with_requests(1).await;
}

#[tokio::test]
async fn deliveries_whose_events_were_erased_are_neither_counted_nor_recovered_and_hide_no_others() {
    let quiet = Quiet::new().await;
    // More than one batch of deliveries without events comes before the others.
    quiet.close(1200, "exhausted", "2 minutes").await;
    quiet.execute(ERASE).await;
    quiet.close(3, "exhausted", "1 minute").await;
    let dry = quiet.site.json(&quiet.recover(&["--since", "2h", "--dry-run"])).await;
    assert_eq!(dry, json!({ "recovering": 3, "not_recoverable": 1200 }));
    let said = quiet.site.json(&quiet.recover(&["--since", "2h"])).await;
    assert_eq!(said, json!({ "recovering": 3, "not_recoverable": 1200 }));
    quiet.assert_counts(3, 1200).await;
}

#[tokio::test]
async fn a_delivery_that_succeeds_while_it_is_recovered_is_not_pending_afterwards() {
    let quiet = Quiet::new().await;
    quiet.close(2, "exhausted", "1 minute").await;
    // Stops a recovery after it has made its deliveries pending; meanwhile one of them is delivered.
    let stand = "CREATE FUNCTION stand() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS
                     'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END';
                 CREATE TRIGGER stand AFTER INSERT ON pending_deliveries FOR EACH STATEMENT EXECUTE FUNCTION stand()";
    quiet.execute(stand).await;
    let holder = quiet.site.another_sql().await;
    holder.batch_execute("SELECT pg_advisory_lock(4711)").await.unwrap();
    let mut recovery = quiet.site.launch(&quiet.recover(&["--since", "2h", "--json"])).start();
    quiet.site.wait_for_a_blocked_session().await;
    quiet.execute("DELETE FROM closed_deliveries WHERE id = (SELECT min(id::text)::uuid FROM closed_deliveries)").await;
    holder.batch_execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
    assert!(recovery.wait().await.success());
    quiet.assert_counts(1, 0).await;
}
