//! Every dead letter can be listed with its reason, requeued and discarded, and listing loses none.

mod advice;
mod looks;
mod unreadable;
mod unrouted;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::broker::new_event_id;
use crate::support::*;

const ACCOUNT: &str = "acc_42";
const TYPE: &str = "content.published";
const NEW_TYPE: &str = "content.archived";
/// Stands in every payload.
const MARKER: &str = "payload-marker-51c7";

/// A site whose queues are declared, and on which no worker runs.
async fn site() -> Site {
    let site = Site::new().await;
    end(site.worker().await).await;
    site
}

async fn end(mut worker: Replica) {
    worker.terminate();
    worker.wait().await;
}

/// Launches a worker whose catalogue has one more event type.
fn extended(site: &Site) -> Launch {
    site.launch(&["worker"]).env("PENR_WEBHOOKS_CONFIG", &grown_catalogue(site))
}

/// The path of settings whose catalogue has one more event type.
fn grown_catalogue(site: &Site) -> String {
    let file = site.folder().join("extended.toml");
    let text = format!("[event_types.\"{NEW_TYPE}\"]\nname = \"Archived\"\ndescription = \"When it is archived\"\n");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

impl Site {
    /// Publishes a message straight into the dead queue.
    async fn bury(&self, message: Message) {
        assert_eq!(self.publish_message(&message.into_queue(self.dead_queue())).await, Fate::Confirmed);
    }

    /// Publishes an event of a type that is not in the catalogue straight into the dead queue.
    async fn bury_unknown(&self, id: &str) {
        self.bury(self.event(id, ACCOUNT, NEW_TYPE, &json!(MARKER))).await;
    }

    /// Publishes this many events straight into the dead queue, and returns their ids.
    async fn bury_events(&self, count: usize) -> BTreeSet<String> {
        let ids: BTreeSet<String> = (0..count).map(|_| new_event_id()).collect();
        let messages = ids.iter().map(|id| {
            let event = self.event(id, ACCOUNT, TYPE, &json!(MARKER));
            event.into_queue(self.dead_queue())
        });
        self.own_amqp().await.publish_burst(messages).await.unwrap();
        ids
    }

    /// Waits until the dead queue has that many letters that no command has in hand.
    async fn wait_for_dead(&self, count: u32) {
        let what = format!("{count} dead letters lie in their queue");
        wait_until(&what, async || self.queue_depth(self.dead_queue()).await == count).await;
    }

    /// Runs `dead-letters` with these arguments.
    async fn dead(&self, arguments: &[&str]) -> Output {
        self.cli(&[&["dead-letters"], arguments].concat()).await
    }

    async fn discard_unreadable(&self) -> Value {
        self.json(&["dead-letters", "discard", "--unreadable"]).await
    }

    async fn listed(&self) -> Vec<Value> {
        let list = self.json(&["dead-letters", "list", "--limit", "1000"]).await;
        list["data"].as_array().expect("a list").clone()
    }

    async fn ids(&self) -> Vec<String> {
        self.listed().await.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
    }
}

/// Asserts that stderr has exactly one line besides the log, which is JSON here, and that the line holds `said`.
#[track_caller]
fn assert_fails(output: &Output, said: &str) {
    let lines: Vec<&str> = output.stderr.lines().filter(|line| !line.starts_with('{')).collect();
    let [line] = &lines[..] else { panic!("not one line on stderr: {output:?}") };
    assert!(line.starts_with("error: ") && line.contains(said), "no {said:?} in {line}");
    assert_eq!(output.code, 1, "{line}");
}

#[tokio::test]
async fn the_list_has_each_ones_reason_time_id_type_and_size_the_oldest_first() {
    let site = Site::new().await.set("log.filter", "trace");
    let worker = site.worker().await;
    let unknown = site.event("evt_unknown", ACCOUNT, NEW_TYPE, &json!(MARKER)).body;
    let named = site.message(MARKER).with_id("msg_1");
    let bad = [site.message("{\"id\""), site.message(&unknown), named, site.message("")];
    for (count, message) in (1..).zip(&bad) {
        assert_eq!(site.publish_message(message).await, Fate::Confirmed);
        site.wait_for_dead(count).await;
    }
    end(worker).await;
    let given_up = site.event("evt_given_up", ACCOUNT, TYPE, &json!(MARKER));
    site.bury(given_up).await;
    for _ in 0..25 {
        assert_eq!(site.listed().await.len(), 5, "looking lost one");
    }
    let rows = site.listed().await;
    let row = |reason: &str, size: usize| {
        let found: Vec<_> = rows.iter().filter(|row| row["reason"] == reason && row["size"] == size).collect();
        assert_eq!(found.len(), 1, "{reason}, {size} bytes: {rows:?}");
        found[0]
    };
    let not_json = row("not_json", 5);
    assert!(not_json["id"].as_str().unwrap().starts_with("body-") && not_json["type"] == "content.created");
    assert_eq!(
        [&row("unknown_type", unknown.len())["id"], &row("unknown_type", unknown.len())["type"]],
        ["evt_unknown", NEW_TYPE]
    );
    assert_eq!(row("not_json", MARKER.len())["id"], "msg_1");
    assert_eq!(row("empty", 0)["type"], "content.created");
    let times = rows[..4].iter().map(|row| row["time"].as_str().unwrap().parse().expect("RFC 3339"));
    let times: Vec<Timestamp> = times.collect();
    assert!(times.is_sorted() && times[3] <= Timestamp::now(), "{rows:?}");
    // A letter without the broker's `x-death` header has no time, and comes last.
    assert_eq!(
        [&rows[4]["reason"], &rows[4]["type"], &rows[4]["time"]],
        [&json!("unknown"), &json!(TYPE), &json!(null)]
    );
    let limited = site.json(&["dead-letters", "list", "--limit", "1"]).await;
    assert_eq!(limited, json!({"data": [rows[0]], "total": 5, "hidden": 4}));
    let table = site.dead(&["list", "--limit", "2"]).await.stdout;
    assert!(table.ends_with("\nthe oldest 2 of 5 dead letters: --limit shows more\n"), "{table}");
    assert!(site.dead(&["list"]).await.stdout.ends_with("\n5 dead letters\n"));
}

#[tokio::test]
async fn an_event_that_the_broker_gave_up_has_the_brokers_reason() {
    let site = Site::new().await.set("queue.delivery_limit", "2");
    let site = site.set("sender.timeout", "60s").set("worker.lease", "10m");
    let receiver = Receiver::start().await;
    receiver.always(Reply::silence());
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    let id = site.publish(ACCOUNT, TYPE, json!(MARKER)).await;
    let is_given_up = async || site.queue_depth(site.dead_queue()).await == 1;
    for deliveries in 1..=5 {
        wait_until("it is delivered again or given up", async || receiver.count() >= deliveries || is_given_up().await)
            .await;
        if is_given_up().await {
            break;
        }
        worker.kill9();
        worker.wait().await;
        worker = site.worker().await;
    }
    end(worker).await;
    let rows = site.listed().await;
    assert_eq!([&rows[0]["id"], &rows[0]["reason"]], [&json!(id), &json!("delivery_limit")]);
    assert!(rows[0]["detail"].as_str().unwrap().contains("see in the workers' logs why, then requeue it"), "{rows:?}");
}

#[tokio::test]
async fn payloads_are_printed_only_when_asked_for() {
    let site = site().await.set("log.filter", "trace");
    site.bury_unknown("evt_1").await;
    site.bury(site.message(format!("{MARKER}\u{1b}[31m\u{202e}"))).await;
    for command in [&["list"][..], &["list", "--json"], &["requeue", "nobody"], &["discard", "nobody"]] {
        let output = site.dead(command).await;
        assert!(!output.stdout.contains(MARKER) && !output.stderr.contains(MARKER), "{command:?}: {output:?}");
    }
    let rows = site.json(&["dead-letters", "list", "--show"]).await;
    assert_eq!(rows["data"][0]["payload"], json!(format!("{MARKER}\u{1b}[31m\u{202e}")));
    let table = site.dead(&["list", "--show"]).await.stdout;
    assert!(table.contains(MARKER) && table.contains(r"\u{202e}") && !table.contains('\u{1b}'), "{table}");
    for fact in ["evt_1", "unknown_type", NEW_TYPE, "not_json"] {
        assert!(table.contains(fact), "no {fact} in:\n{table}");
    }
}

#[tokio::test]
async fn an_event_whose_type_was_added_to_the_catalogue_is_delivered_after_a_requeue() {
    let site = Site::new().await;
    let worker = site.worker().await;
    let event = site.event("evt_new", ACCOUNT, NEW_TYPE, &json!(MARKER)).with_header("traceparent", "00-1");
    assert_eq!(site.publish_message(&event.into_queue(site.worker_queue())).await, Fate::Confirmed);
    site.wait_for_dead(1).await;
    end(worker).await;
    let receiver = Receiver::start().await;
    let worker = extended(&site).start_worker().await;
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let subscribe = format!("UPDATE webhooks SET event_types = ARRAY['{NEW_TYPE}'] WHERE id::text = '{}'", webhook.id);
    site.sql().await.batch_execute(&subscribe).await.unwrap();
    assert_eq!(site.json(&["dead-letters", "requeue", "evt_new"]).await, json!({"requeued": 1}));
    let request = receiver.next().await;
    assert_eq!((request.event_id(), &request.json()["data"]), ("evt_new", &json!(MARKER)));
    site.wait_for_dead(0).await;
    end(worker).await;
}

#[tokio::test]
async fn a_requeued_message_keeps_what_its_publisher_wrote_and_loses_the_headers_of_its_death() {
    let site = Site::new().await;
    let worker = site.worker().await;
    let message = site.message("no").with_id("msg_1").with_header("traceparent", "00-1");
    let message = message.with(|properties| properties.with_timestamp(7));
    assert_eq!(site.publish_message(&message).await, Fate::Confirmed);
    site.wait_for_dead(1).await;
    end(worker).await;
    site.listed().await;
    assert_eq!(site.json(&["dead-letters", "requeue", "--all"]).await, json!({"requeued": 1}));
    let taken = site.own_amqp().await.take(site.worker_queue()).await.unwrap().expect("it is in the worker queue");
    assert_eq!(taken.header("traceparent").as_deref(), Some("00-1"));
    assert!(!format!("{:?}", taken.headers()).contains("death"), "{:?}", taken.headers());
    assert_eq!((taken.properties.message_id(), taken.body.as_slice()), (&Some("msg_1".into()), &b"no"[..]));
}

#[tokio::test]
async fn only_those_of_the_given_reason_are_requeued() {
    let site = site().await;
    for id in ["evt_1", "evt_2"] {
        site.bury_unknown(id).await;
        site.bury(site.message("no").with_id("msg")).await;
    }
    assert_eq!(site.json(&["dead-letters", "requeue", "--reason", "unknown_type"]).await, json!({"requeued": 2}));
    site.wait_for_dead(2).await;
    assert_eq!(site.ids().await, ["msg", "msg"]);
    assert_eq!(site.queue_depth(site.worker_queue()).await, 2);
}

#[tokio::test]
async fn a_message_that_is_still_no_event_comes_back_exactly_once() {
    let site = Site::new().await;
    let worker = site.worker().await;
    let ids: Vec<String> = (0..600).map(|_| new_event_id()).collect();
    let unknown = |id: &String| site.event(id, ACCOUNT, NEW_TYPE, &json!(MARKER)).into_queue(site.dead_queue());
    site.own_amqp().await.publish_burst(ids.iter().map(unknown)).await.unwrap();
    assert_eq!(site.json(&["dead-letters", "requeue", "--all"]).await, json!({"requeued": 600}));
    site.wait_for_dead(600).await;
    assert_eq!(worker.log().matches("becomes a dead letter").count(), 600);
    assert_eq!(site.ids().await.into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    end(worker).await;
}

/// Has the process reach the broker by a link that is slow enough for the test to interrupt it before it has done everything.
async fn slow_link(site: &Site, launch: Launch) -> (Proxy, Launch) {
    let proxy = Proxy::to(site.amqp_address()).await;
    proxy.delay(Duration::from_millis(3));
    let launch = launch.env("AMQP_URL", &site.amqp_url_through(&proxy.addr()));
    (proxy, launch)
}

#[tokio::test]
async fn a_requeue_that_a_signal_ends_says_how_many_were_requeued_and_leaves_the_others() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let site = site().await;
        site.bury_events(1500).await;
        let (proxy, requeue) = slow_link(&site, site.launch(&["dead-letters", "requeue", "--all", "--json"])).await;
        let mut requeue = requeue.start();
        wait_until("some were requeued", async || site.queue_depth(site.worker_queue()).await > 0).await;
        requeue.signal(signal);
        assert_eq!(requeue.wait().await.code(), Some(code));
        drop(proxy);
        let said: Value = serde_json::from_str(&requeue.stdout()).unwrap();
        let requeued = said["requeued"].as_u64().unwrap_or_else(|| panic!("{said}"));
        let log = requeue.log();
        assert!(log.contains(&format!("stopped by a signal: {requeued} dead letters were requeued")), "{log}");
        let there = async || {
            let (worker, dead) = (site.worker_queue(), site.dead_queue());
            (u64::from(site.queue_depth(worker).await), u64::from(site.queue_depth(dead).await))
        };
        wait_until("each is in one queue", async || there().await == (requeued, 1500 - requeued)).await;
    }
}

