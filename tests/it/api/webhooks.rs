//! Customers register, change and delete their webhooks. Of two changes of the same version, one is refused.

use serde_json::json;

use crate::support::api::assert_problem;
use crate::support::older_schema::{back_to, names_after};
use crate::support::*;

const URL: &str = "http://127.0.0.1:9999/hook";

#[tokio::test]
async fn a_webhook_is_registered_read_changed_and_deleted() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let body =
        json!({ "name": " Blog ", "url": URL, "events": ["site.connected", "content.created", "site.connected"] });
    let created = customer.post("/v1/webhooks", &body).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.header("cache-control"), Some("no-store, no-transform"));
    let mut webhook = created.json();
    let secret = webhook.as_object_mut().unwrap().remove("secret").unwrap();
    assert_eq!(created.header("etag").unwrap(), webhook["version"].to_string(), "the ETag is the version in quotes");
    assert_eq!(webhook["name"], "Blog");
    assert_eq!(webhook["events"], json!(["content.created", "site.connected"]));
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
    assert_eq!(customer.get(&path).await.json(), webhook);
    let shown = customer.get(&format!("{path}?include=activity")).await.json();
    assert_eq!(site.webhook(webhook["id"].as_str().unwrap()).await, shown, "the command line has the same shape");
    assert_eq!(customer.get("/v1/webhooks").await.json(), json!({ "data": [webhook], "next_cursor": null }));
    let with_activity = customer.get("/v1/webhooks?include=activity").await.json();
    assert_eq!(with_activity["data"][0]["version"], webhook["version"]);
    assert_eq!(customer.get(&format!("{path}/secret")).await.json(), json!({ "secret": secret }));
    let changed = customer.patch(&path, &json!({ "active": false, "name": "Off" })).await;
    assert_eq!(
        (changed.status, changed.json()["active"].clone(), changed.json()["name"].clone()),
        (200, false.into(), "Off".into())
    );
    assert_eq!(changed.json()["url"], webhook["url"]);
    assert_ne!(changed.json()["version"], webhook["version"]);
    assert_eq!(changed.header("etag").unwrap(), changed.json()["version"].to_string());
    assert_eq!(customer.delete(&path).await.status, 204);
    assert_problem(&customer.get(&path).await, 404, "not-found");
    assert_problem(&customer.delete(&path).await, 404, "not-found");
}

#[tokio::test]
async fn a_stale_change_or_deletion_is_refused_and_a_fresh_one_is_not() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(URL).await;
    let tag = customer.get(&path).await.header("etag").unwrap().to_owned();
    let change = async |if_match: &str, name: &str| {
        let headers = [("Content-Type", "application/json"), ("If-Match", if_match)];
        customer.ask("PATCH", &path, &headers, json!({ "name": name }).to_string().as_bytes()).await
    };
    let first = change(&tag, "first").await;
    assert_eq!(first.status, 200);
    assert_problem(&change(&tag, "second").await, 412, "precondition-failed");
    assert_problem(&change("nonsense", "second").await, 412, "precondition-failed");
    let mut versions = [tag.replace('"', ""), first.json()["version"].as_str().unwrap().to_owned()];
    // The tag itself, and as proxies change it.
    for tag in [r#""x""#, r#"W/"x""#, r#""x-gzip""#, r#"W/"x-br""#, r#""x--gzip""#, r#""x;gz""#, r#""other", "x""#] {
        let [stale, fresh] = &versions;
        assert_problem(&change(&tag.replace('x', stale), "second").await, 412, "precondition-failed");
        let saved = change(&tag.replace('x', fresh), tag).await;
        assert_eq!((saved.status, &saved.json()["name"]), (200, &tag.into()));
        versions = [fresh.clone(), saved.json()["version"].as_str().unwrap().to_owned()];
    }
    let [_, fresh] = &versions;
    for tag in [format!("\"{fresh}-other\""), format!("\"{fresh}0\""), fresh.clone()] {
        assert_problem(&change(&tag, "other").await, 412, "precondition-failed");
    }
    assert_eq!(change("*", "last").await.status, 200);
    let last = customer.get(&path).await;
    assert_eq!(last.json()["name"], "last");
    let delete = async |if_match: &str| customer.ask("DELETE", &path, &[("If-Match", if_match)], b"").await;
    assert_problem(&delete(&tag).await, 412, "precondition-failed");
    assert_eq!(delete(last.header("etag").unwrap()).await.status, 204);
    assert_problem(&delete("*").await, 404, "not-found");
}

