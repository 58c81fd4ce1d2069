//! Requests are signed with the right secrets, and no secret gets into a log or in clear text into the database.

use penr_webhooks::ids::{AccountId, WebhookId};
use penr_webhooks::secret::{Keyring, Owner, SigningSecret};
use serde_json::json;

use crate::support::api::assert_problem;
use crate::support::settings::encryption_key;
use crate::support::*;

const TYPE: &str = "content.published";

async fn regenerate(site: &Site, webhook: &Webhook) -> String {
    let shown = site.json(&["webhooks", "secret", &webhook.id, "--regenerate"]).await;
    shown["secret"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn after_a_regeneration_both_secrets_verify_for_a_day_and_older_ones_do_not() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let _worker = site.worker().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let first = webhook.secret.clone();
    let deliver = async || {
        site.publish("acc_1", TYPE, json!({})).await;
        receiver.next().await
    };
    let request = deliver().await;
    assert!(request.verify(&first).is_genuine());

    let second = regenerate(&site, &webhook).await;
    let request = deliver().await;
    assert!(request.verify(&second).is_genuine());
    let old = request.verify(&first);
    assert_eq!((old.hex, old.standard), (false, true), "the body signature switches at once");

    let third = regenerate(&site, &webhook).await;
    let request = deliver().await;
    assert!(request.verify(&third).is_genuine());
    assert!(request.verify(&second).standard && !request.verify(&second).hex);
    assert!(!request.verify(&first).standard, "regenerating again drops the older one");

    let end = "UPDATE webhooks SET previous_secret_until = now() - interval '1 second'";
    site.sql().await.execute(end, &[]).await.unwrap();
    let request = deliver().await;
    assert!(request.verify(&third).is_genuine());
    assert!(!request.verify(&second).standard);
    assert!(!request.header("webhook-signature").contains(' '));
}

#[tokio::test]
async fn a_previous_secret_is_valid_for_24_hours() {
    let site = Site::new().await;
    let webhook = site.create_webhook("acc_1", "https://example.com/hook", &[TYPE]).await;
    regenerate(&site, &webhook).await;
    let hours = "SELECT round(extract(epoch FROM previous_secret_until - now()) / 3600)::bigint FROM webhooks";
    assert_eq!(site.count(hours).await, 24);
}

#[tokio::test]
async fn a_dump_of_the_database_contains_no_secret() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let _worker = site.worker().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    regenerate(&site, &webhook).await;
    site.publish("acc_1", TYPE, json!({})).await;
    wait_until("it is recorded", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
    let tables = "SELECT quote_ident(relname) FROM pg_class WHERE relkind IN ('r', 'p')
        AND relnamespace = 'public'::regnamespace AND NOT relispartition";
    let tables = site.sql().await.query(tables, &[]).await.unwrap();
    assert!(tables.len() >= 6);
    for row in tables {
        let table: &str = row.get(0);
        // The text of a bytea is hex: `whsec_` would be 77687365635f.
        let leaks = format!("SELECT count(*) FROM {table} t WHERE t::text ~ 'whsec_|77687365635f'");
        assert_eq!(site.count(&leaks).await, 0, "{table}");
    }
}

#[tokio::test]
async fn an_envelope_moved_to_another_webhook_does_not_decrypt_and_nothing_is_sent() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let mut worker = site.worker().await;
    let victim = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let thief = site.create_webhook("acc_1", &receiver.url(), &["site.connected"]).await;
    let swap = "UPDATE webhooks v SET secret = t.secret FROM webhooks t WHERE v.id::text = $1 AND t.id::text = $2";
    site.sql().await.execute(swap, &[&victim.id, &thief.id]).await.unwrap();
    site.publish("acc_1", TYPE, json!({})).await;
    worker.wait_for_log("a secret or a header cannot be decrypted").await;
    wait_until("it waits", async || site.count("SELECT count(*) FROM pending_deliveries").await == 1).await;
    assert_eq!(receiver.count(), 0);
    let output = site.cli(&["webhooks", "secret", &victim.id]).await;
    assert_eq!(output.code, 1);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
}

