//! The documented policy keeps events that no queue takes, and costs what the documents say. `doctor` tells what becomes of such
//! events, whoever sends them elsewhere, and publishes nothing to learn it.

use serde_json::json;

use super::policies::Plugin;
use super::*;

const ACCOUNT: &str = "acc_1";
const UNKNOWN: &str = "no.such.type";
const README: &str = include_str!("../../../README.md");
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// The words of the command that a document shows to set the policy, without its first word.
fn policy_command(document: &str) -> Vec<String> {
    let line =
        document.lines().find(|line| line.starts_with("rabbitmqctl set_policy penr-unrouted ")).expect("a command");
    line.split(' ').skip(1).map(|word| word.trim_matches('\'').to_owned()).collect()
}

/// Asks RabbitMQ's management plugin to publish an event, as the documents say, and returns whether a queue took it.
async fn is_routed(plugin: &Plugin, routing_key: &str, payload: &Value) -> bool {
    let message = json!({"routing_key": routing_key, "payload": payload.to_string(), "payload_encoding": "string", "properties": {}});
    plugin.ask("POST", "exchanges/%2F/penr.events/publish", &message).await.json()["routed"] == true
}

/// One test for all cases, since a private broker takes seconds to start.
#[tokio::test]
async fn the_documented_policy_keeps_what_no_queue_takes_and_the_doctor_says_where_it_goes() {
    let servers = PrivateServers::broker_and_management().await;
    let plugin = Plugin::at(&servers.management_url().await);
    let site = Site::on(&servers).await.with_usual_names().set("amqp.connect_timeout", "5s");
    let site = site.set("amqp.management_url", &plugin.url(""));
    let words = ["penr.events is not declared yet", "not declared: the exchange penr.events.unrouted, the queue"];
    site.doctor().await.assert("unrouted", "warns", &words);
    let mut worker = site.worker().await;
    let command = policy_command(README);
    assert_eq!(command, policy_command(OPERATING));
    let advice = site.doctor().await;
    advice.assert(
        "unrouted",
        "warns",
        &["penr.events has no alternate exchange", "vanish unless", "rabbitmqctl set_policy"],
    );
    assert_eq!(policy_command(&advice.advice("unrouted").replace('`', "\n")), command);
    let unknown = site.event("evt_1", ACCOUNT, UNKNOWN, &json!({}));
    assert_eq!(site.publish_message(&unknown).await, Fate::Returned);
    assert!(!is_routed(&plugin, UNKNOWN, &json!({})).await);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    servers.ctl(&words).await;
    let kept = "go to penr.events.unrouted, by the policy penr-unrouted, and are kept in penr.events.unrouted";
    site.doctor().await.assert("unrouted", "ok", &[kept]);
    unknown_types_are_kept_and_known_ones_delivered(&site, &plugin, &mut worker).await;
    publishers_and_older_workers_declare_the_exchange_as_before(&site).await;
    let site = who_may_not_read_the_policy_is_told_so(site, &plugin).await;
    other_ways_are_named(site, &plugin).await;
}

