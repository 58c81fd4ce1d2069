//! Who did what stands in the log: one line for each request that changes something or shows a secret.

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::unavailable::RUNNING;
use crate::support::api::{assert_problem, now};
use crate::support::http::Response;
use crate::support::*;

const PATH: &str = "/v1/webhooks";
const TYPE: &str = "content.created";
/// A part of each value that must not stand in the log.
const HIDDEN: &str = "hunter2";

/// A customer whose tokens name this actor.
fn acting(api: &Api, actor: &str) -> Customer {
    let claims = json!({ "sub": "acc_1", "exp": now() + 3600, "act": { "sub": actor } });
    Customer { token: api.token(&claims), ..api.customer("acc_1") }
}

/// Sends a request with this id.
async fn ask(customer: &Customer, id: &str, method: &str, path: &str, body: &Value) -> Response {
    let headers = [("Content-Type", "application/json"), ("X-Request-Id", id)];
    customer.ask(method, path, &headers, body.to_string().as_bytes()).await
}

/// As `ask`, in a task that can be ended before the answer.
fn asking(
    customer: &Customer,
    id: &'static str,
    method: &'static str,
    path: String,
    body: Value,
) -> JoinHandle<Response> {
    let customer = customer.clone();
    tokio::spawn(async move { ask(&customer, id, method, &path, &body).await })
}

/// The audit lines so far.
fn lines(replica: &Replica) -> Vec<Value> {
    replica.log_lines().into_iter().filter(|line| line["message"] == "audit").collect()
}

/// The one audit line of the request with this id, without what every line has.
async fn line(replica: &Replica, id: &str) -> Value {
    let of_request = || lines(replica).into_iter().filter(|line| line["request_id"] == id).collect::<Vec<_>>();
    wait_until(&format!("the request {id} has an audit line"), async || !of_request().is_empty()).await;
    let [line] = &mut of_request()[..] else { panic!("{:?}", of_request()) };
    assert_eq!((&line["level"], &line["target"]), (&"INFO".into(), &"penr_webhooks::audit".into()));
    let line = line.as_object_mut().unwrap();
    for field in ["level", "target", "message", "timestamp", "request_id"] {
        line.remove(field);
    }
    line.clone().into()
}

/// Keeps each change of a webhook from ending until the returned session calls `pg_advisory_unlock_all`. No lock is waited for, so no
/// time-out for locks ends it.
async fn hold_changes(site: &Site) -> tokio_postgres::Client {
    let hold = site.another_sql().await;
    let wait = "SELECT pg_advisory_lock(42);
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
            WHILE NOT pg_try_advisory_xact_lock_shared(42) LOOP PERFORM pg_sleep(0.05); END LOOP; RETURN NULL; END';
        CREATE TRIGGER wait AFTER UPDATE OR DELETE ON webhooks FOR EACH ROW EXECUTE FUNCTION wait()";
    hold.batch_execute(wait).await.unwrap();
    hold
}

async fn wait_for_a_held_change(site: &Site) {
    wait_until("a change is held", async || site.count(RUNNING).await == 1).await;
}

fn registration(receiver: &Receiver) -> Value {
    let url = receiver.url_at(&format!("/?password={HIDDEN}"));
    json!({ "name": format!("Blog {HIDDEN}"), "url": url, "events": [TYPE] })
}

