//! A log of many days is read window by window, newest first.

use std::time::Duration;

use super::*;

/// How long data takes between the API and PostgreSQL, each way.
const WAY: Duration = Duration::from_millis(30);
/// If each day of a year were read by a statement of its own, the ways of 365 statements alone would take 22 s.
const IN_TIME: Duration = Duration::from_secs(12);

/// Locks a table against everybody until the value is dropped.
async fn locked(site: &Site, table: &str) -> tokio_postgres::Client {
    let locker = site.another_sql().await;
    locker.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    locker
}

#[tokio::test]
async fn questions_about_what_is_recent_do_not_touch_old_partitions() {
    let site = Site::new().await.set("retention.attempts", "90d").set("retention.events", "90d");
    with_past_days(&site, 2..=40).await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    let webhook = path.rsplit('/').next().unwrap();
    let delivery = closed_delivery(&site, webhook, 0).await;
    closed_delivery(&site, webhook, 0).await;
    let _locked = locked(&site, &partition(&site, "attempts", -40).await).await;
    // A statement that needed the locked partition would fail: the test holds the lock to its end.
    let read = async |path: &str| customer.get(path).await.json();
    for filter in ["", "&status=failed", "&event_type=content.created"] {
        let page = read(&format!("{path}/deliveries?limit=1{filter}")).await;
        assert_eq!(page["data"].as_array().unwrap().len(), 1, "{filter}");
        assert!(page["next_cursor"].is_string(), "{filter}");
    }
    for window in ["1h", "24h", "7d"] {
        let stats = read(&format!("{path}/stats?window={window}")).await;
        let failed = stats["data"].as_array().unwrap().iter().map(|bucket| bucket["failed"].as_i64().unwrap());
        assert_eq!(failed.sum::<i64>(), 2, "{window}");
    }
    let list = read("/v1/webhooks?include=activity").await;
    assert_eq!(list["data"][0]["activity"]["last_status"], "failed", "{list}");
    let resend = format!("{path}/deliveries/{delivery}/resend");
    assert_eq!(customer.ask("POST", &resend, &[], b"").await.status, 202);
}

#[tokio::test]
async fn a_redelivered_message_is_checked_against_the_retention_newest_first() {
    let site = Site::new().await.set("retention.attempts", "20d").set("retry.schedule", "[]");
    let receiver = Receiver::start().await;
    let _worker = site.worker().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    site.publish_message(&site.event("evt_done", "acc_1", "content.created", &serde_json::json!({}))).await;
    receiver.wait_for(1).await;
    site.wait_for_attempts(&webhook, 1).await;
    with_past_days(&site, 2..=30).await;
    let redelivered = async |id| {
        let event = site.event(id, "acc_1", "content.created", &serde_json::json!({}));
        site.publish_message(&event.with_header("x-requeued", "true")).await;
    };
    let checked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = ";
    // A delivery that was attempted today is found in today's partition alone.
    let within_retention = partition(&site, "attempts", -15).await;
    let locker = locked(&site, &within_retention).await;
    redelivered("evt_done").await;
    site.publish_message(&site.event("evt_2", "acc_1", "content.created", &serde_json::json!({}))).await;
    receiver.wait_for(2).await;
    wait_until("the queue is empty", async || site.queue_depth(site.worker_queue()).await == 0).await;
    assert_eq!(site.count(&format!("{checked}'{within_retention}'::regclass")).await, 0);
    locker.batch_execute("ROLLBACK").await.unwrap();
    // A delivery that was never attempted is looked for in all days of the retention.
    let _locked = locked(&site, &partition(&site, "attempts", -25).await).await;
    redelivered("evt_3").await;
    receiver.wait_for(3).await;
}

