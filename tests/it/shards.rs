//! Several worker queues: all events of an account are in one of them, a queue gets events only while a worker takes them, and
//! nothing is lost or doubled when the number of queues changes.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::broker::new_event_id;
use crate::support::http::get;
use crate::support::*;

const TYPE: &str = "content.created";
/// As many as it takes that each of two queues has some.
const ACCOUNTS: usize = 12;

fn accounts() -> impl Iterator<Item = String> {
    (0..ACCOUNTS).map(|number| format!("acc_{number}"))
}

fn two_queues(site: Site) -> Site {
    site.set("queue.shards", "2")
}

impl Site {
    /// An event with the header that decides about its queue.
    fn event_of(&self, account: &str) -> (String, Message) {
        let id = new_event_id();
        let event = self.event(&id, account, TYPE, &json!({})).with_header("account_id", account);
        (id, event)
    }

    /// Publishes an event of each account, and returns their ids.
    async fn publish_of_each_account(&self) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for account in accounts() {
            let (id, event) = self.event_of(&account);
            assert_eq!(self.publish_message(&event).await, Fate::Confirmed, "it reached no queue");
            ids.insert(id);
        }
        ids
    }

    /// A webhook of each account, all at one receiver.
    async fn subscribe_each_account(&self) -> Receiver {
        let receiver = Receiver::start().await;
        let url = receiver.url();
        let accounts: Vec<_> = accounts().collect();
        join_all(accounts.iter().map(|account| self.create_webhook(account, &url, &[TYPE]))).await;
        receiver
    }

    /// Takes everything out of a queue for good.
    async fn take_all(&self, queue: &str) -> Vec<amqp::Taken> {
        let (mut amqp, mut taken) = (self.own_amqp().await, Vec::new());
        while let Some(message) = amqp.take(queue).await.expect("the queue exists") {
            taken.push(message);
        }
        taken
    }
}

async fn end(mut worker: Replica) {
    worker.terminate();
    assert!(worker.wait().await.success());
}

async fn wait_for_events(receiver: &Receiver, events: &BTreeSet<String>) {
    let came = || receiver.requests().iter().map(|request| request.event_id().to_owned()).collect::<BTreeSet<_>>();
    wait_until("every event has come", async || events.is_subset(&came())).await;
}

#[tokio::test]
async fn all_events_of_an_account_are_in_one_queue_and_all_without_the_header_in_one() {
    let site = two_queues(Site::new().await);
    end(site.launch(&["worker"]).start_worker_of(2).await).await;
    for _ in 0..5 {
        site.publish_of_each_account().await;
        site.publish("acc_without_header", TYPE, json!({})).await;
    }
    let mut queues_of = BTreeMap::<String, BTreeSet<usize>>::new();
    for (number, queue) in [site.worker_queue().to_owned(), site.second_queue()].iter().enumerate() {
        let taken = site.take_all(queue).await;
        assert!(!taken.is_empty(), "nothing is in {queue}");
        for message in taken {
            let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
            queues_of.entry(body["account_id"].as_str().unwrap().to_owned()).or_default().insert(number);
        }
    }
    assert_eq!(queues_of.len(), ACCOUNTS + 1);
    assert!(queues_of.values().all(|queues| queues.len() == 1), "{queues_of:?}");
}

#[tokio::test]
async fn the_publish_command_gives_the_header() {
    let site = Site::new().await;
    end(site.worker().await).await;
    site.json(&["publish", "--account", "acc_1", "--type", TYPE]).await;
    let [message] = &site.take_all(site.worker_queue()).await[..] else { panic!("not one message") };
    assert_eq!(message.header("account_id").as_deref(), Some("acc_1"));
}

