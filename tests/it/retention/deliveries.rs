//! What an answer costs that lists the deliveries of a long log.

use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::support::api::Customer;

/// The list is asked for what is older than this.
const DAYS: i32 = 24;

/// Adds `count` exhausted deliveries, with one attempt each, a day before the list's end; and another attempt of today of those
/// whose number is not a multiple of 100.
async fn with_old_deliveries(site: &Site, webhook: &str, count: i32) {
    let insert = format!(
        "CREATE TEMPORARY TABLE delivery ON COMMIT DROP AS
            SELECT n, gen_random_uuid() AS id, now() - interval '{DAYS} days 1 hour' - n * interval '1 second' AS time
            FROM generate_series(1, {count}) n;
         INSERT INTO attempts (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
             http_status, duration_ms, error, created_at)
         SELECT gen_random_uuid(), '{webhook}', id, (time AT TIME ZONE 'UTC')::date, id, 'evt_' || n, 'content.created',
             'event', 1, 500, 1, 'http_status', CASE WHEN is_new THEN now() ELSE time END
         FROM delivery CROSS JOIN (VALUES (false), (true)) AS of (is_new) WHERE NOT is_new OR n % 100 > 0;
         INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
         SELECT id, '{webhook}', (time AT TIME ZONE 'UTC')::date, id, 'exhausted', 2 FROM delivery"
    );
    site.sql().await.batch_execute(&format!("BEGIN; {insert}; COMMIT")).await.unwrap();
}

/// How many look-ups were made in the log's index by delivery.
async fn probes(site: &Site) -> i64 {
    let scans = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes
        WHERE relname LIKE 'attempts_%' AND indexrelname LIKE '%delivery_id%'";
    site.count(scans).await
}

/// The number of each listed delivery's event.
fn numbers(page: &Value) -> Vec<i32> {
    let number = |row: &Value| row["event_id"].as_str().unwrap().trim_start_matches("evt_").parse().unwrap();
    page["data"].as_array().unwrap().iter().map(number).collect()
}

/// The pages from a cursor on: the number of each listed delivery's event, and how many pages there are.
async fn listed(customer: &Customer, list: &str, mut cursor: String) -> (Vec<i32>, i32) {
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let page = customer.get(&format!("{list}{cursor}")).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        found.extend(numbers(&page));
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else { return (found, pages) };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn an_old_part_of_a_list_is_shown_in_pages_that_look_up_a_bounded_part_of_the_log() {
    const COUNT: i32 = 2_000;
    let site = Site::new().await.set("retention.attempts", "90d").set("retention.events", "90d");
    with_past_days(&site, 2..=DAYS + 6).await;
    let webhook = webhook(&site).await;
    with_old_deliveries(&site, &webhook, COUNT).await;
    // The days between are empty here: as if they were large, they are not read whole.
    let use_indexes =
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database()); END $$";
    site.sql().await.batch_execute(use_indexes).await.unwrap();
    let to = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(i64::from(DAYS) * 24);
    let list = format!("/v1/webhooks/{webhook}/deliveries?view=deliveries&to={to}");
    let counted = async |query: &str| {
        let before = probes(&site).await;
        let mut api = site.api().await;
        let found = listed(&api.customer("acc_1"), &format!("{list}{query}"), String::new()).await;
        // The server counts what a session did when it ends.
        api.replica.terminate();
        api.replica.wait().await;
        let sessions =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND application_name LIKE 'penr-webhooks%'";
        wait_until("its sessions have ended", async || site.count(sessions).await == 0).await;
        (found, probes(&site).await - before)
    };
    let ((none, _), looked_up) = counted("&state=pending").await;
    assert_eq!((none, looked_up), (vec![], 0), "a delivery's rows tell that it is not pending");
    let wanted: Vec<i32> = (1..=COUNT).filter(|n| n % 100 == 0).collect();
    // An answer makes 10,000 look-ups: for each of these deliveries one in each of the 25 days.
    for query in ["&limit=100", "&state=exhausted", "&state=undelivered"] {
        let ((found, pages), _) = counted(query).await;
        assert_eq!(found, wanted, "{query}");
        assert!(pages >= COUNT * 25 / 10_000, "{query}: {pages} pages");
    }
}

#[tokio::test]
async fn a_database_that_answers_slowly_gets_short_pages_of_an_old_part_of_a_list() {
    /// How long data takes between the API and PostgreSQL, each way. A page that took all the time it
    /// needs would ask a dozen questions, one after the other.
    const WAY: Duration = Duration::from_millis(400);
    let site = Site::new().await.set("retention.attempts", "90d").set("retention.events", "90d");
    with_past_days(&site, 2..=DAYS + 6).await;
    let webhook = webhook(&site).await;
    with_old_deliveries(&site, &webhook, 2_000).await;
    let postgres = Proxy::to(site.postgres_address()).await;
    let site = site.postgres_through(&postgres.addr());
    let launch = site
        .launch(&["api"])
        .set("api.database_timeout", "12s")
        .set("api.request_timeout", "20s")
        .set("api.requests_burst", "10000");
    let api = site.api_of(launch).await;
    let customer = api.customer("acc_1");
    let to = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(i64::from(DAYS) * 24);
    let list = format!("/v1/webhooks/{webhook}/deliveries?view=deliveries&to={to}&limit=2");
    assert_eq!(customer.get(&list).await.status, 200);
    postgres.delay(WAY);
    let page = customer.get(&list).await;
    assert_eq!(page.status, 200, "{}", page.text());
    let cursor = page.json()["next_cursor"].as_str().expect("the page is not the last").to_owned();
    postgres.delay(Duration::ZERO);
    let (rest, _) = listed(&customer, &list, format!("&cursor={cursor}")).await;
    let first = numbers(&page.json());
    assert!(first.len() < 2, "{first:?}");
    assert_eq!([first, rest].concat(), (1..=20).map(|n| n * 100).collect::<Vec<_>>());
}