/// An event that has come to the exchange in between is no longer one of `penr.events`.
#[tokio::test]
async fn with_several_queues_the_documented_policy_also_keeps_events_of_known_types_that_no_queue_takes() {
    let servers = PrivateServers::broker_and_management().await;
    let site = Site::on(&servers).await.with_usual_names().set("queue.shards", "2");
    let site = site.set("amqp.management_url", &servers.management_url().await);
    let mut worker = site.launch(&["worker"]).start_worker_of(2).await;
    worker.terminate();
    worker.wait().await;
    let set_policy = async |pattern: &str| {
        let definition = r#"{"alternate-exchange":"penr.events.unrouted"}"#;
        servers.ctl(&["set_policy", "penr-unrouted", pattern, definition, "--apply-to", "exchanges"]).await;
    };
    set_policy(r"^penr\.events$").await;
    let amiss = ["are kept in penr.events.unrouted; penr.webhooks.shards does not send them there"];
    let report = site.doctor().await;
    report.assert("unrouted", "warns", &amiss);
    let mut amqp = site.own_amqp().await;
    for queue in ["penr.webhooks", "penr.webhooks.2"] {
        amqp.delete_queue(queue).await.unwrap();
    }
    let known = site.event("evt_1", ACCOUNT, "content.created", &json!({}));
    assert_eq!(site.publish_message(&known).await, Fate::Returned);
    let command = policy_command(&report.advice("unrouted").replace('`', "\n"));
    assert_eq!(command, policy_command(README));
    servers.ctl(&command.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(site.publish_message(&known).await, Fate::Confirmed);
    assert_eq!(site.queue_depth(site.unrouted_queue()).await, 1);
    site.doctor().await.assert("unrouted", "warns", &["1 wait; events", "are kept in penr.events.unrouted"]);
}

async fn unknown_types_are_kept_and_known_ones_delivered(site: &Site, plugin: &Plugin, worker: &mut Replica) {
    let receiver = Receiver::start().await;
    site.create_webhook(ACCOUNT, &receiver.url(), &["content.created"]).await;
    let unknown = site.event("evt_1", ACCOUNT, UNKNOWN, &json!({}));
    assert_eq!(site.publish_message(&unknown).await, Fate::Confirmed);
    assert!(
        is_routed(plugin, UNKNOWN, &json!({"id": "evt_2", "type": UNKNOWN, "account_id": ACCOUNT, "data": 1})).await
    );
    let known = site.publish(ACCOUNT, "content.created", json!(1)).await;
    assert_eq!(receiver.next().await.event_id(), known);
    wait_until("both are kept", async || site.queue_depth(site.unrouted_queue()).await == 2).await;
    site.doctor().await.assert("unrouted", "warns", &["2 wait", "penr-webhooks dead-letters list"]);
    let operations = worker.logged("operations address", "address").await;
    let counted = async || http::get(&operations, "/metrics").await.text().contains("\npenr_webhooks_unrouted 2\n");
    wait_until("a worker has counted them", counted).await;
    for id in ["evt_1", "evt_2"] {
        assert_eq!(site.json(&["dead-letters", "discard", id]).await["discarded"], 1);
    }
    assert_eq!((receiver.count(), site.queue_depth(site.dead_queue()).await), (1, 0));
}

async fn publishers_and_older_workers_declare_the_exchange_as_before(site: &Site) {
    let plainly = site.own_amqp().await.declare_exchange(site.events_exchange(), lapin::ExchangeKind::Topic).await;
    plainly.expect("a policy is no argument");
}

async fn who_may_not_read_the_policy_is_told_so(site: Site, plugin: &Plugin) -> Site {
    plugin.add_user("watching", "management").await;
    let site = site.set("amqp.management_url", &plugin.url("watching:watching@"));
    site.doctor().await.assert(
        "unrouted",
        "warns",
        &["the policy penr-unrouted applies to penr.events", "policymaker"],
    );
    plugin.add_user("reading", "policymaker").await;
    let site = site.set("amqp.management_url", &plugin.url("reading:reading@"));
    site.doctor().await.assert("unrouted", "ok", &["are kept in penr.events.unrouted"]);
    site
}

async fn other_ways_are_named(site: Site, plugin: &Plugin) {
    let policy = async |alternate: &str| {
        let definition = json!({"alternate-exchange": alternate});
        let policy = json!({"pattern": "^penr\\.events$", "definition": definition, "apply-to": "exchanges"});
        plugin.ask("PUT", "policies/%2F/penr-unrouted", &policy).await;
    };
    policy("nowhere").await;
    site.doctor().await.assert(
        "unrouted",
        "warns",
        &["go to nowhere, by the policy penr-unrouted, which does not exist"],
    );
    let mut amqp = site.own_amqp().await;
    amqp.declare_exchange("elsewhere", lapin::ExchangeKind::Fanout).await.unwrap();
    policy("elsewhere").await;
    site.doctor().await.assert(
        "unrouted",
        "warns",
        &["go to elsewhere, by the policy penr-unrouted, to which nothing is bound"],
    );
    amqp.declare_queue("theirs", &[]).await.unwrap();
    amqp.bind("theirs", "elsewhere", "").await.unwrap();
    site.doctor().await.assert(
        "unrouted",
        "ok",
        &["go to elsewhere, by the policy penr-unrouted, which is none of ours"],
    );
    // An argument of an exchange wins over the policy, and keeps a worker from declaring the exchange.
    let argument =
        json!({"type": "topic", "durable": true, "arguments": {"alternate-exchange": "penr.events.unrouted"}});
    plugin.ask("PUT", "exchanges/%2F/argued", &argument).await;
    let theirs =
        json!({"pattern": "^argued$", "definition": {"alternate-exchange": "elsewhere"}, "apply-to": "exchanges"});
    plugin.ask("PUT", "policies/%2F/theirs", &theirs).await;
    let report = site.set("queue.events_exchange", "argued").doctor().await;
    report.assert("unrouted", "ok", &["go to penr.events.unrouted, by the exchange's own argument, and are kept"]);
    report.assert("topology", "fails", &["inequivalent arg 'alternate-exchange'"]);
}
