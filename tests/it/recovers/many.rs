//! A recovery recovers exactly the deliveries that were closed in its span, at a bounded rate.

use super::*;
use crate::support::older_schema::back_to;

/// A webhook without a receiver, and no worker.
pub(super) struct Quiet {
    pub(super) site: Site,
    pub(super) webhook: Webhook,
}

/// A URL at which nothing listens.
pub(super) const NOBODY: &str = "http://127.0.0.1:9999/";

impl Quiet {
    pub(super) async fn new() -> Self {
        Self::on(Site::new().await, NOBODY).await
    }

    pub(super) async fn on(site: Site, url: &str) -> Self {
        let webhook = site.create_webhook(ACCOUNT, url, &[TYPE]).await;
        Self { site, webhook }
    }

    /// Adds `count` events, each with a delivery that was closed for this reason, this long ago.
    pub(super) async fn close(&self, count: i32, reason: &str, ago: &str) {
        let webhook = &self.webhook.id;
        let close = format!(
            r#"WITH stored AS (
                INSERT INTO events (day, key, account_id, event_id, event_type, body)
                SELECT (now() AT TIME ZONE 'UTC')::date, gen_random_uuid(), '{ACCOUNT}', 'evt_' || gen_random_uuid(), '{TYPE}', '{{}}'
                FROM generate_series(1, {count}) RETURNING day, key
            )
            INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made, closed_at)
            SELECT key, '{webhook}', day, key, '{reason}', 2, now() - interval '{ago}' FROM stored"#
        );
        self.execute(&close).await;
    }

    pub(super) async fn execute(&self, sql: &str) {
        self.site.sql().await.batch_execute(sql).await.unwrap();
    }

    pub(super) fn recover<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["webhooks", "recover", &self.webhook.id], more].concat()
    }

    /// Recovers what was closed since then, and returns how many deliveries were recovered.
    pub(super) async fn recovered(&self, since: &str) -> i64 {
        let said = self.site.json(&self.recover(&["--since", since])).await;
        assert_eq!(said["not_recoverable"], 0);
        said["recovering"].as_i64().unwrap()
    }

    pub(super) async fn assert_counts(&self, pending: i64, closed: i64) {
        assert_eq!((self.site.count(PENDING).await, self.site.count(CLOSED).await), (pending, closed));
    }

    /// Checks that this many deliveries are pending, and that they fall due one after the other at this rate, a second.
    pub(super) async fn assert_spread(&self, pending: i64, rate: i64) {
        let gap = 1_000_000 / rate;
        let micros = |what: &str| {
            format!(
                "SELECT (extract(epoch FROM {what}) * 1000000)::bigint FROM (
                SELECT due_at, due_at - lag(due_at) OVER (ORDER BY due_at) AS gap FROM pending_deliveries) AS p"
            )
        };
        assert_eq!(self.site.count(PENDING).await, pending);
        let shortest = self.site.count(&micros("min(gap)")).await;
        assert!(shortest >= gap - 1, "two are due {shortest} µs from each other");
        let whole = self.site.count(&micros("max(due_at) - min(due_at)")).await;
        assert!(whole >= gap * (pending - 1) - 1, "all are due within {whole} µs");
    }
}

#[tokio::test]
async fn every_reason_is_recovered_and_starts_its_schedule_anew() {
    let quiet = Quiet::new().await;
    for reason in ["exhausted", "cancelled", "disabled", "unrecordable"] {
        quiet.close(1, reason, "1 minute").await;
    }
    assert_eq!(quiet.recovered("2h").await, 4);
    quiet.assert_counts(4, 0).await;
    let anew = format!(
        "{PENDING} p JOIN webhooks w ON w.id = p.webhook_id AND w.activation = p.activation
        JOIN events e ON e.day = p.event_day AND e.key = p.event_key
        WHERE p.trigger = 'resend' AND p.attempts_made = 0"
    );
    assert_eq!(quiet.site.count(&anew).await, 4);
    assert_eq!(quiet.recovered("2h").await, 0);
    quiet.assert_counts(4, 0).await;
}