#[tokio::test]
async fn what_is_old_is_found_by_every_question_without_locking_all_of_the_log() {
    let site = Site::new().await.set("retention.attempts", "90d").set("retention.events", "90d");
    with_past_days(&site, 2..=80).await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    let webhook = path.rsplit('/').next().unwrap();
    let mut old = Vec::new();
    for age in [79, 30, 17, 3] {
        old.push(closed_delivery(&site, webhook, age).await);
    }
    let log = format!("{path}/deliveries");
    let ids = async |query: &str| {
        let page = customer.get(&format!("{log}?{query}")).await.json();
        let ids = page["data"].as_array().unwrap().iter().map(|row| row["delivery_id"].as_str().unwrap().to_owned());
        (ids.collect::<Vec<_>>(), page["next_cursor"].as_str().map(str::to_owned))
    };
    let newest_first: Vec<String> = old.iter().rev().cloned().collect();
    for filter in ["limit=4", "limit=9&status=failed", "limit=9&event_type=content.created"] {
        assert_eq!(ids(filter).await, (newest_first.clone(), None), "{filter}");
    }
    assert_eq!(ids(&format!("delivery_id={}", old[0])).await, (vec![old[0].clone()], None));
    let (first, cursor) = ids("limit=3").await;
    assert_eq!(first, newest_first[..3]);
    assert_eq!(ids(&format!("limit=3&cursor={}", cursor.unwrap())).await, (newest_first[3..].to_vec(), None));
    // This delivery is known by its attempt alone.
    site.sql().await.batch_execute("DELETE FROM closed_deliveries").await.unwrap();
    let resend = format!("{log}/{}/resend", old[0]);
    assert_eq!(customer.ask("POST", &resend, &[], b"").await.status, 202);
    site.sql().await.batch_execute("DELETE FROM attempts WHERE created_at > now() - interval '70 days'").await.unwrap();
    let list = customer.get("/v1/webhooks?include=activity").await.json();
    assert_eq!(list["data"][0]["activity"]["last_status"], "failed", "{list}");
    // A statement that is stopped on its way holds locks on few partitions.
    let _locked = locked(&site, &partition(&site, "attempts", -10).await).await;
    let asked = tokio::spawn(async move { customer.get(&log).await });
    site.wait_for_a_blocked_session().await;
    let locks = "SELECT count(*) FROM pg_locks l WHERE l.pid IN (SELECT pid FROM pg_locks WHERE NOT granted)";
    let locks = site.count(locks).await;
    assert!(locks < 140, "{locks} locks, one partition takes 4");
    asked.abort();
}

#[tokio::test]
async fn closed_deliveries_of_a_whole_year_are_counted_and_recovered_in_time() {
    let site = Site::new().await.set("retention.events", "400d");
    let webhook = site.create_webhook("acc_1", "http://127.0.0.1:9999/", &["content.created"]).await.id;
    let a_year = format!(
        "DO $$ BEGIN FOR n IN 2 .. 365 LOOP
            PERFORM make_partition('events', (now() AT TIME ZONE 'UTC')::date - n);
         END LOOP; END $$;
         WITH stored AS (
             INSERT INTO events (day, key, account_id, event_id, event_type, body)
             SELECT (now() AT TIME ZONE 'UTC')::date - n, gen_random_uuid(), 'acc_1', 'evt_' || n, 'content.created', '{{}}'
             FROM generate_series(1, 365) AS n RETURNING day, key)
         INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
         SELECT key, '{webhook}', day, key, 'exhausted', 10 FROM stored"
    );
    site.sql().await.batch_execute(&a_year).await.unwrap();
    let postgres = Proxy::to(site.postgres_address()).await;
    let site = site.postgres_through(&postgres.addr());
    let api = site.api().await;
    postgres.delay(WAY);
    let recover = format!("/v1/webhooks/{webhook}/recover");
    let since = serde_json::json!({ "since": "2026-01-01T00:00:00Z" });
    let customer = api.customer("acc_1");
    let asked = within("the answer", IN_TIME, customer.post(&recover, &since)).await;
    assert_eq!((asked.status, asked.text()), (202, r#"{"recovering":365}"#.to_owned()));
    let recovered = async || site.count("SELECT count(*) FROM pending_deliveries").await == 365;
    within("all are recovered", IN_TIME, wait_until("all are recovered", recovered)).await;
}