#[tokio::test]
async fn of_two_workers_each_takes_its_queue_and_what_a_killed_one_had_goes_to_the_next() {
    let site = two_queues(Site::new().await);
    let receiver = site.subscribe_each_account().await;
    let worker = |queue: &str| site.launch(&["worker"]).set("worker.shards", queue);
    let mut first = worker("[1]").start_worker().await;
    // The second queue gets no events yet, since no worker takes them.
    let events = site.publish_of_each_account().await;
    wait_for_events(&receiver, &events).await;
    let mut second = worker("[2]").start_worker().await;
    let events = site.publish_of_each_account().await;
    wait_for_events(&receiver, &events).await;
    let taken = |queue: &str| format!("events_total{{queue=\"{queue}\"}}");
    let (of_first, of_second) = (taken(site.worker_queue()), taken(&site.second_queue()));
    wait_until("both have taken events", async || {
        first.metric(&of_first).await > ACCOUNTS as f64 && second.metric(&of_second).await > 0.0
    })
    .await;
    assert_eq!(first.metric(&of_first).await + second.metric(&of_second).await, 2.0 * ACCOUNTS as f64);
    let gate = Gate::default();
    receiver.always(Reply::status(200).held_by(&gate));
    let events = site.publish_of_each_account().await;
    receiver.wait_for(3 * ACCOUNTS).await;
    second.kill9();
    gate.open();
    receiver.always(Reply::status(200));
    let later = site.publish_of_each_account().await;
    let _second = worker("[2]").start_worker().await;
    wait_for_events(&receiver, &(&events | &later)).await;
    assert!(first.is_ready().await);
}

#[tokio::test]
async fn a_worker_also_counts_a_queue_that_it_does_not_take_and_nobody_else_does() {
    let site = two_queues(Site::new().await);
    end(site.launch(&["worker"]).start_worker_of(2).await).await;
    site.publish_of_each_account().await;
    let waiting = site.queue_depth(&site.second_queue()).await;
    assert!(waiting > 0);
    let mut worker = site.launch(&["worker"]).set("worker.shards", "[1]").start_worker().await;
    let of_second = |metric: &str| format!("{metric}{{queue=\"{}\"}}", site.second_queue());
    wait_until("its messages are counted", async || {
        worker.metric(&of_second("queue_messages")).await == f64::from(waiting)
    })
    .await;
    let operations = worker.logged("operations address", "address").await;
    let metrics = get(&operations, "/metrics").await.text();
    assert!(metrics.contains(&format!("{} 0\n", of_second("queue_consumers"))), "{metrics}");
}

#[tokio::test]
async fn a_worker_that_takes_both_queues_is_ready_once_it_takes_from_both() {
    let site = two_queues(Site::new().await);
    let mut worker = site.launch(&["worker"]).start_worker_of(2).await;
    assert!(worker.is_ready().await);
    assert_eq!(worker.metric("consumer_attached").await, 1.0);
    let proxy = Proxy::to(site.amqp_address()).await;
    proxy.refuse(true).await;
    let through = site.amqp_url_through(&proxy.addr());
    let mut away = site.launch(&["worker"]).env("AMQP_URL", &through).start();
    away.wait_for_log_times("lost the broker", 2).await;
    let address = away.logged("operations address", "address").await;
    let answer = get(&address, "/readyz").await;
    let line = format!("queues away: {}, {}\n", site.worker_queue(), site.second_queue());
    assert!(answer.status == 503 && answer.text().contains(&line), "{}", answer.text());
}

