//! A cluster of three nodes that lose each other: killed, drained, restarted one after the other, frozen, too few.
//!
//! The only worker knows the addresses of all nodes, so every standstill of deliveries is its own or the cluster's. The
//! publishers go to any node that confirms: a gap in their confirms shows how long the brokers' election takes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::duration_or;
use crate::support::cluster::{Confirmed, NODES};
use crate::support::*;

const PREFETCH: usize = 100;
/// How long deliveries may stand still beside the brokers' own election.
const BESIDE_ELECTION: Duration = Duration::from_secs(2);
/// Until all is as before: after a node is lost, and after it is back.
const SETTLED: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A cluster, and a ledger whose only worker knows all its nodes.
struct Scene {
    cluster: Cluster,
    ledger: Ledger,
    workers: Vec<Replica>,
}

/// What happened, and when.
#[derive(Default)]
struct Course(Vec<(String, Instant)>);

impl Course {
    fn note(&mut self, what: impl ToString) {
        println!("  {}", what.to_string());
        self.0.push((what.to_string(), Instant::now()));
    }
}

/// The longest time between two of these moments, `from` and `to` included.
fn longest_gap(times: &[Instant], from: Instant, to: Instant) -> Duration {
    let mut between: Vec<Instant> = times.iter().copied().filter(|time| (from..to).contains(time)).collect();
    between.extend([from, to]);
    between.sort();
    between.windows(2).map(|pair| pair[1] - pair[0]).max().expect("two at least")
}

/// The time from one entry of the course to the next.
struct Stretch {
    began_with: String,
    deliveries_stood_still: Duration,
    confirms_stood_still: Duration,
    /// The longest time from an event's confirm to its arrival at the receiver.
    longest_way: Duration,
}

impl Scene {
    async fn set() -> Self {
        let cluster = Cluster::start().await;
        let site = Site::on(&cluster).await.env("AMQP_URL", cluster.urls());
        // A worker reports that there is no quorum after a question that took this long. The default makes the tests wait too
        // long for that.
        let site = site.set("worker.prefetch", &PREFETCH.to_string()).set("amqp.connect_timeout", "6s");
        let ledger = Ledger::open(site.set("amqp.heartbeat", &format!("{}s", HEARTBEAT.as_secs()))).await;
        let workers = vec![ledger.site.worker().await];
        Self { cluster, ledger, workers }
    }

    /// The node that the worker takes its events from.
    async fn connected(&self) -> &'static str {
        self.cluster.node_of(&self.workers[0]).await
    }

    /// The node that leads the worker queue, as the connected one sees it.
    async fn leader(&self) -> &'static str {
        let node = self.connected().await;
        self.cluster.leader(self.ledger.site.worker_queue(), node).await.expect("the queue has a leader")
    }

    /// Closes the ledger. Prints its report, and how long deliveries and confirms stood still after each fault.
    async fn close(
        self,
        name: &str,
        course: Course,
        confirmed: Vec<Confirmed>,
        duplicates_allowed: usize,
    ) -> Vec<Stretch> {
        let Self { cluster, ledger, mut workers } = self;
        let ended = Instant::now();
        ledger.wait_until_done().await;
        let took = ended.elapsed();
        let parked = workers[0].metric("parked_total").await;
        let stretches = stretches(course, &ledger.receiver, &confirmed, ended);
        let longest = stretches.iter().map(|stretch| stretch.deliveries_stood_still).max().expect("something happened");
        let (events, attached) = (ledger.published(), workers[0].log().matches(replica::ATTACHED).count());
        let report = ledger.close(workers).await;
        println!(
            "soak nodes {name}: {events} events confirmed, {}; longest standstill {longest:.1?}, the last arrived \
             {took:.1?} after the last confirm, attached {attached} times, parked {parked}",
            report.summary()
        );
        for stretch in &stretches {
            let Stretch { began_with, deliveries_stood_still, confirms_stood_still, longest_way } = stretch;
            println!(
                "  {began_with}: no deliveries for {deliveries_stood_still:.1?}, no confirms for \
                 {confirms_stood_still:.1?}, longest way {longest_way:.1?}"
            );
        }
        report.assert_sound(duplicates_allowed);
        drop(cluster);
        stretches
    }
}