#[tokio::test]
async fn an_interrupted_requeue_loses_nothing() {
    let site = site().await;
    let ids = site.bury_events(1500).await;
    let mut amqp = site.own_amqp().await;
    let mut interrupted = 0;
    for moved in [150, 500, 850] {
        let (_proxy, requeue) = slow_link(&site, site.launch(&["dead-letters", "requeue", "--all"])).await;
        let mut requeue = requeue.start();
        wait_until("some were requeued", async || site.queue_depth(site.worker_queue()).await >= moved).await;
        interrupted += u32::from(requeue.is_running());
        requeue.kill9();
        requeue.wait().await;
    }
    assert_eq!(interrupted, 3, "it was too fast to be interrupted");
    let mut arrived = BTreeSet::new();
    // Letters of the killed commands come back once the broker has noticed the end of their connections.
    wait_until("all have arrived and none is left", async || {
        site.dead(&["requeue", "--all"]).await;
        while let Some(taken) = amqp.take(site.worker_queue()).await.unwrap() {
            let event: Value = serde_json::from_slice(&taken.body).unwrap();
            arrived.insert(event["id"].as_str().unwrap().to_owned());
        }
        arrived == ids && site.queue_depth(site.dead_queue()).await == 0
    })
    .await;
}

#[tokio::test]
async fn discard_removes_the_one_it_is_told() {
    let site = site().await;
    for id in ["evt_1", "evt_2", "evt_3"] {
        site.bury_unknown(id).await;
    }
    assert_eq!(site.json(&["dead-letters", "discard", "evt_2"]).await, json!({"discarded": 1}));
    site.wait_for_dead(2).await;
    assert_eq!(site.ids().await, ["evt_1", "evt_3"]);
}

