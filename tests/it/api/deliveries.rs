//! Customers see one delivery whole, find deliveries, and list each once with its state.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use penr_webhooks::ids::{DeliveryId, EventId, WebhookId};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::api::{Customer, assert_problem};
use crate::support::*;

fn webhook_id(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

fn delivery_id(path: &str, event: &str) -> String {
    let webhook = WebhookId::parse(webhook_id(path)).unwrap();
    DeliveryId::of(webhook, &EventId::parse(event).unwrap()).0.to_string()
}

/// The headers of a request but the one that depends on the URL.
fn headers(request: &Request) -> BTreeMap<String, String> {
    request.head.headers.iter().filter(|(name, _)| name != "Host").cloned().collect()
}

fn shown(delivery: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(delivery["request_headers"].clone()).unwrap()
}

#[tokio::test]
async fn a_delivery_is_shown_with_what_was_sent_as_long_as_it_can_be_made_again() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
    let (receiver, api, _worker) = (Receiver::start().await, site.api().await, site.worker().await);
    receiver.always(Reply::body(500, "broken"));
    let customer = api.customer("acc_1");
    let path = customer.create_plain_at(&receiver.url()).await;
    let data = "{\"title\": \"M\\u00fcller\",  \"price\": 1.0}";
    site.json(&["publish", "--account", "acc_1", "--type", "content.created", "--data", data, "--id", "evt_1"]).await;
    let request = receiver.wait_for(1).await.remove(0);
    wait_until("it is recorded", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
    let address = format!("{path}/deliveries/{}", delivery_id(&path, "evt_1"));
    let show = async || customer.get(&address).await.json();
    let pending = show().await;
    assert_eq!((&pending["state"], &pending["attempts_made"]), (&"pending".into(), &1.into()), "{pending}");
    assert_eq!((&pending["event_id"], &pending["event_type"]), (&"evt_1".into(), &"content.created".into()));
    assert_eq!(pending["payload"].as_str().unwrap().as_bytes(), request.body);
    assert!(pending["payload"].as_str().unwrap().contains(data), "{pending}");
    assert_eq!(shown(&pending), headers(&request));
    let made = site.json(&["token", "--account", "acc_1", "--read-only"]).await;
    let reader = Customer { token: made["token"].as_str().unwrap().to_owned(), ..customer.clone() };
    let mut unsigned = headers(&request);
    unsigned.retain(|name, _| name != "X-Webhook-Signature" && name != "Webhook-Signature");
    let read = reader.get(&address).await.json();
    assert_eq!(
        (shown(&read), &read["payload"]),
        (unsigned.clone(), &pending["payload"]),
        "no signature to be sent again"
    );
    assert_eq!(pending["attempts"], customer.get(&format!("{path}/deliveries")).await.json()["data"]);
    assert!(pending["created_at"].as_str() <= pending["attempts"][0]["created_at"].as_str(), "{pending}");
    assert!(pending["next_attempt_at"].is_string());
    // The first request was signed with another secret.
    customer.ask("POST", &format!("{path}/secret/regenerate"), &[], b"").await;
    assert_eq!(shown(&show().await), unsigned);
    // As if the secret had been replaced a minute earlier: both sign the next request, which is made again with both.
    let earlier = "UPDATE webhooks SET updated_at = updated_at - interval '1 minute'";
    site.sql().await.execute(earlier, &[]).await.unwrap();
    receiver.always(Reply::status(200));
    assert_eq!(customer.ask("POST", &format!("{address}/resend"), &[], b"").await.status, 202);
    let request = receiver.wait_for(2).await.remove(1);
    wait_until("it is delivered", async || show().await["state"] == "delivered").await;
    let delivered = show().await;
    assert_eq!((&delivered["attempts_made"], &delivered["next_attempt_at"]), (&1.into(), &Value::Null));
    assert_eq!(delivered["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(shown(&delivered), headers(&request));
    assert_eq!(headers(&request)["Webhook-Signature"].split(' ').count(), 2);
    // The older secret is gone, then the event, then the rest.
    site.sql().await.execute("UPDATE webhooks SET previous_secret = NULL", &[]).await.unwrap();
    assert!(!shown(&show().await).contains_key("Webhook-Signature"));
    site.sql().await.execute("DELETE FROM events", &[]).await.unwrap();
    let without_event = show().await;
    assert_eq!((&without_event["payload"], &without_event["state"]), (&Value::Null, &"delivered".into()));
    assert!(shown(&without_event).contains_key("Webhook-Timestamp"));
    site.sql().await.execute("DELETE FROM attempts", &[]).await.unwrap();
    let gone = customer.get(&address).await;
    assert_problem(&gone, 404, "not-found");
    assert!(gone.json()["detail"].as_str().unwrap().contains("nothing is left"), "{}", gone.text());
}

#[tokio::test]
async fn a_delivery_s_state_is_that_of_its_rows_and_of_its_webhook() {
    let site = Site::new().await;
    let (receiver, api) = (Receiver::start().await, site.api().await);
    receiver.always(Reply::status(500));
    let customer = api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await;
    let test = customer.post(&format!("{path}/test"), &json!({})).await.json();
    let show = async |delivery: &str| customer.get(&format!("{path}/deliveries/{delivery}")).await.json();
    let test = show(test["delivery_id"].as_str().unwrap()).await;
    assert_eq!((&test["state"], &test["payload"]), (&"exhausted".into(), &Value::Null), "{test}");
    let id = webhook_id(&path);
    let park = "INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
        VALUES ($1::text::uuid, $2::text::uuid, 1, current_date, gen_random_uuid(), 'event', 0, now())";
    let parked = delivery_id(&path, "evt_1");
    site.sql().await.execute(park, &[&parked, &id]).await.unwrap();
    let waiting = show(&parked).await;
    assert_eq!((&waiting["state"], &waiting["attempts"]), (&"pending".into(), &json!([])), "{waiting}");
    assert_eq!((&waiting["request_headers"], &waiting["event_id"]), (&Value::Null, &Value::Null));
    customer.patch(&path, &json!({ "active": false })).await;
    assert_eq!(show(&parked).await["state"], "cancelled");
    customer.patch(&path, &json!({ "active": true })).await;
    let older = show(&parked).await;
    assert_eq!(
        (&older["state"], &older["next_attempt_at"]),
        (&"cancelled".into(), &Value::Null),
        "of an older activation"
    );
    site.sql().await.execute("UPDATE webhooks SET active = false, disabled_reason = 'gone'", &[]).await.unwrap();
    assert_eq!(show(&parked).await["state"], "disabled");
    for reason in ["exhausted", "cancelled", "disabled", "unrecordable"] {
        let close = "WITH gone AS (DELETE FROM pending_deliveries), closed AS (DELETE FROM closed_deliveries)
            INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
            VALUES (gen_random_uuid(), $2::text::uuid, current_date, gen_random_uuid(), $1, 0) RETURNING id::text";
        let closed: String = site.sql().await.query_one(close, &[&reason, &id]).await.unwrap().get(0);
        assert_eq!(show(&closed).await["state"], reason);
    }
    let stranger = api.customer("acc_2");
    let own = stranger.create_at(&receiver.url()).await;
    let foreign = stranger.get(&format!("{own}/deliveries/{parked}")).await;
    assert_problem(&foreign, 404, "not-found");
}

/// The key of an event that a worker took from the queue then.
fn key_at(time: Timestamp) -> String {
    let seconds = u64::try_from(time.as_second()).unwrap();
    let nanoseconds = u32::try_from(time.subsec_nanosecond()).unwrap();
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanoseconds)).to_string()
}

/// Inserts deliveries: number `n` was attempted `n % 4` times, at seconds `n`, `n + 40` and `n + 80` before the returned time.
/// Those with `n % 5 = 0` succeeded at last, those with `n % 5 = 1` are closed, the others wait. Their ids are those of the
/// events `evt_n`.
async fn deliver(site: &Site, path: &str, count: i32) -> Timestamp {
    let ids: Vec<String> = (0..count).map(|n| delivery_id(path, &format!("evt_{n}"))).collect();
    let id = webhook_id(path);
    let sql = site.sql().await;
    let base: Timestamp = sql.query_one("SELECT date_trunc('milliseconds', now())", &[]).await.unwrap().get(0);
    let time = base;
    let keys: Vec<String> = (0..count).map(|n| key_at(base - SignedDuration::from_secs(n.into()))).collect();
    let base = base.to_string();
    let attempts = "INSERT INTO attempts (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger,
            attempt, http_status, duration_ms, error, created_at, next_attempt_at)
        SELECT gen_random_uuid(), $1::text::uuid, ($2::text[])[n + 1]::uuid, current_date, gen_random_uuid(), 'evt_' || n,
            CASE WHEN n % 2 = 0 THEN 'site.connected' ELSE 'content.created' END, 'event', n % 4 - back,
            CASE WHEN n % 5 = 0 AND back = 0 THEN 200 ELSE 500 + n % 3 END, 1,
            CASE WHEN n % 5 = 0 AND back = 0 THEN NULL ELSE 'http_status' END, $4::text::timestamptz - (n + 40 * back) * interval '1 second', now()
        FROM generate_series(0, $3::integer - 1) n CROSS JOIN generate_series(0, 2) back WHERE back < n % 4";
    sql.execute(attempts, &[&id, &ids, &count, &base]).await.unwrap();
    let waiting = "INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at,
            created_at)
        SELECT ($2::text[])[n + 1]::uuid, $1::text::uuid, 1, current_date, ($5::text[])[n + 1]::uuid, 'event', n % 4,
            $4::text::timestamptz - n * interval '1 second', $4::text::timestamptz - n * interval '1 second'
        FROM generate_series(0, $3::integer - 1) n WHERE n % 5 > 1";
    sql.execute(waiting, &[&id, &ids, &count, &base, &keys]).await.unwrap();
    let closed =
        "INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made, closed_at)
        SELECT ($2::text[])[n + 1]::uuid, $1::text::uuid, current_date, ($5::text[])[n + 1]::uuid, 'exhausted', n % 4,
            $4::text::timestamptz - n * interval '1 second'
        FROM generate_series(0, $3::integer - 1) n WHERE n % 5 = 1";
    sql.execute(closed, &[&id, &ids, &count, &base, &keys]).await.unwrap();
    time
}