fn stretches(course: Course, receiver: &Receiver, confirmed: &[Confirmed], ended: Instant) -> Vec<Stretch> {
    let requests = receiver.requests();
    let received: Vec<Instant> = requests.iter().map(|request| request.at).collect();
    let confirms: Vec<Instant> = confirmed.iter().map(|event| event.at).collect();
    let mut first: HashMap<&str, Instant> = HashMap::new();
    for request in &requests {
        first.entry(request.event_id()).or_insert(request.at);
    }
    let ends: Vec<Instant> = course.0.iter().skip(1).map(|(_, at)| *at).chain([ended]).collect();
    let stretch = |((began_with, from), to): ((String, Instant), Instant)| {
        let of_then = confirmed.iter().filter(|event| (from..to).contains(&event.at));
        let ways = of_then.filter_map(|event| Some(first.get(event.id.as_str())?.saturating_duration_since(event.at)));
        Stretch {
            began_with,
            deliveries_stood_still: longest_gap(&received, from, to),
            confirms_stood_still: longest_gap(&confirms, from, to),
            longest_way: ways.max().unwrap_or_default(),
        }
    };
    course.0.into_iter().zip(ends).map(stretch).collect()
}

fn assert_no_longer_than_an_election(stretches: &[Stretch]) {
    for Stretch { began_with, deliveries_stood_still, confirms_stood_still, .. } in stretches {
        let allowed = *confirms_stood_still + BESIDE_ELECTION;
        assert!(*deliveries_stood_still <= allowed, "{began_with}: {deliveries_stood_still:?}");
    }
}