fn id_of(created: &Response) -> String {
    created.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_change_and_each_look_at_a_secret_is_one_line_that_has_names_and_no_values() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let mut api = site.api_of(site.launch(&["run"])).await;
    api.replica.wait_for_log(replica::ATTACHED).await;
    let customer = acting(&api, "user 7");
    let created = ask(&customer, "r-create", "POST", PATH, &registration(&receiver)).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let id = id_of(&created);
    let at = |rest: &str| format!("{PATH}/{id}{rest}");
    site.publish("acc_1", TYPE, json!({})).await;
    let delivery = eventually("the delivery is in the log", async || {
        let log = customer.get(&at("/deliveries")).await.json();
        log["data"].get(0).map(|row| row["delivery_id"].as_str().unwrap().to_owned())
    })
    .await;
    let whole = json!({
        "name": format!("Blog 2 {HIDDEN}"), "url": receiver.url_at(&format!("/2?password={HIDDEN}")), "events": [TYPE],
        "active": true, "headers": { "Authorization": HIDDEN }, "max_per_second": 100,
    });
    let requests = [
        ("PATCH", at(""), whole, 200, "update"),
        ("GET", at("/secret"), json!({}), 200, "show_secret"),
        ("POST", at("/secret/regenerate"), json!({}), 200, "regenerate_secret"),
        ("DELETE", at("/secret/previous"), json!({}), 204, "end_previous_secret"),
        ("POST", at("/test"), json!({ "data": HIDDEN }), 200, "test"),
        ("POST", at(&format!("/deliveries/{delivery}/resend")), json!({}), 202, "resend"),
        ("POST", at("/recover"), json!({ "since": "2026-01-01T00:00:00Z" }), 202, "recover"),
        ("DELETE", at(""), json!({}), 204, "delete"),
    ];
    let mut secrets = vec![created.json()["secret"].as_str().unwrap().to_owned()];
    for (method, path, body, status, action) in &requests {
        let answer = ask(&customer, action, method, path, body).await;
        assert_eq!(answer.status, *status, "{method} {path}: {}", answer.text());
        if let Some(secret) = (*action == "regenerate_secret").then(|| answer.json()["secret"].clone()) {
            secrets.push(secret.as_str().unwrap().to_owned());
        }
    }
    let expected = |action: &str, status: u16| json!({ "action": action, "result": "done", "account_id": "acc_1", "actor": "user 7", "webhook_id": id, "status": status });
    assert_eq!(line(&api.replica, "r-create").await, expected("create", 201));
    for (_, _, _, status, action) in &requests {
        let mut expected = expected(action, *status);
        match *action {
            "update" => expected["changed"] = "name,url,events,active,headers,max_per_second".into(),
            "resend" => expected["delivery_id"] = delivery.as_str().into(),
            _ => {}
        }
        assert_eq!(line(&api.replica, action).await, expected);
    }
    // Everything else that was asked has none.
    assert_eq!(lines(&api.replica).len(), 1 + requests.len());
    let log = api.replica.log();
    for value in secrets.iter().map(String::as_str).chain([HIDDEN, "Authorization", "whsec_"]) {
        assert!(!log.contains(value), "{value} stands in the log");
    }
}

#[tokio::test]
async fn what_a_token_does_not_permit_is_a_line_and_what_is_refused_otherwise_is_none() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let api = site.api().await;
    let owner = api.customer("acc_1");
    let id = id_of(&owner.post(PATH, &registration(&receiver)).await);
    let path = format!("{PATH}/{id}");
    let made = site.json(&["token", "--account", "acc_1", "--read-only", "--actor", "support_3"]).await;
    let reader = Customer { token: made["token"].as_str().unwrap().to_owned(), ..owner.clone() };
    for (method, path, action) in [("PATCH", path.clone(), "update"), ("GET", format!("{path}/secret"), "show_secret")]
    {
        assert_problem(&ask(&reader, action, method, &path, &json!({ "name": "x" })).await, 403, "read-only-token");
        let expected = json!({
            "action": action, "result": "refused", "account_id": "acc_1", "actor": "support_3", "webhook_id": id, "status": 403,
        });
        assert_eq!(line(&api.replica, action).await, expected);
    }
    // HEAD asks as GET does, and has no body.
    for (reader, status, result) in [(&reader, 403, "refused"), (&owner, 200, "done")] {
        assert_eq!(ask(reader, result, "HEAD", &format!("{path}/secret"), &json!({})).await.status, status);
        let line = line(&api.replica, result).await;
        assert_eq!([&line["action"], &line["result"]], ["show_secret", result], "{line}");
    }
    let before = lines(&api.replica).len();
    let other = api.customer("acc_2");
    assert_problem(&other.get(&format!("{path}/secret")).await, 404, "not-found");
    assert_problem(&other.delete(&path).await, 404, "not-found");
    assert_problem(&owner.patch(&path, &json!({ "name": "" })).await, 422, "invalid-fields");
    assert_problem(&owner.send_text("POST", PATH, "{").await, 400, "malformed-request");
    let stale = owner.ask("DELETE", &path, &[("If-Match", "\"other\"")], b"").await;
    assert_problem(&stale, 412, "precondition-failed");
    let nobody = Customer { token: "x".to_owned(), ..owner.clone() };
    assert_problem(&nobody.delete(&path).await, 401, "unauthorized");
    // Lines are written in the order of the answers.
    assert_eq!(ask(&owner, "last", "DELETE", &path, &json!({})).await.status, 204);
    // Without `act` there is no actor.
    let last = json!({ "action": "delete", "result": "done", "account_id": "acc_1", "webhook_id": id, "status": 204 });
    assert_eq!(line(&api.replica, "last").await, last);
    assert_eq!(lines(&api.replica).len(), before + 1);
}

#[tokio::test]
async fn no_account_adds_fields_to_lines_of_text() {
    let site = Site::new().await;
    let mut replica = site.launch(&["api"]).set("log.format", "text").start();
    replica.wait_for_log("API address").await;
    let log = replica.log();
    let address = log.lines().find_map(|line| line.split_once("API address address=")).expect("it was waited for").1;
    let account = "acc_1 status=500 request_id=x";
    let token = site.json(&["token", "--account", account]).await["token"].as_str().unwrap().to_owned();
    let customer = Customer { address: address.to_owned(), account: account.to_owned(), token };
    let webhook = json!({ "name": "x", "url": "https://example.com/", "events": [TYPE] });
    assert_eq!(customer.post(PATH, &webhook).await.status, 201);
    for (message, field) in [("request", "account"), ("audit", "account_id")] {
        let quoted = format!(" {field}={account:?}");
        wait_until(&format!("the line {message} has{quoted}"), async || {
            replica.log().lines().any(|line| line.contains(&format!(" {message} ")) && line.contains(&quoted))
        })
        .await;
    }
}