#[tokio::test]
async fn reencrypting_moves_every_secret_to_the_newest_key_and_may_be_repeated() {
    let (old, new) = (encryption_key("k1"), encryption_key("k2"));
    let (site, receiver) = (Site::new().await.set("security.encryption_keys", &old), Receiver::start().await);
    let webhook = site.create_plain_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let regenerated = regenerate(&site, &webhook).await;
    site.create_plain_webhook("acc_2", &receiver.url(), &[TYPE]).await;

    let site = site.set("security.encryption_keys", &format!("{new},{old}"));
    assert_eq!(site.json(&["webhooks", "reencrypt"]).await["reencrypted"], 3);
    assert_eq!(site.json(&["webhooks", "reencrypt"]).await["reencrypted"], 0);

    let site = site.set("security.encryption_keys", &new);
    assert_eq!(site.json(&["webhooks", "secret", &webhook.id]).await["secret"], regenerated);
    let _worker = site.worker().await;
    site.publish("acc_1", TYPE, json!({})).await;
    let request = receiver.next().await;
    assert!(request.verify(&regenerated).is_genuine());
    assert!(request.verify(&webhook.secret).standard, "the previous secret was moved too");
}

#[tokio::test]
async fn reencrypting_leaves_what_no_key_opens_and_says_so() {
    let (first, second) = (encryption_key("k1"), encryption_key("k2"));
    let site = Site::new().await.set("security.encryption_keys", &first);
    let webhook = site.create_webhook("acc_1", "https://example.com/", &[TYPE]).await;
    let site = site.set("security.encryption_keys", &second);
    site.create_webhook("acc_1", "https://example.com/", &[TYPE]).await;
    let output = site.cli(&["webhooks", "reencrypt", "--json"]).await;
    assert_eq!(output.code, 1);
    let document: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(document["unreadable"], json!([webhook.id]));
    let site = site.set("security.encryption_keys", &first);
    assert_eq!(site.json(&["webhooks", "secret", &webhook.id]).await["secret"], webhook.secret);
}

#[tokio::test]
async fn reencrypting_does_not_undo_a_regeneration_under_way_and_moves_that_too() {
    let (old, new) = (encryption_key("k1"), encryption_key("k2"));
    let site = Site::new().await.set("security.encryption_keys", &old);
    let webhook = site.create_webhook("acc_1", "https://example.com/", &[TYPE]).await;
    let regenerated = SigningSecret::from_random([7; 32]);
    let account_id = AccountId::parse("acc_1").unwrap();
    let owner = Owner { account_id: &account_id, webhook_id: WebhookId::parse(&webhook.id).unwrap() };
    let envelope = Keyring::parse(&old).unwrap().seal(&regenerated, owner, [7; 24]);
    let site = site.set("security.encryption_keys", &format!("{new},{old}"));
    // The page of rows is read, then this row is locked: the update waits, and then finds another envelope.
    let hold = site.another_sql().await;
    hold.batch_execute("BEGIN; SELECT 1 FROM webhooks FOR UPDATE").await.unwrap();
    let mut reencrypt = site.launch(&["webhooks", "reencrypt", "--json"]).start();
    wait_until("the update waits", async || {
        site.count("SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.datname = current_database()").await > 0
    })
    .await;
    hold.execute("UPDATE webhooks SET secret = $1", &[&envelope]).await.unwrap();
    hold.batch_execute("COMMIT").await.unwrap();
    assert!(reencrypt.wait().await.success());
    let site = site.set("security.encryption_keys", &new);
    assert_eq!(site.json(&["webhooks", "secret", &webhook.id]).await["secret"], regenerated.expose());
}

