//! A request that is sent again with its Idempotency-Key is not carried out again.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use serde_json::{Value, json};

use crate::support::api::assert_problem;
use crate::support::http::Response;
use crate::support::older_schema;
use crate::support::settings::encryption_key;
use crate::support::*;

const PATH: &str = "/v1/webhooks";
const DELIVERY: &str = "01920000-0000-8000-8000-000000000001";

fn registration(name: &str) -> Value {
    json!({ "name": name, "url": "http://127.0.0.1:9999/?password=hunter2", "events": ["content.created"] })
}

async fn post(customer: &Customer, path: &str, key: &str, body: &Value) -> Response {
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
    customer.ask("POST", path, &headers, body.to_string().as_bytes()).await
}

async fn webhooks(site: &Site) -> i64 {
    site.count("SELECT count(*) FROM webhooks").await
}

#[tokio::test]
async fn a_webhook_is_registered_once_however_often_and_wherever_it_is_asked_for() {
    let site = Site::new().await;
    let (one, other) = (site.api().await, site.api().await);
    let customers = [one.customer("acc_1"), other.customer("acc_1")];
    let body = registration("Blog");
    let answers = join_all((0..6).map(|at| post(&customers[at % 2], PATH, "\"k-1\"", &body))).await;
    for answer in &answers {
        assert_eq!((answer.status, answer.text()), (201, answers[0].text()));
        assert_eq!(answer.header("etag"), answers[0].header("etag"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    assert_eq!(webhooks(&site).await, 1);
    let created = answers[0].json();
    let path = format!("{PATH}/{}", created["id"].as_str().unwrap());
    assert_eq!(customers[0].get(&format!("{path}/secret")).await.json()["secret"], created["secret"]);

    // The key stands for one request of one account.
    for (path, body) in [(PATH.to_owned(), registration("Another")), (format!("{path}/secret/regenerate"), json!({}))] {
        let refused = post(&customers[0], &path, "\"k-1\"", &body).await;
        assert_problem(&refused, 422, "invalid-fields");
    }
    assert_eq!(post(&one.customer("acc_2"), PATH, "\"k-1\"", &body).await.status, 201);
    assert_eq!(post(&customers[0], PATH, "k-2", &body).await.status, 201);
    // The answer stays the same when the webhook is gone, for a day.
    assert_eq!(customers[0].delete(&path).await.status, 204);
    assert_eq!(post(&customers[1], PATH, "\"k-1\"", &body).await.text(), answers[0].text());
    assert_eq!(webhooks(&site).await, 2);
    let age = "UPDATE kept_answers SET created_at = created_at - interval '24 hours'";
    site.sql().await.batch_execute(age).await.unwrap();
    assert_ne!(post(&customers[0], PATH, "\"k-1\"", &body).await.text(), answers[0].text());
    assert_eq!(webhooks(&site).await, 3);

    for wrong in ["", "\u{e4}", &"x".repeat(256)] {
        assert_problem(&post(&customers[0], PATH, wrong, &body).await, 400, "malformed-request");
    }
    let refused = post(&customers[0], PATH, "k-3", &json!({ "name": "", "url": "x", "events": [] })).await;
    assert_problem(&refused, 422, "invalid-fields");
    assert_eq!(post(&customers[0], PATH, "k-3", &body).await.status, 201, "what was refused used no key up");
    // A new process deletes what is older.
    let third = site.api().await;
    wait_until("old answers are deleted", async || site.count("SELECT count(*) FROM kept_answers").await == 2).await;
    assert_eq!(post(&third.customer("acc_1"), PATH, "k-3", &body).await.status, 201);
    assert_eq!(webhooks(&site).await, 4);
}

#[tokio::test]
async fn a_secret_is_replaced_once_and_kept_only_in_an_envelope_that_is_reencrypted() {
    let (old, new) = (encryption_key("k1"), encryption_key("k2"));
    let site = Site::new().await.set("security.encryption_keys", &old);
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    let regenerate = format!("{path}/secret/regenerate");
    let first = post(&customer, &regenerate, "k", &json!({ "grace": "1h" })).await;
    let again = post(&customer, &regenerate, "k", &json!({ "grace": "1h" })).await;
    assert_eq!((again.status, again.text()), (200, first.text()));
    assert_problem(&post(&customer, &regenerate, "k", &json!({ "grace": "2h" })).await, 422, "invalid-fields");
    let secret = first.json()["secret"].as_str().unwrap().to_owned();
    assert_eq!(customer.get(&format!("{path}/secret")).await.json()["secret"], secret.as_str());
    assert_ne!(customer.post(&regenerate, &json!({})).await.json()["secret"], secret.as_str());

    // Neither the secret, the request nor the answer is there in clear text. The text of a bytea is hex.
    let body = registration("Blog");
    assert_eq!(post(&customer, PATH, "other", &body).await.status, 201);
    for leak in ["whsec_", "grace", "hunter2"] {
        let hex: String = leak.bytes().map(|byte| format!("{byte:02x}")).collect();
        let leaks = format!("SELECT count(*) FROM kept_answers k WHERE k::text ~ '{leak}|{hex}'");
        assert_eq!(site.count(&leaks).await, 0, "{leak}");
    }

    let site = site.set("security.encryption_keys", &format!("{new},{old}"));
    // Three secrets of the two webhooks, the headers of one, and the secrets of two kept answers.
    assert_eq!(site.json(&["webhooks", "reencrypt"]).await["reencrypted"], 6);
    assert_eq!(site.json(&["webhooks", "reencrypt"]).await["reencrypted"], 0);
    let site = site.set("security.encryption_keys", &new);
    let api = site.api().await;
    let later = post(&api.customer("acc_1"), &regenerate, "k", &json!({ "grace": "1h" })).await;
    assert_eq!(later.text(), first.text());
}

#[tokio::test]
async fn kept_answers_that_no_key_opens_are_named_by_doctor_and_reencrypt() {
    let (first, second) = (encryption_key("k1"), encryption_key("k2"));
    let site = Site::new().await.set("security.encryption_keys", &first);
    let api = site.api().await;
    for key in ["early", "late"] {
        assert_eq!(post(&api.customer("acc_1"), PATH, key, &registration("Blog")).await.status, 201);
    }
    site.doctor().await.assert("secrets", "ok", &["the keys of all 2 webhooks"]);
    // Only the kept answers are left.
    site.sql().await.batch_execute("DELETE FROM webhooks").await.unwrap();
    let late = "of account `acc_1` with the Idempotency-Key `late`";
    let site = site.set("security.encryption_keys", &second);
    site.doctor().await.assert("secrets", "fails", &["2 kept answers need the key `k1`", late]);
    let site = site.set("security.encryption_keys", &format!("{second},{first}"));
    let damage = "UPDATE kept_answers SET envelope = other.envelope
                  FROM kept_answers other WHERE kept_answers.key = 'late' AND other.key = 'early'";
    site.sql().await.execute(damage, &[]).await.unwrap();
    site.doctor().await.assert("secrets", "fails", &[&format!("the kept answer {late} does not decrypt")]);
    let output = site.cli(&["webhooks", "reencrypt", "--json"]).await;
    assert!(output.code == 1 && output.stderr.contains(late), "{}", output.stderr);
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(document["unreadable_answers"], json!([{ "account_id": "acc_1", "key": "late" }]));
    assert_eq!(document["reencrypted"], 1);
}

#[tokio::test]
async fn one_account_may_use_ten_thousand_keys_a_day() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    assert_eq!(post(&customer, PATH, "first", &registration("Blog")).await.status, 201);
    let fill = "INSERT INTO kept_answers (account_id, key, request, envelope, created_at)
        SELECT 'acc_1', 'k' || at, '', '', now() - interval '23 hours' + at * interval '1 second'
        FROM generate_series(1, 9999) AS at";
    site.sql().await.batch_execute(fill).await.unwrap();
    let refused = post(&customer, PATH, "one more", &registration("Blog")).await;
    assert_problem(&refused, 429, "rate-limited");
    assert!(refused.text().contains("10000 values of Idempotency-Key"), "{}", refused.text());
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3000..=3601).contains(&wait), "{wait}");
    assert_eq!(post(&customer, PATH, "first", &registration("Blog")).await.status, 201, "an old key is answered");
    assert_eq!(customer.post(PATH, &registration("Blog")).await.status, 201, "no key is needed");
    assert_eq!(post(&api.customer("acc_2"), PATH, "one more", &registration("Blog")).await.status, 201);
    // A key that is past its day does not count, even before it is deleted.
    let age = "UPDATE kept_answers SET created_at = now() - interval '24 hours' WHERE key = 'k1'";
    site.sql().await.batch_execute(age).await.unwrap();
    assert_eq!(post(&customer, PATH, "one more", &registration("Blog")).await.status, 201);
    assert_problem(&post(&customer, PATH, "too many", &registration("Blog")).await, 429, "rate-limited");
}