#[tokio::test]
async fn an_answer_that_was_kept_is_marked_as_repeated() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let create = async |id: &str| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k-1"), ("X-Request-Id", id)];
        customer.ask("POST", PATH, &headers, registration(&receiver).to_string().as_bytes()).await
    };
    let (first, again) = (create("first").await, create("again").await);
    assert_eq!((first.status, first.text()), (201, again.text()));
    let regenerate = async |id: &str| {
        let path = format!("{PATH}/{}/secret/regenerate", id_of(&first));
        customer.ask("POST", &path, &[("Idempotency-Key", "k-2"), ("X-Request-Id", id)], b"").await
    };
    assert_eq!(regenerate("secret-0").await.status, 200);
    assert_eq!((regenerate("secret-1").await.status, regenerate("secret-2").await.status), (200, 200));
    for (request, result) in
        [("first", "done"), ("again", "repeated"), ("secret-1", "repeated"), ("secret-2", "repeated")]
    {
        let line = line(&api.replica, request).await;
        assert_eq!((&line["result"], &line["webhook_id"]), (&result.into(), &id_of(&first).into()), "{line}");
    }
}

#[tokio::test]
async fn a_change_whose_caller_hangs_up_has_its_line_too() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let api = site.api().await;
    let customer = acting(&api, "user_7");
    let id = id_of(&customer.post(PATH, &registration(&receiver)).await);
    let path = format!("{PATH}/{id}");
    let line_of = |action: &str, result: &str| json!({ "action": action, "result": result, "account_id": "acc_1", "actor": "user_7", "webhook_id": id });

    // The test is sent although nobody waits for its answer any more.
    let gate = Gate::default();
    receiver.always(Reply::status(200).held_by(&gate));
    let sending = asking(&customer, "test", "POST", format!("{path}/test"), json!({}));
    receiver.wait_for(1).await;
    sending.abort();
    gate.open();
    assert_eq!(line(&api.replica, "test").await, line_of("test", "done"));
    let recorded = "SELECT count(*) FROM attempts WHERE http_status = 200";
    assert_eq!(site.count(recorded).await, 1);

    // PostgreSQL may have carried out the statement before it was told to end it.
    let hold = hold_changes(&site).await;
    let changing = asking(&customer, "update", "PATCH", path.clone(), json!({ "name": "x" }));
    wait_for_a_held_change(&site).await;
    changing.abort();
    let mut unknown = line_of("update", "unknown");
    unknown["changed"] = "name".into();
    assert_eq!(line(&api.replica, "update").await, unknown);
    hold.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
}

#[tokio::test]
async fn a_change_that_the_database_does_not_confirm_is_marked_as_unknown() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let postgres = Proxy::to(site.postgres_address()).await;
    let site = site.postgres_through(&postgres.addr());
    let api =
        site.api_of(site.launch(&["api"]).set("api.database_timeout", "8s").set("api.request_timeout", "20s")).await;
    let customer = api.customer("acc_1");
    let id = id_of(&customer.post(PATH, &registration(&receiver)).await);
    let path = format!("{PATH}/{id}");
    let hold = hold_changes(&site).await;
    let changing = asking(&customer, "unknown", "DELETE", path.clone(), json!({}));
    wait_for_a_held_change(&site).await;
    // It is done, and its answer is lost.
    postgres.pause_to_client();
    hold.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    assert_problem(&changing.await.unwrap(), 503, "outcome-unknown");
    assert_eq!(site.count("SELECT count(*) FROM webhooks").await, 0);
    let unknown =
        json!({ "action": "delete", "result": "unknown", "account_id": "acc_1", "webhook_id": id, "status": 503 });
    assert_eq!(line(&api.replica, "unknown").await, unknown);
    // What certainly changed nothing has no line, here because no connection can be opened.
    postgres.refuse(true).await;
    postgres.cut().await;
    assert_problem(&ask(&customer, "unavailable", "DELETE", &path, &json!({})).await, 503, "unavailable");
    postgres.refuse(false).await;
    postgres.resume();
    wait_until("it works again", async || customer.get(PATH).await.status == 200).await;
    assert_eq!(ask(&customer, "later", "POST", PATH, &registration(&receiver)).await.status, 201);
    line(&api.replica, "later").await;
    assert!(lines(&api.replica).iter().all(|line| line["request_id"] != "unavailable"));
}