/// All pages of a list.
async fn all(customer: &Customer, path: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = customer.get(&format!("{path}{cursor}")).await.json();
        rows.extend(page["data"].as_array().unwrap_or_else(|| panic!("{page}")).iter().cloned());
        let Some(next) = page["next_cursor"].as_str() else { return rows };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn each_delivery_is_listed_once_where_its_newest_attempt_or_its_creation_stands() {
    const COUNT: usize = 60;
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    let base = deliver(&site, &path, 60).await;
    let ago = |seconds| (base - SignedDuration::from_secs(seconds)).to_string();
    let ids: Vec<String> = (0..COUNT).map(|n| delivery_id(&path, &format!("evt_{n}"))).collect();
    let list = format!("{path}/deliveries?view=deliveries");
    // A success without an attempt leaves nothing.
    let known = |n: &usize| !n.is_multiple_of(20);
    for (query, keep) in [
        ("limit=7", (|_| true) as fn(usize) -> bool),
        ("limit=100", |_| true),
        ("limit=3&state=pending", |n| n % 5 > 1),
        ("limit=3&state=delivered", |n| n % 5 == 0),
        ("limit=4&state=exhausted", |n| n % 5 == 1),
        ("limit=4&state=cancelled", |_| false),
        ("limit=3&state=undelivered", |n| n % 5 > 0),
        ("limit=5&http_status=501&state=undelivered", |n| n % 4 > 0 && n % 5 > 0 && n % 3 == 1),
        ("limit=5&event_type=site.connected", |n| n % 2 == 0 && n % 4 > 0),
        ("limit=5&http_status=501&state=pending", |n| n % 4 > 0 && n % 5 > 1 && n % 3 == 1),
        ("limit=5&status=success", |n| n % 5 == 0),
    ] {
        let rows = all(&customer, &format!("{list}&{query}")).await;
        let found: Vec<&str> = rows.iter().map(|row| row["delivery_id"].as_str().unwrap()).collect();
        let wanted = (0..COUNT).filter(known).filter(|n| keep(*n)).map(|n| ids[n].as_str());
        assert_eq!(found, wanted.collect::<Vec<_>>(), "{query}");
    }
    let one = customer.get(&format!("{list}&event_id=evt_7")).await.json();
    let row = &one["data"][0];
    assert_eq!((row["delivery_id"].as_str(), &one["next_cursor"]), (Some(ids[7].as_str()), &Value::Null));
    assert_eq!((&row["state"], &row["attempts_made"]), (&"pending".into(), &3.into()));
    assert_eq!((&row["last_status"], &row["last_http_status"]), (&"failed".into(), &501.into()));
    assert_eq!((&row["last_error"], &row["last_error_detail"]), (&"http_status".into(), &Value::Null));
    assert!(row["next_attempt_at"].is_string(), "{row}");
    // Some of those with a newer place have an attempt between these times.
    let span = format!("from={}&to={}", ago(55), ago(41));
    let rows = all(&customer, &format!("{list}&limit=3&{span}")).await;
    let found: Vec<&str> = rows.iter().map(|row| row["delivery_id"].as_str().unwrap()).collect();
    let wanted = (42..=55).filter(known).map(|n| ids[n].as_str());
    assert_eq!(found, wanted.collect::<Vec<_>>(), "{span}");
}

#[tokio::test]
async fn a_test_is_told_from_the_other_deliveries_also_when_these_were_sent_again() {
    let site = Site::new().await;
    let (receiver, api, _worker) = (Receiver::start().await, site.api().await, site.worker().await);
    receiver.always(Reply::status(500));
    let customer = api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await;
    let test = customer.post(&format!("{path}/test"), &json!({})).await.json()["delivery_id"].clone();
    let event = site.publish("acc_1", "content.created", json!({})).await;
    let sent = delivery_id(&path, &event);
    let attempts =
        async |trigger| site.count(&format!("SELECT count(*) FROM attempts WHERE trigger = '{trigger}'")).await;
    wait_until("the event was attempted", async || attempts("event").await == 1).await;
    assert_eq!(customer.ask("POST", &format!("{path}/deliveries/{sent}/resend"), &[], b"").await.status, 202);
    wait_until("it was attempted again", async || attempts("resend").await == 1).await;
    let park = "INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
        VALUES ($1::text::uuid, $2::text::uuid, 1, current_date, gen_random_uuid(), 'event', 0, now() + interval '1 day')";
    let parked = delivery_id(&path, "evt_1");
    site.sql().await.execute(park, &[&parked, &webhook_id(&path)]).await.unwrap();
    let rows = all(&customer, &format!("{path}/deliveries?view=deliveries")).await;
    let trigger = |id: &str| rows.iter().find(|row| row["delivery_id"] == id).map(|row| row["trigger"].clone());
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert_eq!(trigger(test.as_str().unwrap()), Some("test".into()));
    assert_eq!([trigger(&sent), trigger(&parked)], [Some("event".into()), Some("event".into())]);
}

/// Random ids of deliveries, each with the key of its event, in the order of the list.
fn newest_first(times: impl Iterator<Item = Timestamp>) -> (Vec<String>, Vec<String>) {
    let mut keys: Vec<String> = times.map(key_at).collect();
    keys.sort_by(|one, other| other.cmp(one));
    (keys.iter().map(|_| Uuid::new_v4().to_string()).collect(), keys)
}

#[tokio::test]
async fn a_list_of_many_deliveries_that_were_never_attempted_leaves_none_out() {
    const EACH: i64 = 5_100;
    let site = Site::new().await.set("api.requests_per_second", "10000");
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    let id = webhook_id(&path);
    let now = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap();
    let ago = |milliseconds| now - SignedDuration::from_millis(milliseconds);
    // Retries that are due long after everything else.
    let retries = "WITH retry AS (
            INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
            SELECT gen_random_uuid(), $1::text::uuid, 1, current_date, gen_random_uuid(), 'event', 1, now() + interval '1 day'
            FROM generate_series(1, $2::bigint) RETURNING *)
        INSERT INTO attempts (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
            http_status, duration_ms, error, created_at, next_attempt_at)
        SELECT gen_random_uuid(), webhook_id, id, event_day, event_key, 'evt', 'content.created', 'event', 1, 500, 1,
            'http_status', now(), due_at FROM retry";
    site.sql().await.execute(retries, &[&id, &EACH]).await.unwrap();
    let (parked, keys) = newest_first((0..EACH).map(|n| ago(60_000 + n)));
    let park = "INSERT INTO pending_deliveries
            (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
        SELECT row.id::uuid, $1::text::uuid, 1, current_date, row.key::uuid, 'event', 0, now()
        FROM unnest($2::text[], $3::text[]) AS row (id, key)";
    site.sql().await.execute(park, &[&id, &parked, &keys]).await.unwrap();
    // They were created over an hour, many in the same millisecond, and cancelled all at once. One was parked again.
    let (closed, keys) = newest_first((0..EACH).map(|n| ago(3_600_000 + n / 2_000 * 1_000_000)));
    let close = "INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
        SELECT row.id::uuid, $1::text::uuid, current_date, row.key::uuid, 'cancelled', 0
        FROM unnest($2::text[], $3::text[]) AS row (id, key)";
    let (of_closed, of_keys) = ([&closed[..], &parked[..1]].concat(), [&keys[..], &[key_at(ago(7_200_000))]].concat());
    site.sql().await.execute(close, &[&id, &of_closed, &of_keys]).await.unwrap();

    let rows = all(&customer, &format!("{path}/deliveries?view=deliveries&limit=100")).await;
    let listed: Vec<&str> = rows.iter().map(|row| row["delivery_id"].as_str().unwrap()).collect();
    let retries = usize::try_from(EACH).unwrap();
    assert!(rows[..retries].iter().all(|row| row["last_http_status"] == 500));
    assert!(listed[retries..].iter().eq(parked.iter().chain(&closed)), "{} rows", listed.len());
}

#[tokio::test]
async fn the_log_is_searched_by_event_time_and_http_status() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    let base = deliver(&site, &path, 40).await;
    let log = format!("{path}/deliveries");
    assert_eq!(customer.get(&log).await.json()["data"].as_array().unwrap().len(), 10);
    let of_event = all(&customer, &format!("{log}?limit=2&event_id=evt_7")).await;
    assert_eq!(of_event.len(), 3);
    assert!(of_event.iter().all(|row| row["event_id"] == "evt_7" && row["delivery_id"] == of_event[0]["delivery_id"]));
    let everything = all(&customer, &format!("{log}?limit=100")).await;
    for status in [200, 500, 502] {
        let found = all(&customer, &format!("{log}?limit=7&http_status={status}")).await;
        let wanted: Vec<&Value> = everything.iter().filter(|row| row["http_status"] == status).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{status}");
        assert!(!found.is_empty(), "{status}");
    }
    let (from, to) = (base - SignedDuration::from_secs(20), base - SignedDuration::from_secs(5));
    let within = |row: &&Value| {
        let time: Timestamp = row["created_at"].as_str().unwrap().parse().unwrap();
        from <= time && time < to
    };
    let wanted: Vec<Value> = everything.iter().filter(within).cloned().collect();
    assert_eq!((wanted.len() > 10, wanted[0]["event_id"].as_str()), (true, Some("evt_6")));
    // An offset's plus is often sent as it is.
    let span = format!("from={}&to={to}", from.to_string().replace('Z', "+00:00"));
    assert_eq!(all(&customer, &format!("{log}?limit=4&{span}")).await, wanted);
    for wrong in [
        "from=yesterday",
        "http_status=5xx",
        "http_status=99",
        "event_id=a.b",
        "event_id=a&delivery_id=01a20a1a-16ef-7628-85cf-6985fbc9f4bf",
        "view=events",
        "state=pending",
        "view=deliveries&state=succeeded",
    ] {
        assert_problem(&customer.get(&format!("{log}?{wrong}")).await, 400, "malformed-request");
    }
}