/// Causes this fault over and over while events are published. Returns the course of faults and the confirmed events.
async fn over_and_over(scene: &Scene, fault: impl AsyncFn(&mut Course)) -> (Course, Vec<Confirmed>) {
    let end = Instant::now() + duration_or(90);
    let faults = async {
        let mut course = Course::default();
        course.note("all is well");
        tokio::time::sleep(SETTLED / 2).await;
        while Instant::now() < end {
            fault(&mut course).await;
        }
        course
    };
    scene.ledger.publish_to_any(&scene.cluster, faults).await
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn nodes_killed_over_and_over_lose_nothing_and_deliveries_go_on_after_the_election() {
    let scene = Scene::set().await;
    let kill = async |course: &mut Course, what: &str, node: &str| {
        course.note(format!("kill {node}, {what}"));
        scene.cluster.kill(node).await;
        tokio::time::sleep(SETTLED).await;
        course.note(format!("start {node}"));
        scene.cluster.restart(node).await;
        tokio::time::sleep(SETTLED).await;
    };
    let (course, confirmed) = over_and_over(&scene, async |course| {
        kill(course, "the connected node", scene.connected().await).await;
        kill(course, "the leader", scene.leader().await).await;
    })
    .await;
    let duplicates = course.0.len() * (PREFETCH + 4);
    assert_no_longer_than_an_election(&scene.close("kill", course, confirmed, duplicates).await);
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn nodes_drained_for_maintenance_lose_nothing_and_are_left_at_once() {
    let scene = Scene::set().await;
    let (course, confirmed) = over_and_over(&scene, async |course| {
        let node = scene.connected().await;
        course.note(format!("drain {node}, the connected node"));
        scene.cluster.drain(node).await;
        tokio::time::sleep(SETTLED).await;
        course.note(format!("revive {node}"));
        scene.cluster.revive(node).await;
        tokio::time::sleep(SETTLED / 2).await;
    })
    .await;
    let duplicates = course.0.len() * (PREFETCH + 4);
    assert_no_longer_than_an_election(&scene.close("drain", course, confirmed, duplicates).await);
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_rolling_restart_of_all_nodes_loses_nothing_and_is_hardly_noticed() {
    let scene = Scene::set().await;
    let (course, confirmed) = over_and_over(&scene, async |course| {
        for node in NODES {
            course.note(format!("stop {node}"));
            scene.cluster.graceful_stop(node).await;
            course.note(format!("start {node}"));
            scene.cluster.restart(node).await;
            tokio::time::sleep(SETTLED).await;
        }
    })
    .await;
    let duplicates = course.0.len() * (PREFETCH + 4);
    assert_no_longer_than_an_election(&scene.close("roll", course, confirmed, duplicates).await);
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_node_that_freezes_is_left_after_two_heartbeats_and_what_it_holds_comes_when_it_is_given_up() {
    const TICK_TIME: Duration = Duration::from_secs(10);
    const FROZEN: Duration = Duration::from_secs(40);
    let scene = Scene::set().await;
    let tick = format!("net_kernel:set_net_ticktime({}, 0).", TICK_TIME.as_secs());
    for node in NODES {
        scene.cluster.ctl(node, &["eval", &tick]).await;
    }
    let (course, confirmed) = over_and_over(&scene, async |course| {
        for which in ["the connected node", "the leader"] {
            let node = if which == "the leader" { scene.leader().await } else { scene.connected().await };
            course.note(format!("freeze {node}, {which}"));
            scene.cluster.pause(node).await;
            tokio::time::sleep(FROZEN).await;
            course.note(format!("thaw {node}"));
            scene.cluster.resume(node).await;
            tokio::time::sleep(2 * SETTLED).await;
        }
    })
    .await;
    let duplicates = course.0.len() * (PREFETCH + 4);
    for Stretch { began_with, deliveries_stood_still, confirms_stood_still, .. } in
        scene.close("freeze", course, confirmed, duplicates).await
    {
        let allowed = 2 * HEARTBEAT + confirms_stood_still + BESIDE_ELECTION;
        assert!(deliveries_stood_still <= allowed, "{began_with}: {deliveries_stood_still:?}");
    }
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_queue_without_quorum_for_a_minute_loses_nothing_is_reported_and_goes_on_by_itself() {
    let mut scene = Scene::set().await;
    let without = duration_or(60);
    let second = scene.cluster.launch(&scene.ledger.site, &["worker"]);
    let (mut course, connected) = (Course::default(), scene.connected().await);
    let others: Vec<&str> = NODES.into_iter().filter(|node| *node != connected).collect();
    let (first, cluster) = (&mut scene.workers[0], &scene.cluster);
    let lost_and_back = async {
        course.note("all is well");
        tokio::time::sleep(SETTLED / 2).await;
        course.note(format!("kill {others:?}"));
        let lost = Instant::now();
        join_all(others.iter().map(|node| cluster.kill(node))).await;
        wait_until("the worker reports that its queue has no quorum", async || first.readyz().await == (503, true))
            .await;
        println!("  told after {:.1?}", lost.elapsed());
        let mut second = second.start();
        wait_until("a worker that starts reports it, too", async || second.readyz().await == (503, true)).await;
        tokio::time::sleep(without.saturating_sub(lost.elapsed())).await;
        assert_eq!((first.readyz().await, second.readyz().await), ((503, true), (503, true)));
        course.note(format!("start {others:?}"));
        join_all(others.iter().map(|node| cluster.restart(node))).await;
        let back = Instant::now();
        for worker in [&mut *first, &mut second] {
            wait_until("it is ready again", async || worker.readyz().await == (200, false)).await;
            println!("  ready {:.1?} after the nodes", back.elapsed());
        }
        course.note("ready");
        tokio::time::sleep(SETTLED).await;
        second
    };
    let (second, confirmed) = scene.ledger.publish_to_any(cluster, lost_and_back).await;
    scene.workers.push(second);
    let stretches = scene.close("no quorum", course, confirmed, 4 * PREFETCH).await;
    assert_no_longer_than_an_election(&stretches[3..]);
}