#[tokio::test]
async fn no_log_line_at_any_level_holds_a_secret_a_signature_a_payload_or_a_query() {
    let site = Site::new().await.set("log.filter", "trace").set("retry.schedule", r#"["50ms"]"#);
    let receiver = Receiver::start().await;
    receiver.script([
        Reply::body(500, "MARKER-ANSWER"),
        Reply::status(200),
        Reply::reset(),
        Reply::raw("MARKER-GARBAGE\r\n\r\n"),
    ]);
    let mut worker = site.worker().await;
    let webhook = site.create_webhook("acc_1", &receiver.url_at("/MARKER-PATH?token=MARKER-QUERY"), &[TYPE]).await;
    for _ in 0..2 {
        site.publish("acc_1", TYPE, json!({ "text": "MARKER-PAYLOAD" })).await;
    }
    site.publish_message(&site.message(r#"{"id": "MARKER-BROKEN"#)).await;
    site.publish_message(&site.message(r#"{"id":"e","account_id":7,"type":"MARKER-TYPE","data":"MARKER-DATA"}"#)).await;
    site.wait_for_dead_letters(2).await;
    receiver.wait_for(3).await;
    wait_until("all is over", async || site.count("SELECT count(*) FROM pending_deliveries").await == 0).await;
    worker.terminate();
    worker.wait().await;
    let log = worker.log();
    assert!(log.contains("\"attempt\""), "the log has its lines");
    let key = webhook.secret.strip_prefix("whsec_").unwrap();
    let signatures: Vec<String> =
        receiver.requests().iter().map(|r| r.header("x-webhook-signature").to_owned()).collect();
    for secret in ["MARKER", "whsec_", "v1,", key].into_iter().map(str::to_owned).chain(signatures) {
        let line = log.lines().find(|line| line.contains(&secret));
        assert!(line.is_none(), "{secret} in {line:?}");
    }
    for url in [site.database_url(), site.amqp_url()] {
        let password = url.rsplit_once('@').unwrap().0.rsplit_once(':').unwrap().1;
        assert!(!password.is_empty() && !log.contains(password), "the log has the password of a server");
    }
}

#[tokio::test]
async fn the_old_secret_is_valid_for_the_grace_that_was_asked_for_and_can_be_ended() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let _worker = site.worker().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let webhook = customer.create(&receiver.url(), &[TYPE]).await;
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
    let rotate = async |body: serde_json::Value| customer.post(&format!("{path}/secret/regenerate"), &body).await;
    let until = async || customer.get(&path).await.json()["previous_valid_until"].clone();
    let deliver = async || {
        site.publish("acc_1", TYPE, json!({})).await;
        receiver.next().await
    };
    assert!(until().await.is_null());

    let first = webhook["secret"].as_str().unwrap().to_owned();
    let rotated = rotate(json!({ "grace": "90m" })).await.json();
    assert_eq!(until().await, rotated["previous_valid_until"]);
    let minutes = "SELECT round(extract(epoch FROM previous_secret_until - now()) / 60)::bigint FROM webhooks";
    assert_eq!(site.count(minutes).await, 90);
    let second = rotated["secret"].as_str().unwrap().to_owned();
    let request = deliver().await;
    assert!(request.verify(&second).is_genuine() && request.verify(&first).standard);

    for _ in 0..2 {
        assert_eq!(customer.delete(&format!("{path}/secret/previous")).await.status, 204);
    }
    assert!(until().await.is_null());
    let request = deliver().await;
    assert!(request.verify(&second).is_genuine() && !request.verify(&first).standard);

    let third = rotate(json!({ "grace": "0s" })).await.json()["secret"].as_str().unwrap().to_owned();
    assert!(until().await.is_null());
    assert_eq!(site.count("SELECT count(*) FROM webhooks WHERE previous_secret IS NOT NULL").await, 0);
    let request = deliver().await;
    assert!(request.verify(&third).is_genuine() && !request.verify(&second).standard);

    for wrong in ["25h", "24h 1s", "-1s", "", "soon", "5"] {
        let refused = rotate(json!({ "grace": wrong })).await;
        assert_problem(&refused, 422, "invalid-fields");
        assert_eq!(refused.json()["errors"][0]["field"], "grace", "{wrong}");
    }
    let stranger = api.customer("acc_2").delete(&format!("{path}/secret/previous")).await;
    assert_problem(&stranger, 404, "not-found");
}

#[tokio::test]
async fn ending_a_previous_secret_that_there_never_was_leaves_the_signatures_of_past_requests() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let (_worker, api) = (site.worker().await, site.api().await);
    let customer = api.customer("acc_1");
    let webhook = customer.create(&receiver.url(), &[TYPE]).await;
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
    site.publish("acc_1", TYPE, json!({})).await;
    let request = receiver.next().await;
    wait_until("it is recorded", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
    let delivery = customer.get(&format!("{path}/deliveries")).await.json()["data"][0]["delivery_id"].clone();
    let address = format!("{path}/deliveries/{}", delivery.as_str().unwrap());
    let before = customer.get(&path).await.json();
    for _ in 0..2 {
        let headers = customer.get(&address).await.json()["request_headers"].clone();
        assert_eq!(headers["X-Webhook-Signature"], request.header("x-webhook-signature"));
        assert_eq!(headers["Webhook-Signature"], request.header("webhook-signature"));
        assert_eq!(customer.delete(&format!("{path}/secret/previous")).await.status, 204);
    }
    assert_eq!(customer.get(&path).await.json(), before);
}