/// Changes the only webhook with the statement of releases before V11, which do not name the column `revision`.
async fn change_as_the_release_before(site: &Site, change: &str) {
    let sql = format!(
        "WITH given AS (SELECT {change})
         UPDATE webhooks SET name = coalesce(given.name, webhooks.name), url = coalesce(given.url, webhooks.url),
             event_types = coalesce(given.event_types, webhooks.event_types),
             active = coalesce(given.active, webhooks.active), updated_at = now()
         FROM given"
    );
    assert_eq!(site.sql().await.execute(&sql, &[]).await.unwrap(), 1);
}

/// The only webhook's version in the form of releases before V11.
async fn version_of_the_release_before(site: &Site) -> String {
    let hash =
        "SELECT encode(sha256(convert_to(json_build_array(name, url, event_types, active)::text, 'UTF8')), 'hex')
        FROM webhooks";
    site.sql().await.query_one(hash, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_tag_changes_with_every_field_that_customers_change_and_with_nothing_else() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(URL).await;
    let tag = async || customer.get(&path).await.header("etag").unwrap().to_owned();
    let mut seen = vec![tag().await];
    for other in [
        "consecutive_failures = 3, failing_since = now(), last_error = 'timeout', failing_noticed_at = now()",
        "recovering_until = now(), paused_until = now()",
        "previous_secret = secret, previous_secret_until = now(), secret = 'x', updated_at = now()",
        "name = name, url = url, event_types = event_types, active = active",
    ] {
        site.sql().await.execute(&format!("UPDATE webhooks SET {other}"), &[]).await.unwrap();
        assert_eq!(tag().await, seen[0], "{other}");
    }
    for change in [json!({ "name": "other" }), json!({ "url": format!("{URL}/2") }), json!({ "active": false })] {
        customer.patch(&path, &change).await;
        seen.push(tag().await);
    }
    // Now a process of the release before changes the webhook. A return to an earlier value makes a new version, too.
    const NOTHING: &str = "NULL::text AS name, NULL::text AS url, NULL::text[] AS event_types, NULL::boolean AS active";
    for (field, value) in [
        ("NULL::text AS name", "'theirs' AS name"),
        ("NULL::text AS name", "'other' AS name"),
        ("NULL::text AS url", "'http://127.0.0.1:9999/3' AS url"),
        ("NULL::text[] AS event_types", "ARRAY['site.connected'] AS event_types"),
        ("NULL::boolean AS active", "true AS active"),
    ] {
        change_as_the_release_before(&site, &NOTHING.replace(field, value)).await;
        seen.push(tag().await);
        change_as_the_release_before(&site, NOTHING).await;
        assert_eq!(tag().await, *seen.last().unwrap(), "nothing changed");
    }
    let different: std::collections::HashSet<&String> = seen.iter().collect();
    assert_eq!(different.len(), seen.len(), "{seen:?}");
    for stale in &seen[..seen.len() - 1] {
        let headers = [("Content-Type", "application/json"), ("If-Match", stale.as_str())];
        assert_problem(&customer.ask("PATCH", &path, &headers, b"{}").await, 412, "precondition-failed");
    }
}

#[tokio::test]
async fn a_tag_never_comes_again_after_a_fail_over_that_lost_its_change_or_with_a_clock_set_back() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(URL).await;
    let change = async |name: &str| {
        let changed = customer.patch(&path, &json!({ "name": name })).await;
        changed.header("etag").unwrap().to_owned()
    };
    let lost = change("lost").await;
    // The standby that takes over has not got the change.
    let standby = "UPDATE webhooks SET name = 'before'; UPDATE webhooks SET revision = 1";
    site.sql().await.batch_execute(standby).await.unwrap();
    assert_ne!(change("theirs").await, lost);
    let headers = [("Content-Type", "application/json"), ("If-Match", lost.as_str())];
    let answer = customer.ask("PATCH", &path, &headers, br#"{"name":"mine"}"#).await;
    assert_problem(&answer, 412, "precondition-failed");
    // A revision that is ahead of the server's clock.
    let ahead: i64 = 8_000_000_000_000_000;
    site.sql().await.execute("UPDATE webhooks SET revision = $1", &[&ahead]).await.unwrap();
    assert_eq!(change("later").await, format!("\"{}\"", ahead + 1));
}

#[tokio::test]
async fn a_tag_that_the_release_before_gave_out_is_accepted_as_long_as_it_is_fresh() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(URL).await;
    let ask = async |method: &str, if_match: &str, body: &str| {
        let headers = [("Content-Type", "application/json"), ("If-Match", if_match)];
        customer.ask(method, &path, &headers, body.as_bytes()).await
    };
    let old = version_of_the_release_before(&site).await;
    // The tag in a form that proxies make of it.
    let changed = ask("PATCH", &format!("W/\"{old}-gzip\""), r#"{"name":"first"}"#).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    let stale = format!("\"{old}\"");
    assert_problem(&ask("PATCH", &stale, r#"{"name":"second"}"#).await, 412, "precondition-failed");
    assert_problem(&ask("DELETE", &stale, "").await, 412, "precondition-failed");
    let fresh = version_of_the_release_before(&site).await;
    assert_eq!(ask("DELETE", &format!("\"other\", \"{fresh}\""), "").await.status, 204);
}

#[tokio::test]
async fn an_api_serves_the_schema_of_the_release_before_and_goes_on_when_it_is_migrated() {
    let site = Site::new().await;
    site.sql().await.batch_execute(&back_to(10)).await.unwrap();
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_plain_at(URL).await;
    let old = customer.get(&path).await.header("etag").unwrap().to_owned();
    assert_eq!(old, format!("\"{}\"", version_of_the_release_before(&site).await));
    let save = async |if_match: &str, name: &str| {
        let headers = [("Content-Type", "application/json"), ("If-Match", if_match)];
        customer.ask("PATCH", &path, &headers, json!({ "name": name }).to_string().as_bytes()).await
    };
    let first = save(&old, "first").await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert_problem(&save(&old, "second").await, 412, "precondition-failed");
    assert_eq!(site.json(&["migrate"]).await["applied"], json!(names_after(10)));
    let migrated = save(first.header("etag").unwrap(), "second").await;
    assert_eq!(migrated.status, 200, "a tag from before the migration is still accepted");
    assert_eq!(save(migrated.header("etag").unwrap(), "third").await.status, 200);
    assert_problem(&save(migrated.header("etag").unwrap(), "fourth").await, 412, "precondition-failed");
}

#[tokio::test]
async fn a_url_that_the_rules_refuse_is_not_saved() {
    let site = Site::new().await.set("sender.allow_networks", "[]");
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("https://example.com/hook").await;
    let before = customer.get(&path).await.json();
    let table = include_str!("../../../src/webhook/url/url.tsv");
    let rows = table.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    // Rows with escapes are for the parser's unit tests.
    let refused = rows.filter(|row| row[1] == "R" && !row[0].contains('\\')).map(|row| row[0].to_owned());
    let refused: Vec<String> = refused.collect();
    assert!(refused.len() > 50, "{}", refused.len());
    for url in refused {
        let new =
            customer.post("/v1/webhooks", &json!({ "name": "x", "url": url, "events": ["content.created"] })).await;
        assert_problem(&new, 422, "invalid-fields");
        assert_eq!(new.json()["errors"][0]["field"], "url");
        assert_problem(&customer.patch(&path, &json!({ "url": url })).await, 422, "invalid-fields");
    }
    assert_eq!(customer.get(&path).await.json(), before);
}

#[tokio::test]
async fn every_field_that_is_wrong_is_named_at_once() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let wrong = json!({ "name": "", "url": "ftp://x", "events": [] });
    let answer = customer.post("/v1/webhooks", &wrong).await;
    assert_problem(&answer, 422, "invalid-fields");
    let problem = answer.json();
    let fields: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["name", "url", "events"]);
    for (field, value) in [
        ("name", json!("a\nb")),
        ("name", json!("x".repeat(201))),
        ("events", json!(["*"])),
        ("events", json!(["content.created", "nope"])),
        ("events", json!(vec!["nope"; 1000])),
    ] {
        let mut body = json!({ "name": "x", "url": URL, "events": ["content.created"] });
        body[field] = value;
        let answer = customer.post("/v1/webhooks", &body).await;
        assert_problem(&answer, 422, "invalid-fields");
        assert_eq!(answer.json()["errors"][0]["field"], field);
    }
    let inert = json!({ "name": "<script>\u{202e}😀", "url": URL, "events": ["content.created"] });
    assert_eq!(customer.post("/v1/webhooks", &inert).await.json()["name"], inert["name"]);
    assert_eq!(customer.post("/v1/webhooks", &inert).await.status, 201, "two webhooks may have one URL");
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let mut created = Vec::new();
    for _ in 0..5 {
        created.push(customer.create(URL, &["content.created"]).await["id"].clone());
    }
    let (mut listed, mut path) = (Vec::new(), "/v1/webhooks?limit=2".to_owned());
    loop {
        let page = customer.get(&path).await.json();
        listed.extend(page["data"].as_array().unwrap().iter().map(|webhook| webhook["id"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/webhooks?limit=2&cursor={cursor}");
        let foreign = api.customer("acc_2").get(&path).await;
        assert_problem(&foreign, 400, "malformed-request");
    }
    assert_eq!(listed, created);
}

#[tokio::test]
async fn the_secret_is_shown_by_three_routes_and_by_no_other() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let webhook = customer.create(URL, &["content.created"]).await;
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
    let old = webhook["secret"].as_str().unwrap();
    let answer = customer.ask("POST", &format!("{path}/secret/regenerate"), &[], b"").await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store, no-transform")));
    let new = answer.json()["secret"].as_str().unwrap().to_owned();
    assert_ne!(old, new);
    assert!(answer.json()["previous_valid_until"].as_str().unwrap().ends_with('Z'));
    assert_eq!(customer.get(&format!("{path}/secret")).await.json()["secret"], new.as_str());
    for path in ["/v1/webhooks", "/v1/webhooks?include=activity", &path, &format!("{path}/deliveries")] {
        assert!(!customer.get(path).await.text().contains("whsec_"));
    }
    assert!(!api.replica.log().contains("whsec_"));
}

#[tokio::test]
async fn the_list_says_of_each_webhook_what_went_wrong_last_and_whether_its_owner_was_told() {
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(418));
    let site = Site::new().await.set("health.notice_attempts", "2").set("health.notice_after", "0s");
    let api = site.api().await;
    let customer = api.customer("acc_1");
    customer.create(URL, &["content.created"]).await;
    customer.create(&receiver.url(), &["content.published"]).await;
    let _worker = site.worker().await;
    let list = async || customer.get("/v1/webhooks?include=activity").await.json()["data"].clone();
    let before = list().await;
    assert_eq!([&before[0]["failing"], &before[1]["failing"]], [false, false]);
    let nothing = json!({
        "last_status": null, "last_attempt_at": null, "last_error": null, "last_error_detail": null,
        "last_http_status": null, "waiting": 0
    });
    assert_eq!(before[0]["activity"], nothing);
    for attempts in 1..=2 {
        site.publish("acc_1", "content.published", json!({})).await;
        wait_until("it failed", async || site.count("SELECT count(*) FROM attempts").await == attempts).await;
    }
    // Not the row of `notices`: the worker deletes it once it is sent.
    let told = "SELECT count(*) FROM webhooks WHERE failing_noticed_at IS NOT NULL";
    wait_until("its owner is told", async || site.count(told).await == 1).await;
    let after = list().await;
    assert_eq!([&after[0]["failing"], &after[1]["failing"]], [false, true]);
    let activity = &after[1]["activity"];
    assert_eq!([&activity["last_status"], &activity["last_error"]], ["failed", "http_status"]);
    assert_eq!((&activity["last_http_status"], &activity["last_error_detail"]), (&json!(418), &json!(null)));
    let path = format!("/v1/webhooks/{}", after[1]["id"].as_str().unwrap());
    let single = customer.get(&path).await.json();
    assert_eq!((&single["failing"], single.get("activity")), (&json!(true), None));
    let with_activity = customer.get(&format!("{path}?include=activity")).await;
    assert_eq!(
        (with_activity.header("etag"), with_activity.json()),
        (customer.get(&path).await.header("etag"), list().await[1].clone())
    );
    assert_eq!(api.customer("acc_2").get(&format!("{path}?include=activity")).await.status, 404);
    assert_problem(&customer.get(&format!("{path}?include=more")).await, 400, "malformed-request");
    let head = customer.ask("HEAD", &format!("{path}?include=activity"), &[], b"").await;
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn customers_see_the_addresses_that_they_are_called_from() {
    let site = Site::new().await.set("api.sending_addresses", r#"["203.0.113.7", "2001:db8::1/64"]"#);
    let api = site.api().await;
    let shown = api.customer("acc_1").get("/v1/sending-addresses").await.json();
    assert_eq!(shown, json!({ "data": ["203.0.113.7/32", "2001:db8::/64"] }));
    let output = site.set("api.sending_addresses", r#"["example.com"]"#).cli(&["doctor"]).await;
    assert!(output.code == 2 && output.stderr.contains("SENDING_ADDRESSES"), "{output:?}");
}
