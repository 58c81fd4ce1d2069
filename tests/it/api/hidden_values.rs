//! The values of a webhook's own headers get to its receiver and nowhere else.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::api::{assert_problem, now};
use crate::support::http::get;
use crate::support::settings::encryption_key;
use crate::support::*;

const TYPE: &str = "content.created";
const WEBHOOKS: &str = "/v1/webhooks";
/// `user:pass"word/hunter2`
const BASIC: &str = "Basic dXNlcjpwYXNzIndvcmQvaHVudGVyMg==";
/// What nobody else may see: the values, and the parts of them that are credentials.
const LEAKS: [&str; 5] = ["hunter2", "dXNlcjpwYXNz", "pass\"word", "c2VjcmV0", "s3cr3t"];

fn values() -> Value {
    json!({ "authorization": BASIC, "X-KEY": "Bearer c2VjcmV0/+<a&b>", "x-make-apikey": "s3cr3t-\"quoted\"\\" })
}

struct Created {
    id: String,
    secret: String,
}

/// Registers a webhook with these headers and returns it.
async fn create(customer: &Customer, url: &str, headers: &Value) -> Created {
    let body = json!({ "name": "A test's", "url": url, "events": [TYPE], "headers": headers });
    let created = customer.post(WEBHOOKS, &body).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let text = |field: &str| created.json()[field].as_str().unwrap().to_owned();
    Created { id: text("id"), secret: text("secret") }
}

fn assert_hides(what: &str, text: &str) {
    for leak in LEAKS {
        let hex: String = leak.bytes().map(|byte| format!("{byte:02x}")).collect();
        let line = text.lines().find(|line| line.contains(leak) || line.contains(&hex));
        assert_eq!(line, None, "{leak} in {what}");
    }
}

/// All rows of all tables as text; that of a bytea is hex.
async fn dump(site: &Site) -> String {
    let tables = "SELECT quote_ident(relname) FROM pg_class WHERE relkind IN ('r', 'p')
        AND relnamespace = 'public'::regnamespace AND NOT relispartition";
    let mut dump = String::new();
    for table in site.sql().await.query(tables, &[]).await.unwrap() {
        let rows = format!("SELECT t::text FROM {} t", table.get::<_, &str>(0));
        for row in site.sql().await.query(&rows, &[]).await.unwrap() {
            dump += row.get::<_, &str>(0);
            dump.push('\n');
        }
    }
    dump
}

#[tokio::test]
async fn headers_go_out_in_title_case_after_ours() {
    let site = Site::new().await;
    let (api, receiver) = (site.api().await, Receiver::start().await);
    let _worker = site.worker().await;
    create(&api.customer("acc_1"), &receiver.url(), &values()).await;
    site.publish("acc_1", TYPE, json!({})).await;
    let request = receiver.next().await;
    let names: Vec<&str> = request.head.headers.iter().map(|(name, _)| name.as_str()).collect();
    let at =
        |name: &str| names.iter().position(|other| *other == name).unwrap_or_else(|| panic!("{name} in {names:?}"));
    let own = ["Authorization", "X-Key", "X-Make-Apikey"].map(at);
    let first = *own.iter().min().unwrap();
    for ours in ["Content-Type", "Accept", "User-Agent", "X-Webhook-Event", "X-Webhook-Attempt", "X-Webhook-Signature"]
    {
        assert!(at(ours) < first, "{names:?}");
    }
    for ours in ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"] {
        assert!(at(ours) < first, "{names:?}");
    }
    assert_eq!(request.header("authorization"), BASIC);
    assert_eq!(request.header("x-key"), "Bearer c2VjcmV0/+<a&b>");
    assert_eq!(request.header("x-make-apikey"), "s3cr3t-\"quoted\"\\");
}