#[tokio::test]
async fn what_ended_between_two_times_is_counted_and_recovered_and_nothing_else() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    let id = webhook_id(&path);
    // Closed at the full hours from 01:00 to 06:00 of a day, each with its event.
    let close = "WITH event AS (
            INSERT INTO events (day, key, account_id, event_id, event_type, body)
            SELECT current_date, gen_random_uuid(), 'acc_1', 'evt_' || n, 'content.created', '{}' FROM generate_series(1, 6) n
            RETURNING key, right(event_id, 1)::integer AS n)
        INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made, closed_at)
        SELECT gen_random_uuid(), $1::text::uuid, current_date, key, 'exhausted', 1, '2026-01-01T00:00Z'::timestamptz + n * interval '1 hour'
        FROM event";
    site.sql().await.execute(close, &[&id]).await.unwrap();
    let count = async |query: &str| customer.get(&format!("{path}/recover?{query}")).await.json()["count"].clone();
    assert_eq!(count("since=2026-01-01T00:00:00Z").await, 6);
    assert_eq!(count("since=2026-01-01T02:00:00Z&until=2026-01-01T04:00:00Z").await, 2);
    assert_eq!(count("since=2026-01-01T02:00:00Z&until=2026-01-01T04:00:00.000001Z").await, 3);
    customer.patch(&path, &json!({ "active": false })).await;
    assert_eq!(count("since=2026-01-01T00:00:00Z").await, 6, "also while it is switched off");
    customer.patch(&path, &json!({ "active": true })).await;
    let recover = async |since: &str, until: &str| {
        customer.post(&format!("{path}/recover"), &json!({ "since": since, "until": until })).await
    };
    let recovering = recover("2026-01-01T02:00:00Z", "2026-01-01T04:00:00Z").await;
    assert_eq!((recovering.status, recovering.json()), (202, json!({ "recovering": 2 })));
    wait_until("both are pending again", async || site.count("SELECT count(*) FROM recoveries").await == 0).await;
    let left = "SELECT count(*) FROM closed_deliveries
        WHERE extract(hour FROM closed_at AT TIME ZONE 'UTC') NOT IN (2, 3)";
    assert_eq!((site.count(left).await, site.count("SELECT count(*) FROM closed_deliveries").await), (4, 4));
    // A recovery of the first hour that no process has finished: another of the last hour must not make it one of the whole day.
    let blocker = site.another_sql().await;
    blocker.batch_execute("BEGIN").await.unwrap();
    blocker.execute("SELECT FROM webhooks WHERE id::text = $1 FOR UPDATE", &[&id]).await.unwrap();
    let ask =
        "INSERT INTO recoveries SELECT id, '2026-01-01T00:30Z', '2026-01-01T01:30Z' FROM webhooks WHERE id::text = $1";
    site.sql().await.execute(ask, &[&id]).await.unwrap();
    let refused = recover("2026-01-01T05:30:00Z", "2026-01-01T06:30:00Z").await;
    assert_problem(&refused, 429, "rate-limited");
    assert!(refused.header("retry-after").is_some());
    let span = "SELECT count(*) FROM recoveries WHERE until = '2026-01-01T01:30Z'";
    assert_eq!(site.count(span).await, 1);
    for wrong in [
        "until=2026-01-02T00:00:00Z",
        "since=x",
        // Zero would read as "nothing to recover".
        "since=2026-01-01T04:00:00Z&until=2026-01-01T02:00:00Z",
        "since=2026-01-01T04:00:00Z&until=2026-01-01T04:00:00Z",
    ] {
        assert_problem(&customer.get(&format!("{path}/recover?{wrong}")).await, 400, "malformed-request");
    }
    assert_problem(&recover("2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z").await, 422, "invalid-fields");
}