#[tokio::test]
async fn the_steps_from_one_queue_to_two_and_back_lose_and_double_no_event() {
    let site = Site::new().await;
    let receiver = site.subscribe_each_account().await;
    // A paused worker has few messages in hand, so that others stay in the queues where they can be counted.
    let with = |shards: &str, queues: &str| {
        let launch = site.launch(&["worker"]).set("worker.prefetch", "8");
        launch.set("queue.shards", shards).set("queue.shard_queues", queues)
    };
    let (over, paused, rounds) = (Cell::new(false), Cell::new(false), Cell::new(0));
    let mut worker = with("1", "0").start_worker().await;
    // The publisher goes no faster than the workers: of what would pile up, nobody could say to which queue it came, and when.
    let rounds_behind = || rounds.get() - receiver.requests().len().min(rounds.get() * ACCOUNTS) / ACCOUNTS;
    let publish = async {
        let mut published = BTreeSet::new();
        while !over.get() {
            wait_until("the workers keep up", async || paused.get() || rounds_behind() < 10).await;
            published.extend(site.publish_of_each_account().await);
            rounds.set(rounds.get() + 1);
        }
        published
    };
    let more_rounds = async |count: usize| {
        let until = rounds.get() + count;
        wait_until("events are published", async || rounds.get() >= until).await;
    };
    // Whether the second queue gets events.
    let second_gets_some = async |worker: &Replica| {
        worker.pause();
        paused.set(true);
        more_rounds(5).await;
        let depth = site.queue_depth(&site.second_queue()).await;
        paused.set(false);
        worker.resume();
        depth > 0
    };
    let steps = async {
        for (shards, queues, count) in [("1", "2", 2), ("2", "0", 2), ("1", "2", 2), ("1", "0", 1)] {
            let next = with(shards, queues).start_worker_of(count).await;
            // The workers of two steps run side by side for a while, each with its own bindings.
            more_rounds(20).await;
            end(std::mem::replace(&mut worker, next)).await;
            if count == 2 {
                // What the worker before bound last, this one takes away within seconds.
                wait_until("the queues have their shares", async || second_gets_some(&worker).await == (shards == "2"))
                    .await;
            }
        }
        over.set(true);
        worker
    };
    let (published, worker) = tokio::join!(publish, steps);
    wait_for_events(&receiver, &published).await;
    end(worker).await;
    let mut came: Vec<_> = receiver.requests().iter().map(|request| request.event_id().to_owned()).collect();
    came.sort_unstable();
    assert_eq!(came, published.into_iter().collect::<Vec<_>>(), "each once");
    for queue in [site.worker_queue(), &site.second_queue()] {
        assert_eq!(site.queue_depth(queue).await, 0, "{queue}");
    }
    let report = site.cli(&["doctor"]).await.stdout;
    let says = format!("{} exists, too: 0 events wait, 0 workers consume", site.second_queue());
    assert!(report.contains(&says), "{report}");
}

#[tokio::test]
async fn doctor_names_each_queue_that_is_left_over_also_behind_one_that_was_deleted() {
    let site = Site::new().await;
    end(site.worker().await).await;
    let mut amqp = site.own_amqp().await;
    let queues = [3, 4, 17].map(|number| format!("{}.{number}", site.worker_queue()));
    for queue in &queues {
        amqp.declare_queue(queue, &[]).await.unwrap();
    }
    let waiting = site.message("an event").into_queue(&queues[1]);
    assert_eq!(site.publish_message(&waiting).await, Fate::Confirmed);
    let report = site.cli(&["doctor"]).await.stdout;
    for queue in &queues {
        amqp.delete_queue(queue).await.unwrap();
    }
    for (queue, events) in queues.iter().zip([0, 1, 0]) {
        let says = format!("{queue} exists, too: {events} events wait, 0 workers consume");
        assert!(report.contains(&says), "{report}");
    }
}

#[tokio::test]
async fn a_dead_letter_goes_back_to_the_queue_in_which_it_died_if_workers_take_from_it() {
    let site = two_queues(Site::new().await);
    let worker = site.launch(&["worker"]).start_worker_of(2).await;
    for name in ["one", "two"] {
        let message = site.message("no event").with_id(name).into_queue(&site.second_queue());
        assert_eq!(site.publish_message(&message).await, Fate::Confirmed);
    }
    wait_until("both are dead", async || site.queue_depth(site.dead_queue()).await == 2).await;
    end(worker).await;
    let listed = site.json(&["dead-letters", "list"]).await;
    assert_eq!(listed["total"], 2, "{listed}");
    let depths = async || [site.queue_depth(site.worker_queue()).await, site.queue_depth(&site.second_queue()).await];
    assert_eq!(site.cli(&["dead-letters", "requeue", "one"]).await.code, 0);
    wait_until("one is in the second queue", async || depths().await == [0, 1]).await;
    // With these settings nobody takes from the second queue.
    let site = site.unset("queue.shards");
    assert_eq!(site.cli(&["dead-letters", "requeue", "two"]).await.code, 0);
    let depths = async || [site.queue_depth(site.worker_queue()).await, site.queue_depth(&site.second_queue()).await];
    wait_until("two is in the first queue", async || depths().await == [1, 1]).await;
}

