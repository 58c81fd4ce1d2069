//! Every worker and every API is seen by the others while it runs, and soon not any more once it is gone.

use serde_json::json;

use crate::support::older_schema::back_to;
use crate::support::*;

#[tokio::test]
async fn workers_and_apis_see_who_is_there_and_who_is_gone() {
    let site = Site::new().await;
    let long_gone = "INSERT INTO processes (id, role, version, host, seen_at, figures)
        VALUES (gen_random_uuid(), 'worker', '0.0.1', 'old', now() - interval '25 hours', '{}')";
    site.sql().await.batch_execute(long_gone).await.unwrap();
    let (mut watcher, mut killed, mut api) = (site.worker().await, site.worker().await, site.api().await);
    let seen = async |watcher: &mut Replica, role: &str| watcher.metric(&format!("processes{{role=\"{role}\"}}")).await;
    wait_until("all are seen", async || {
        (seen(&mut watcher, "worker").await, seen(&mut watcher, "api").await) == (2.0, 1.0)
    })
    .await;
    assert_eq!(site.count("SELECT count(*) FROM processes").await, 3, "the row of the process long gone is deleted");

    let api_id = api.replica.logged("API starts", "process_id").await;
    let row = "SELECT role, version, host, figures::text FROM processes WHERE id = $1::text::uuid";
    let row = site.sql().await.query_one(row, &[&api_id]).await.unwrap();
    let [role, version, host, figures] = [0, 1, 2, 3].map(|column| row.get::<_, String>(column));
    assert_eq!((&role[..], &version[..]), ("api", env!("CARGO_PKG_VERSION")));
    assert!(!host.is_empty());
    assert_eq!(serde_json::from_str::<serde_json::Value>(&figures).unwrap(), json!({"connections": 12}));
    api.replica.terminate();
    assert!(api.replica.wait().await.success());
    assert_eq!(site.count("SELECT count(*) FROM processes WHERE role = 'api'").await, 0, "a stop deletes the row");

    let killed_id = killed.logged("worker starts", "process_id").await;
    killed.kill9();
    killed.wait().await;
    let later = format!("UPDATE processes SET seen_at = seen_at - interval '30 seconds' WHERE id = '{killed_id}'");
    site.sql().await.batch_execute(&later).await.unwrap();
    wait_until("the killed one is gone", async || {
        (seen(&mut watcher, "worker").await, seen(&mut watcher, "api").await) == (1.0, 0.0)
    })
    .await;
}

#[tokio::test]
async fn a_worker_tells_what_it_has_to_do() {
    let (site, receiver, gate) = (Site::new().await, Receiver::start().await, Gate::default());
    let site = site.set("worker.prefetch", "100").set("worker.max_in_flight", "60").set("sender.timeout", "60s");
    let site = site.set("worker.lease", "10m");
    gate.close();
    receiver.always(Reply::status(204).held_by(&gate));
    site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let worker = site.worker().await;
    site.publish("acc_1", "content.created", json!({})).await;
    receiver.wait_for(1).await;
    let told = "SELECT figures::text FROM processes WHERE (figures ->> 'in_flight')::integer = 1";
    let told =
        eventually("a request is in flight", async || site.sql().await.query_opt(told, &[]).await.unwrap()).await;
    let told: serde_json::Value = serde_json::from_str(told.get(0)).unwrap();
    for (figure, value) in [
        ("in_flight_limit", json!(60)),
        ("prefetch", json!(100)),
        ("attached", json!(true)),
        ("connections", json!(10)),
        ("queues", json!([site.settings().get("queue.worker_queue")])),
    ] {
        assert_eq!(told[figure], value, "{figure} of {told}");
    }
    gate.open();
    drop(worker);
}

#[tokio::test]
async fn a_worker_before_migrate_works_and_is_seen_after_it() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    site.sql().await.batch_execute(&back_to(16)).await.unwrap();
    site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let mut worker = site.worker().await;
    worker.wait_for_log("the schema has no table for processes yet").await;
    site.publish("acc_1", "content.created", json!({})).await;
    receiver.wait_for(1).await;
    assert_eq!(site.cli(&["migrate"]).await.code, 0);
    wait_until("it is seen", async || site.count("SELECT count(*) FROM processes").await == 1).await;
    assert_eq!(worker.warnings(), [""; 0]);
    assert_eq!(worker.log().matches("no table for processes").count(), 1);
    worker.terminate();
    assert!(worker.wait().await.success());
    assert_eq!(site.count("SELECT count(*) FROM processes").await, 0);
}