/// A site whose API has no more of the database's answers from some time on.
struct Silenced {
    site: Site,
    postgres: Proxy,
    api: Api,
}

impl Silenced {
    async fn new() -> Self {
        let site = Site::new().await;
        let postgres = Proxy::to(site.postgres_address()).await;
        let site = site.postgres_through(&postgres.addr());
        let api = site
            .api_of(site.launch(&["api"]).set("api.database_timeout", "8s").set("api.request_timeout", "20s"))
            .await;
        Self { site, postgres, api }
    }

    /// Sends requests whose changes are commits that touch these tables, and silences the database before any of these has ended.
    /// All are done then.
    async fn unconfirmed<const N: usize>(
        &self,
        tables: &[&str],
        asked: [BoxFuture<'static, Response>; N],
    ) -> [Response; N] {
        let hold = self.site.another_sql().await;
        hold.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
        let wait = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NULL; END'";
        hold.batch_execute(wait).await.unwrap();
        for table in tables {
            let wait = format!(
                "CREATE CONSTRAINT TRIGGER wait AFTER INSERT OR UPDATE OR DELETE ON {table}
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()"
            );
            hold.batch_execute(&wait).await.unwrap();
        }
        let asked = tokio::spawn(join_all(asked));
        let committing = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        wait_until("all are committing", async || self.site.count(committing).await == N as i64).await;
        self.postgres.pause_to_client();
        hold.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
        let answers = asked.await.unwrap();
        for answer in &answers {
            assert_problem(answer, 503, "outcome-unknown");
        }
        wait_until("all are done", async || self.site.count(committing).await == 0).await;
        answers.try_into().expect("as many as were asked")
    }
}

/// A request, to be sent later.
fn later<F: Future<Output = Response> + Send + 'static>(
    customer: &Customer,
    ask: impl FnOnce(Customer) -> F,
) -> BoxFuture<'static, Response> {
    ask(customer.clone()).boxed()
}