/// The request's headers, as an echo service or a gateway's error page repeats them.
fn echoed(request: &Request, number: usize) -> Reply {
    let headers: BTreeMap<&str, &str> =
        request.head.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let all = headers.iter().filter(|(name, _)| name.starts_with('A') || name.starts_with("X-"));
    let plain: String = all.map(|(name, value)| format!("{name}: {value}\n")).collect();
    let escaped = plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let body = match number % 4 {
        0 => json!({ "headers": headers }).to_string(),
        1 => format!("<pre>{escaped}</pre> user:pass&quot;word/hunter2"),
        2 => json!({ "headers": headers }).to_string().replace('/', "\\/"),
        _ => plain + "user:pass\"word/hunter2",
    };
    let (key, basic) = (headers["X-Key"], headers["Authorization"]);
    let head = format!("X-Request-Id: {basic}\r\nServer: {key}\r\nLocation: /login?key={key}&auth={basic}");
    let head = format!("HTTP/1.1 500 Echo\r\n{head}\r\nContent-Length: {}\r\n\r\n", body.len());
    Reply::raw(head + &body)
}

#[tokio::test]
async fn a_receiver_that_repeats_its_request_shows_nobody_a_value() {
    let site = Site::new().await.set("log.filter", "trace").set("retry.schedule", r#"["20ms","20ms","20ms"]"#);
    let (mut api, mut worker) = (site.api().await, site.worker().await);
    let receiver = Receiver::start().await;
    let counter = std::sync::atomic::AtomicUsize::new(0);
    receiver.answer(move |request| echoed(request, counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
    let customer = api.customer("acc_1");
    let webhook = create(&customer, &receiver.url(), &values()).await;
    let path = format!("{WEBHOOKS}/{}", webhook.id);
    // The display leaves headers out that may have been set after the attempt began.
    let earlier = "UPDATE webhooks SET headers_set_at = now() - interval '1 minute'";
    site.sql().await.batch_execute(earlier).await.unwrap();
    site.publish("acc_1", TYPE, json!({})).await;
    wait_until("all is over", async || site.count("SELECT count(*) FROM closed_deliveries").await == 1).await;

    for _ in 0..4 {
        let test = customer.post(&format!("{path}/test"), &json!({})).await;
        assert_hides("the test", &test.text());
        let shown = &test.json()["request"]["headers"];
        for name in ["Authorization", "X-Key", "X-Make-Apikey"] {
            assert_eq!(shown[name], "[hidden]", "{shown}");
        }
        assert!(test.json()["response_snippet"].as_str().unwrap().contains("[hidden]"), "{}", test.text());
    }
    let log = customer.get(&format!("{path}/deliveries")).await;
    assert_hides("the log", &log.text());
    for row in log.json()["data"].as_array().unwrap() {
        assert!(row["response_snippet"].as_str().unwrap().contains("[hidden]"), "{row}");
        let headers = &row["response_headers"];
        assert_eq!([&headers["X-Request-Id"], &headers["Server"]], ["[hidden]"; 2], "{row}");
        assert_eq!(headers["Location"], "/login?key=[hidden]&auth=[hidden]", "{row}");
    }
    let attempts = log.json()["data"].as_array().unwrap().clone();
    let delivery =
        attempts.iter().find(|row| row["trigger"] != "test").unwrap()["delivery_id"].as_str().unwrap().to_owned();
    let whole = customer.get(&format!("{path}/deliveries/{delivery}")).await;
    assert_hides("the delivery", &whole.text());
    assert_eq!(whole.json()["request_headers"]["X-Make-Apikey"], "[hidden]", "{}", whole.text());
    for arguments in [&["webhooks", "test", &webhook.id][..], &["webhooks", "log", &webhook.id, "--json"]] {
        let output = site.cli(arguments).await;
        assert_hides("the command line", &[output.stdout, output.stderr].concat());
    }
    assert_hides("a row", &dump(&site).await);
    for replica in [&mut api.replica, &mut worker] {
        let operations = replica.logged("operations address", "address").await;
        assert_hides("the metrics", &get(&operations, "/metrics").await.text());
        replica.terminate();
        replica.wait().await;
        assert_hides("the log of a process", &replica.log());
    }
    assert!(worker.log().contains("\"attempt\""), "the log has its lines");
}

#[tokio::test]
async fn a_value_that_the_end_of_what_is_read_cuts_is_hidden() {
    let site = Site::new().await.set("sender.max_body_bytes", "512");
    let (api, receiver) = (site.api().await, Receiver::start().await);
    let customer = api.customer("acc_1");
    let webhook = create(&customer, &receiver.url(), &values()).await;
    let body = "x".repeat(500) + BASIC;
    receiver.always(Reply::body(200, body));
    let test = customer.post(&format!("{WEBHOOKS}/{}/test", webhook.id), &json!({})).await.json();
    assert_eq!(test["response_snippet"], "x".repeat(500) + "[hidden]");
    assert_eq!(test["response_truncated"], true);
}

#[tokio::test]
async fn a_delivery_is_shown_with_the_names_of_headers_only_if_they_were_set_before_it() {
    let site = Site::new().await;
    let (api, receiver) = (site.api().await, Receiver::start().await);
    let customer = api.customer("acc_1");
    let webhook = create(&customer, &receiver.url(), &values()).await;
    let path = format!("{WEBHOOKS}/{}", webhook.id);
    let test = customer.post(&format!("{path}/test"), &json!({})).await.json();
    let delivery = format!("{path}/deliveries/{}", test["delivery_id"].as_str().unwrap());
    let names = async |customer: &Customer| {
        let headers = customer.get(&delivery).await.json()["request_headers"].clone();
        ["Authorization", "X-Key", "X-Make-Apikey"].map(|name| headers[name].clone())
    };
    let set = async |ago: &str| {
        let set = format!("UPDATE webhooks SET headers_set_at = now() - interval '{ago}'");
        site.sql().await.batch_execute(&set).await.unwrap();
    };
    set("1 hour").await;
    assert_eq!(names(&customer).await, ["[hidden]"; 3]);
    let claims = json!({ "sub": "acc_1", "exp": now() + 3600, "scope": "read" });
    let reader = Customer { token: api.token(&claims), ..customer.clone() };
    assert_eq!(names(&reader).await, ["[hidden]"; 3]);
    set("0 s").await;
    assert_eq!(names(&customer).await, [Value::Null, Value::Null, Value::Null]);
    set("1 hour").await;
    assert_eq!(customer.patch(&path, &json!({ "headers": {} })).await.status, 200);
    assert_eq!(names(&customer).await, [Value::Null, Value::Null, Value::Null]);
}

#[tokio::test]
async fn a_retry_a_resent_and_a_recovered_delivery_have_the_present_headers() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
    let (api, receiver) = (site.api().await, Receiver::start().await);
    let _worker = site.worker().await;
    let customer = api.customer("acc_1");
    let webhook = create(&customer, &receiver.url(), &json!({ "X-Old": "hunter2-old" })).await;
    let path = format!("{WEBHOOKS}/{}", webhook.id);
    receiver.script([Reply::status(500), Reply::status(500), Reply::status(500)]);
    let own = async || {
        let request = receiver.next().await;
        ["X-Old", "X-New"].map(|name| request.head.header(name).map(str::to_owned))
    };
    site.publish("acc_1", TYPE, json!({})).await;
    assert_eq!(own().await, [Some("hunter2-old".to_owned()), None]);
    let recorded = async |attempts: i64| {
        wait_until("it is recorded", async || site.count("SELECT count(*) FROM attempts").await == attempts).await;
    };
    recorded(1).await;
    let set = async |value: &str| {
        let changed = customer.patch(&path, &json!({ "headers": { "X-New": value } })).await;
        assert_eq!(changed.status, 200, "{}", changed.text());
    };
    let present = |value: &str| [None, Some(value.to_owned())];
    set("hunter2-retry").await;
    site.sql().await.batch_execute("UPDATE pending_deliveries SET due_at = now()").await.unwrap();
    assert_eq!(own().await, present("hunter2-retry"));
    recorded(2).await;
    wait_until("it is closed", async || site.count("SELECT count(*) FROM closed_deliveries").await == 1).await;

    set("hunter2-recover").await;
    let since = json!({ "since": "2020-01-01T00:00:00Z" });
    assert_eq!(customer.post(&format!("{path}/recover"), &since).await.status, 202);
    assert_eq!(own().await, present("hunter2-recover"));
    recorded(3).await;
    let delivery = customer.get(&format!("{path}/deliveries")).await.json()["data"][0]["delivery_id"].clone();
    set("hunter2-resend").await;
    let resend = format!("{path}/deliveries/{}/resend", delivery.as_str().unwrap());
    assert_eq!(customer.post(&resend, &json!({})).await.status, 202);
    assert_eq!(own().await, present("hunter2-resend"));
}

#[tokio::test]
async fn an_answer_that_is_kept_for_its_key_has_names_alone() {
    let site = Site::new().await;
    let api = site.api().await;
    let body =
        json!({ "name": "x", "url": "https://hooks.example.com/", "events": [TYPE], "headers": values() }).to_string();
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k-1")];
    let customer = api.customer("acc_1");
    for _ in 0..2 {
        let answer = customer.ask("POST", WEBHOOKS, &headers, body.as_bytes()).await;
        assert_eq!(answer.status, 201);
        assert_hides("the answer", &answer.text());
        assert_eq!(answer.json()["headers"], json!({ "X-KEY": null, "authorization": null, "x-make-apikey": null }));
    }
    let other = body.replace("s3cr3t", "s3cr3t2");
    assert_eq!(customer.ask("POST", WEBHOOKS, &headers, other.as_bytes()).await.status, 422, "another request");
    assert_eq!(site.count("SELECT count(*) FROM webhooks").await, 1);
    assert_hides("a row", &dump(&site).await);
}

#[tokio::test]
async fn reencrypting_moves_headers_too_and_leaves_the_version() {
    let (old, new) = (encryption_key("k1"), encryption_key("k2"));
    let (site, receiver) = (Site::new().await.set("security.encryption_keys", &old), Receiver::start().await);
    let before = site.api().await;
    let webhook = create(&before.customer("acc_1"), &receiver.url(), &values()).await;
    let path = format!("{WEBHOOKS}/{}", webhook.id);
    let tag = before.customer("acc_1").get(&path).await.header("etag").unwrap().to_owned();

    let only_new = site.set("security.encryption_keys", &new);
    only_new.doctor().await.assert("secrets", "fails", &["1 webhooks need the key `k1`"]);
    let site = only_new.set("security.encryption_keys", &format!("{new},{old}"));
    assert_eq!(site.json(&["webhooks", "reencrypt"]).await["reencrypted"], 2);
    assert_eq!(site.json(&["webhooks", "reencrypt"]).await["reencrypted"], 0);

    let site = site.set("security.encryption_keys", &new);
    let api = site.api().await;
    let customer = api.customer("acc_1");
    assert_eq!(customer.get(&path).await.header("etag"), Some(tag.as_str()));
    assert_eq!(customer.post(&format!("{path}/test"), &json!({})).await.json()["status"], "success");
    assert_eq!(receiver.next().await.header("authorization"), BASIC);
    site.doctor().await.assert("secrets", "ok", &["the keys of all 1 webhooks are configured"]);
}

#[tokio::test]
async fn headers_alone_of_a_missing_key_are_found_by_doctor_and_named_by_reencrypt() {
    let (first, second) = (encryption_key("k1"), encryption_key("k2"));
    let site = Site::new().await.set("security.encryption_keys", &first);
    let api = site.api().await;
    let webhook = create(&api.customer("acc_1"), "https://hooks.example.com/", &values()).await;
    let site = site.set("security.encryption_keys", &second);
    assert_eq!(site.cli(&["webhooks", "secret", &webhook.id, "--regenerate"]).await.code, 0);
    let forget = "UPDATE webhooks SET previous_secret = NULL, previous_secret_until = NULL";
    site.sql().await.batch_execute(forget).await.unwrap();
    site.doctor().await.assert("secrets", "fails", &["1 webhooks need the key `k1`"]);
    let output = site.cli(&["webhooks", "reencrypt", "--json"]).await;
    assert!(output.code == 1 && output.stderr.contains("secrets or headers"), "{}", output.stderr);
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(document["unreadable"], json!([webhook.id]));
}

#[tokio::test]
async fn an_envelope_in_the_place_of_another_does_not_open_and_nothing_is_sent() {
    for damage in [
        "UPDATE webhooks SET secret = headers WHERE id = $1::text::uuid",
        "UPDATE webhooks SET headers = secret WHERE id = $1::text::uuid",
        "UPDATE webhooks SET headers = other.headers FROM webhooks other
         WHERE webhooks.id = $1::text::uuid AND other.id <> webhooks.id",
        "UPDATE webhooks SET headers = '\\x00' WHERE id = $1::text::uuid",
        // Whoever can write to the table, a program of an older release among them, gets no value to another host.
        "UPDATE webhooks SET url = replace(url, 'http:', 'https:') WHERE id = $1::text::uuid",
        "UPDATE webhooks SET header_names = ARRAY['X-Other'] WHERE id = $1::text::uuid",
    ] {
        let site = Site::new().await.set("worker.probe_interval", "50ms").set("worker.probe_interval_max", "100ms");
        let (api, receiver) = (site.api().await, Receiver::start().await);
        let mut worker = site.worker().await;
        let customer = api.customer("acc_1");
        let webhook = create(&customer, &receiver.url(), &values()).await;
        create(&api.customer("acc_2"), &receiver.url(), &values()).await;
        let row = "SELECT secret, headers, url, header_names FROM webhooks WHERE id = $1::text::uuid";
        let intact = site.sql().await.query_one(row, &[&webhook.id]).await.unwrap();
        site.sql().await.execute(damage, &[&webhook.id]).await.unwrap();
        site.publish("acc_1", TYPE, json!({})).await;
        worker.wait_for_log("a secret or a header cannot be decrypted").await;
        let waiting = "SELECT count(*) FROM pending_deliveries WHERE attempts_made = 0";
        wait_until("it waits", async || site.count(waiting).await == 1).await;
        assert_eq!(worker.metric("secrets_unopened").await, 1.0, "{damage}");
        let test = customer.post(&format!("{WEBHOOKS}/{}/test", webhook.id), &json!({})).await.json();
        assert_eq!((&test["error"], &test["request"]), (&json!("internal"), &Value::Null), "{damage}: {test}");
        assert_eq!(receiver.connections(), 0, "{damage}");
        site.doctor().await.assert("secrets", "fails", &["the secrets or headers of 1 webhooks do not decrypt"]);
        assert_hides("the log of a process", &worker.log());
        let mend =
            "UPDATE webhooks SET secret = $2, headers = $3, url = $4, header_names = $5 WHERE id = $1::text::uuid";
        let (secret, headers) = (intact.get::<_, Vec<u8>>(0), intact.get::<_, Vec<u8>>(1));
        let (url, names) = (intact.get::<_, String>(2), intact.get::<_, Vec<String>>(3));
        site.sql().await.execute(mend, &[&webhook.id, &secret, &headers, &url, &names]).await.unwrap();
        let request = receiver.next().await;
        assert!(request.verify(&webhook.secret).is_genuine() && request.header("authorization") == BASIC);
    }
}

#[tokio::test]
async fn headers_that_cannot_be_decrypted_can_be_set_anew_and_not_kept() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let webhook = create(&customer, "https://hooks.example.com/", &values()).await;
    let path = format!("{WEBHOOKS}/{}", webhook.id);
    site.sql().await.batch_execute("UPDATE webhooks SET headers = secret").await.unwrap();
    let kept = customer.patch(&path, &json!({ "headers": { "X-KEY": null } })).await;
    assert_problem(&kept, 422, "invalid-fields");
    assert!(kept.text().contains("give all values again"), "{}", kept.text());
    assert_eq!(customer.patch(&path, &json!({ "name": "Other" })).await.status, 200);
    assert_eq!(customer.patch(&path, &json!({ "headers": { "X-KEY": "hunter2" } })).await.status, 200);
    site.doctor().await.assert("secrets", "ok", &[]);
}

#[tokio::test]
async fn neither_a_deleted_webhook_nor_an_erased_account_leaves_an_envelope() {
    let site = Site::new().await;
    let api = site.api().await;
    let mut envelopes = Vec::new();
    for account in ["acc_1", "acc_2"] {
        create(&api.customer(account), "https://hooks.example.com/", &values()).await;
    }
    for row in site
        .sql()
        .await
        .query("SELECT id::text, encode(headers, 'hex') FROM webhooks ORDER BY account_id", &[])
        .await
        .unwrap()
    {
        envelopes.push((row.get::<_, String>(0), row.get::<_, String>(1)));
    }
    let before = dump(&site).await;
    assert!(envelopes.iter().all(|(_, envelope)| before.contains(envelope)));
    assert_eq!(api.customer("acc_1").delete(&format!("{WEBHOOKS}/{}", envelopes[0].0)).await.status, 204);
    let erased = site.cli(&["accounts", "erase", "acc_2", "--yes"]).await;
    assert_eq!(erased.code, 0, "{}", erased.stderr);
    let after = dump(&site).await;
    assert!(!envelopes.iter().any(|(_, envelope)| after.contains(envelope)));
}