#[tokio::test]
async fn without_the_plugin_one_queue_works_and_several_are_waited_for_and_explained() {
    let broker = PrivateServers::bare_broker().await;
    let site = Site::on(&broker).await;
    let (receiver, _) = site.subscriber("acc_1", &[TYPE]).await;
    let worker = site.worker().await;
    let event = site.publish("acc_1", TYPE, json!({})).await;
    assert_eq!(receiver.next().await.event_id(), event);
    end(worker).await;
    let site = two_queues(site);
    let report = site.cli(&["doctor"]).await;
    let line = report.stdout.lines().find(|line| line.starts_with("fails  shards")).expect("a line about it");
    assert!(line.contains("rabbitmq_consistent_hash_exchange is not enabled"), "{line}");
    assert_eq!(report.code, 1);
    let mut worker = site.launch(&["worker"]).start();
    worker.wait_for_log("the broker lacks a plugin, and the worker waits for it").await;
    assert!(!worker.is_ready().await && worker.is_running());
    end(worker).await;
}

#[tokio::test]
async fn doctor_knows_all_queues_and_leaves_nothing_behind() {
    let broker = PrivateServers::broker().await;
    let site = two_queues(Site::on(&broker).await);
    let report = site.cli(&["doctor"]).await.stdout;
    assert!(report.contains("the plugin rabbitmq_consistent_hash_exchange is enabled"), "{report}");
    assert!(report.contains(&format!("not declared yet: {}", site.events_exchange())), "{report}");
    let worker = site.launch(&["worker"]).set("worker.shards", "[1]").start_worker().await;
    end(worker).await;
    let worker = site.launch(&["worker"]).set("worker.shards", "[2]").start_worker().await;
    let report = site.cli(&["doctor"]).await.stdout;
    let line =
        report.lines().find(|line| line.starts_with("warns  worker queue")).unwrap_or_else(|| panic!("{report}"));
    for (queue, consumers) in [(site.worker_queue(), 0), (&*site.second_queue(), 1)] {
        assert!(line.contains(&format!("{queue}: 0 events wait, {consumers} workers consume")), "{line}");
    }
    let exchanges = broker.ctl(&["-q", "list_exchanges", "name", "type"]).await;
    let hashing: Vec<_> = exchanges.lines().filter(|line| line.contains("x-consistent-hash")).collect();
    assert_eq!(hashing.len(), 1, "{exchanges}");
    end(worker).await;
}

#[tokio::test]
async fn a_requeue_that_finds_no_queue_for_some_dead_letters_loses_none() {
    let site = two_queues(Site::new().await);
    let worker = site.worker().await;
    let queues = [site.worker_queue().to_owned(), site.second_queue()];
    let mut ids = BTreeSet::new();
    for queue in queues.iter().cycle().take(24) {
        let id = new_event_id();
        let unknown = site.event(&id, "acc_1", "content.archived", &json!({})).into_queue(queue);
        assert_eq!(site.publish_message(&unknown).await, Fate::Confirmed);
        ids.insert(id);
    }
    wait_until("all are dead letters", async || site.queue_depth(site.dead_queue()).await == 24).await;
    end(worker).await;
    site.own_amqp().await.delete_queue(&site.second_queue()).await.unwrap();
    // Which confirm brings the return of a message differs from run to run.
    for _ in 0..8 {
        let requeue = site.cli(&["dead-letters", "requeue", "--all"]).await;
        assert!(requeue.code == 1 && requeue.stderr.contains("no queue"), "{requeue:?}");
    }
    let mut kept = BTreeSet::new();
    for queue in [site.dead_queue(), site.worker_queue()] {
        let id = |taken: &amqp::Taken| {
            serde_json::from_slice::<Value>(&taken.body).unwrap()["id"].as_str().unwrap().to_owned()
        };
        kept.extend(site.take_all(queue).await.iter().map(id));
    }
    assert_eq!(kept, ids);
}