#[tokio::test]
async fn a_change_that_the_database_does_not_confirm_is_not_called_undone() {
    let silenced = Silenced::new().await;
    let (careful, careless) = (silenced.api.customer("acc_1"), silenced.api.customer("acc_2"));
    let body = registration("Blog");
    let with_key = later(&careful, |customer| async move { post(&customer, PATH, "k", &registration("Blog")).await });
    let without = later(&careless, |customer| async move { customer.post(PATH, &registration("Blog")).await });
    let [with_key, without] = silenced.unconfirmed(&["webhooks"], [with_key, without]).await;
    assert!(with_key.text().contains("the same Idempotency-Key again") && with_key.header("retry-after").is_some());
    assert!(without.text().contains("Look before you send it again") && without.header("retry-after").is_none());
    wait_until("both are done", async || webhooks(&silenced.site).await == 2).await;
    silenced.postgres.resume();
    let mut again = None;
    wait_until("it is answered", async || {
        again = Some(post(&careful, PATH, "k", &body).await);
        again.as_ref().is_some_and(|again| again.status == 201)
    })
    .await;
    assert_eq!(webhooks(&silenced.site).await, 2, "{}", again.unwrap().text());
}

#[tokio::test]
async fn a_recovery_a_resend_and_a_test_that_the_database_does_not_confirm_are_not_called_undone() {
    let (silenced, receiver) = (Silenced::new().await, Receiver::start().await);
    let customer = silenced.api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await;
    let closed = format!(
        "WITH event AS (INSERT INTO events (day, key, account_id, event_id, event_type, body)
             VALUES ((now() AT TIME ZONE 'UTC')::date, gen_random_uuid(), 'acc_1', 'e', 'content.created', '')
             RETURNING day, key)
         INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
         SELECT '{DELIVERY}', '{}', day, key, 'exhausted', 1 FROM event",
        path.rsplit('/').next().unwrap()
    );
    silenced.site.sql().await.batch_execute(&closed).await.unwrap();
    let (recover, test) = (format!("{path}/recover"), format!("{path}/test"));
    let resend = format!("{path}/deliveries/{DELIVERY}/resend");
    let since = json!({ "since": "2020-01-01T00:00:00Z" });
    let recover = later(&customer, |customer| async move { customer.post(&recover, &since).await });
    let resend = later(&customer, |customer| async move { customer.ask("POST", &resend, &[], b"").await });
    let test = later(&customer, |customer| async move { customer.post(&test, &json!({})).await });
    let tables = ["recoveries", "pending_deliveries", "attempts"];
    let [recovery, resent, test] = silenced.unconfirmed(&tables, [recover, resend, test]).await;
    assert!(recovery.text().contains("nothing is sent twice for it"), "{}", recovery.text());
    assert!(recovery.header("retry-after").is_some());
    assert!(resent.text().contains("a second request sends it again") && resent.header("retry-after").is_none());
    assert!(test.text().contains("the test was sent") && test.header("retry-after").is_none(), "{}", test.text());
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_change_that_is_not_confirmed_says_what_a_second_request_answers() {
    let silenced = Silenced::new().await;
    let customer = silenced.api.customer("acc_1");
    let changed = customer.create_at("http://127.0.0.1:9999/").await;
    let deleted = customer.create_at("http://127.0.0.1:9999/").await;
    let etag = customer.get(&changed).await.header("etag").unwrap().to_owned();
    let delete = later(&customer, |customer| async move { customer.delete(&deleted).await });
    let change = later(&customer, |customer| async move {
        let headers = [("Content-Type", "application/json"), ("If-Match", &etag[..])];
        customer.ask("PATCH", &changed, &headers, br#"{"name":"Other"}"#).await
    });
    let [delete, change] = silenced.unconfirmed(&["webhooks"], [delete, change]).await;
    assert!(delete.text().contains("404 then means that it was done"), "{}", delete.text());
    assert!(change.text().contains("412 then means that it was done"), "{}", change.text());
    assert!([delete, change].iter().all(|answer| answer.header("retry-after").is_some()));
}

#[tokio::test]
async fn before_the_migration_a_key_has_no_effect() {
    let site = Site::new().await;
    site.sql().await.batch_execute(&older_schema::back_to(12)).await.unwrap();
    let api = site.api().await;
    let customer = api.customer("acc_1");
    for made in 1..=2 {
        assert_eq!(post(&customer, PATH, "k", &registration("Blog")).await.status, 201);
        assert_eq!(webhooks(&site).await, made);
    }
    assert_eq!(site.json(&["migrate"]).await["applied"], json!(older_schema::names_after(12)));
    for _ in 0..2 {
        assert_eq!(post(&customer, PATH, "k", &registration("Blog")).await.status, 201);
        assert_eq!(webhooks(&site).await, 3);
    }
}