#[tokio::test]
async fn only_what_was_closed_since_then_is_recovered() {
    let quiet = Quiet::new().await;
    quiet.close(1, "exhausted", "4 hours").await;
    quiet.close(2, "exhausted", "1 hour").await;
    // This delivery is closed after the command began.
    quiet.close(4, "exhausted", "-1 hour").await;
    let other = quiet.site.create_webhook(ACCOUNT, "http://127.0.0.1:9999/", &[TYPE]).await;
    assert_eq!(quiet.site.json(&["webhooks", "recover", &other.id, "--since", "2h"]).await["recovering"], 0);
    assert_eq!(quiet.recovered("2h").await, 2);
    quiet.assert_counts(2, 5).await;
    assert_eq!(quiet.recovered("9999-12-31T23:59:59Z").await, 0);
    assert_eq!(quiet.recovered("2020-01-01 00:00:00.0123456789+01:00").await, 1);
    quiet.assert_counts(3, 4).await;
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing() {
    let quiet = Quiet::new().await;
    quiet.close(3, "exhausted", "1 minute").await;
    let all = "SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM closed_deliveries c";
    let rows = async || quiet.site.sql().await.query_one(all, &[]).await.unwrap().get::<_, String>(0);
    let before = rows().await;
    let dry = quiet.site.json(&quiet.recover(&["--since", "2h", "--dry-run"])).await;
    assert_eq!(dry, json!({ "recovering": 3, "not_recoverable": 0 }));
    let said = quiet.site.cli(&quiet.recover(&["--since", "2h", "--dry-run"])).await.stdout;
    assert_eq!(said, "would recover 3 deliveries\n");
    assert_eq!(rows().await, before);
    quiet.assert_counts(0, 3).await;
    assert_eq!(quiet.site.count("SELECT count(recovering_until) FROM webhooks").await, 0);
}

#[tokio::test]
async fn what_retention_has_dropped_is_counted_apart() {
    let quiet = Quiet::new().await;
    quiet.close(3, "exhausted", "1 minute").await;
    quiet.execute("UPDATE closed_deliveries SET event_day = '2020-01-01' WHERE id IN (SELECT id FROM closed_deliveries LIMIT 2)").await;
    let counted = json!({ "recovering": 1, "not_recoverable": 2 });
    assert_eq!(quiet.site.json(&quiet.recover(&["--since", "2h", "--dry-run"])).await, counted);
    let said = quiet.site.cli(&quiet.recover(&["--since", "2h"])).await.stdout;
    assert_eq!(said, "recovering 1 delivery\nnot recoverable, for their events are no longer kept: 2 deliveries\n");
    quiet.assert_counts(1, 2).await;
}

#[tokio::test]
async fn recovered_deliveries_fall_due_at_the_set_rate_over_all_runs() {
    let site = Site::new().await.set("recover.rate", "20");
    let quiet = Quiet::on(site, "http://127.0.0.1:9999/").await;
    quiet.close(1200, "exhausted", "1 minute").await;
    assert_eq!(quiet.recovered("2h").await, 1200);
    quiet.close(30, "exhausted", "1 minute").await;
    assert_eq!(quiet.recovered("2h").await, 30);
    quiet.assert_spread(1230, 20).await;
    let defaults = Quiet::new().await;
    defaults.close(600, "exhausted", "1 minute").await;
    assert_eq!(defaults.recovered("2h").await, 600);
    defaults.assert_spread(600, 100).await;
}

#[tokio::test]
async fn what_is_pending_already_keeps_its_place_unless_it_would_be_cancelled_there() {
    let quiet = Quiet::new().await;
    quiet.close(2, "exhausted", "1 minute").await;
    quiet.execute("UPDATE webhooks SET activation = 5").await;
    quiet.execute("INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at, claim)
        SELECT id, webhook_id, 3 + row_number() OVER (), event_day, event_key, 'retry', 7, now() + interval '1 day', 3 FROM closed_deliveries").await;
    assert_eq!(quiet.recovered("2h").await, 2);
    quiet.assert_counts(2, 0).await;
    for (trigger, attempts_made) in [("retry", 7), ("resend", 0)] {
        let row =
            format!("{PENDING} WHERE trigger = '{trigger}' AND attempts_made = {attempts_made} AND activation = 5");
        assert_eq!(quiet.site.count(&row).await, 1, "{trigger}");
    }
}

#[tokio::test]
async fn what_cannot_be_recovered_is_refused_in_one_line() {
    let quiet = Quiet::new().await;
    quiet.close(1, "cancelled", "1 minute").await;
    let (switch_on, nobody) =
        (format!("webhooks update {} --active true", quiet.webhook.id), Uuid::new_v4().to_string());
    let none = quiet.site.cli(&["webhooks", "recover", &nobody, "--since", "2h"]).await;
    assert_refused(&none, &["there is no webhook", &nobody]);
    for (sql, said) in [
        ("UPDATE webhooks SET active = false", "is switched off"),
        ("UPDATE webhooks SET disabled_reason = 'gone'", "was disabled (gone)"),
    ] {
        quiet.execute(sql).await;
        for more in [&["--since", "2h"][..], &["--since", "2h", "--dry-run"]] {
            assert_refused(&quiet.site.cli(&quiet.recover(more)).await, &[said, &switch_on]);
        }
    }
    for usage in [&["--since", "yesterday"][..], &["--since", "9000y"], &["--since", "2026-11-23"], &[]] {
        assert_eq!(quiet.site.cli(&quiet.recover(usage)).await.code, 2, "{usage:?}");
    }
    quiet.assert_counts(0, 1).await;
}

#[tokio::test]
async fn recovered_deliveries_arrive_once_each_and_retry_as_ever() {
    let receiver = Receiver::start().await;
    let site = Site::new().await.set("recover.rate", "1000").set("retry.schedule", r#"["20ms"]"#);
    let quiet = Quiet::on(site, &receiver.url()).await;
    quiet.close(40, "exhausted", "1 minute").await;
    receiver.script([Reply::status(500)]);
    let mut worker = quiet.site.worker().await;
    assert_eq!(quiet.recovered("2h").await, 40);
    wait_until("nothing waits any more", async || quiet.site.count(PENDING).await == 0).await;
    quiet.assert_counts(0, 0).await;
    let ids: std::collections::BTreeSet<String> = receiver.requests().iter().map(|r| r.event_id().to_owned()).collect();
    assert_eq!((ids.len(), receiver.count()), (40, 41));
    let attempts = quiet.site.attempts(&quiet.webhook).await;
    let count = |trigger| attempts.iter().filter(|made| made.trigger == trigger).count();
    assert_eq!((count("resend"), count("retry")), (40, 1));
    worker.terminate();
    worker.wait().await;
}

#[tokio::test]
async fn a_worker_serves_the_first_schema_and_recovering_asks_for_the_newest() {
    let receiver = Receiver::start().await;
    let quiet = Quiet::on(Site::new().await, &receiver.url()).await;
    quiet.close(1, "exhausted", "1 minute").await;
    quiet.execute(&back_to(8)).await;
    let first = "ALTER TABLE webhooks DROP COLUMN recovering_until;
        DROP INDEX pending_deliveries_by_webhook; CREATE INDEX pending_deliveries_due ON pending_deliveries (due_at);
        DROP INDEX pending_deliveries_by_time; CREATE INDEX pending_deliveries_by_event_day ON pending_deliveries (event_day);
        DROP INDEX attempts_failed_by_webhook; DROP TABLE recoveries; DROP TABLE dropped_partitions;
        DROP FUNCTION make_partition; DELETE FROM refinery_schema_history WHERE version > 1";
    quiet.execute(first).await;
    let _worker = quiet.site.worker().await;
    quiet.site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.wait_for(1).await;
    quiet.site.wait_for_attempts(&quiet.webhook, 1).await;
    assert_refused(&quiet.site.cli(&quiet.recover(&["--since", "2h"])).await, &["penr-webhooks migrate"]);
    quiet.assert_counts(0, 1).await;
    let migrated = quiet.site.cli(&["migrate"]).await;
    assert_eq!(migrated.code, 0, "{}", migrated.stderr);
    assert_eq!(quiet.recovered("2h").await, 1);
}