#[tokio::test]
async fn what_is_not_there_is_said_in_one_line() {
    let site = site().await;
    assert_eq!(site.dead(&["list"]).await.stdout, "there are no dead letters\n");
    assert_fails(&site.dead(&["requeue", "--all"]).await, "there are no dead letters");
    site.bury_unknown("evt_1").await;
    assert_fails(&site.dead(&["requeue", "evt_2"]).await, "there is no dead letter evt_2");
    assert_fails(&site.dead(&["requeue", "--reason", "too_deep"]).await, "too_deep");
    assert_fails(&site.dead(&["discard", "evt_2"]).await, "there is no dead letter evt_2");
    assert_fails(&site.dead(&["discard", "--unreadable"]).await, "there is no dead letter that cannot be read");
    for usage in [&["requeue"][..], &["discard"], &["requeue", "--all", "evt_1"], &["list", "--limit", "0"]] {
        assert_eq!(site.dead(usage).await.code, 2, "{usage:?}");
    }
    site.wait_for_dead(1).await;
    let undeclared = Site::new().await;
    assert_fails(&undeclared.dead(&["list"]).await, "does not exist: a worker declares it");
}

#[tokio::test]
async fn an_event_that_was_delivered_before_it_died_is_not_delivered_again_after_a_requeue() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let worker = site.worker().await;
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let id = site.publish(ACCOUNT, TYPE, json!(MARKER)).await;
    site.wait_for_attempts(&webhook, 1).await;
    // As if its acks had been lost until the delivery limit made a dead letter of it.
    site.bury(site.event(&id, ACCOUNT, TYPE, &json!(MARKER))).await;
    assert_eq!(site.json(&["dead-letters", "requeue", &id]).await, json!({"requeued": 1}));
    // A second event, which was not delivered before: it is checked after the first one.
    let later = new_event_id();
    site.bury(site.event(&later, ACCOUNT, TYPE, &json!(MARKER))).await;
    assert_eq!(site.json(&["dead-letters", "requeue", &later]).await, json!({"requeued": 1}));
    assert_eq!([receiver.next().await.event_id(), receiver.next().await.event_id()], [&id, &later]);
    end(worker).await;
    assert_eq!((receiver.count(), site.queue_depth(site.worker_queue()).await), (2, 0));
}