#[tokio::test]
async fn a_customer_whose_receiver_broke_finds_what_failed_and_gets_it_all() {
    // With the schedule that everybody has: the second wait is five minutes, and the last attempt comes after three days.
    let site = Site::new().await.set("recover.rate", "1000");
    let (receiver, api, _worker) = (Receiver::start().await, site.api().await, site.worker().await);
    receiver.always(Reply::status(500));
    let customer = api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await;
    site.json(&["publish", "--account", "acc_1", "--type", "content.created", "--count", "3"]).await;
    let waiting = "SELECT count(*) FROM pending_deliveries WHERE attempts_made = 2";
    wait_until("all were attempted twice", async || site.count(waiting).await == 3).await;
    receiver.always(Reply::status(200));
    let half = SignedDuration::from_mins(30);
    let (since, until) = (Timestamp::now() - half, Timestamp::now() + half);
    let failed = all(&customer, &format!("{path}/deliveries?status=failed&from={since}&to={until}")).await;
    assert_eq!(failed.len(), 6);
    let in_state = async |state| all(&customer, &format!("{path}/deliveries?view=deliveries&state={state}")).await;
    let pending = in_state("pending").await;
    assert_eq!(pending.len(), 3);
    assert!(pending.iter().all(|delivery| delivery["next_attempt_at"].is_string()), "{pending:?}");
    let address = format!("{path}/deliveries/{}", failed[0]["delivery_id"].as_str().unwrap());
    let payload = customer.get(&address).await.json()["payload"].clone();
    let event: Value = serde_json::from_str(payload.as_str().unwrap()).unwrap();
    assert_eq!(event["id"], failed[0]["event_id"]);
    // One that still waits need not wait any longer.
    assert_eq!(customer.ask("POST", &format!("{address}/resend"), &[], b"").await.status, 202);
    wait_until("the one is delivered", async || customer.get(&address).await.json()["state"] == "delivered").await;
    assert_eq!(in_state("pending").await.len(), 2);
    let count = async || customer.get(&format!("{path}/recover?since={since}&until={until}")).await.json();
    assert_eq!(count().await, json!({ "count": 0 }), "none has ended");

    // As if the receiver had been broken for three days: the next attempt is the last.
    receiver.always(Reply::status(500));
    let hurry = "UPDATE pending_deliveries SET attempts_made = 9, due_at = now()";
    site.sql().await.batch_execute(hurry).await.unwrap();
    wait_until("the others have ended", async || site.count("SELECT count(*) FROM closed_deliveries").await == 2).await;
    receiver.always(Reply::status(200));
    assert_eq!(in_state("exhausted").await.len(), 2);
    assert_eq!(count().await, json!({ "count": 2 }));
    let span = json!({ "since": since.to_string(), "until": until.to_string() });
    let recovering = customer.post(&format!("{path}/recover"), &span).await;
    assert_eq!(recovering.json(), json!({ "recovering": 2 }));
    wait_until("all are delivered", async || in_state("delivered").await.len() == 3).await;
}
