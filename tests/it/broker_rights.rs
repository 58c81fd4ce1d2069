//! The table of rights at RabbitMQ in docs/operating.md is enough for every command. A process that lacks a right says
//! which one, and goes on once it has the right.

use serde_json::Value;
use uuid::Uuid;

use crate::support::*;

const OPERATING: &str = include_str!("../../docs/operating.md");
const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";
const ATTACHED: &str = "consumer attached";
const NOT_KEPT: &str = "events that no queue takes are not kept";
const DELETED: &str = "somebody deleted at the broker what the worker may not declare";

/// The test's users, each with the beginning of its row in the table.
const ROWS: [(&str, &str); 7] = [
    ("declaring", "`worker`, `run`, which declare"),
    ("narrow", "`worker`, `run`, where somebody else"),
    ("publisher", "`publish`"),
    ("looking", "`dead-letters list`"),
    ("requeueing", "`dead-letters requeue`"),
    ("doctor", "`doctor`"),
    ("noticing", "services of yours that take notices"),
];

/// The patterns for configure, write and read in one row of the table.
fn rights(begins: &str) -> [String; 3] {
    let mut rows = OPERATING.lines().map(|line| line.trim().replace(r"\|", "\0")).filter(|line| line.starts_with('|'));
    let row = rows.find(|line| line[1..].trim_start().starts_with(begins)).unwrap_or_else(|| panic!("no row {begins}"));
    let cells: Vec<_> = row.split('|').skip(2).map(|cell| cell.trim().trim_matches('`').replace('\0', "|")).collect();
    [0, 1, 2].map(|at| cells[at].clone())
}

async fn let_in(servers: &PrivateServers) {
    let rights = ROWS.map(|(_, begins)| rights(begins));
    let mut users: Vec<_> = ROWS.iter().zip(&rights).map(|((user, _), [c, w, r])| [*user, c.as_str(), w, r]).collect();
    // What a worker needed before there was a queue of unrouted events, in the documented form and cut to the names.
    users.push(["former", r"^penr\.", r"^penr\.webhooks", r"^penr\."]);
    users.push(["cut", r"^penr\.webhooks", r"^penr\.webhooks", r"^penr\."]);
    users.push(["former_looking", "^$", "^$", r"^penr\.webhooks\.dead$"]);
    servers.let_users(&users).await;
}

async fn readyz(worker: &mut Replica) -> (u16, String) {
    let address = worker.logged("operations address", "address").await;
    let answer = http::get(&address, "/readyz").await;
    (answer.status, answer.text())
}

fn lines<'a>(log: &'a [Value], level: &str) -> Vec<&'a Value> {
    log.iter().filter(|line| line["level"] == level).collect()
}

/// One test for all rows, since a private broker takes seconds to start.
#[tokio::test]
async fn each_row_of_the_table_is_enough_and_what_lacks_a_right_waits_for_it() {
    let servers = PrivateServers::broker().await;
    let_in(&servers).await;
    let receiver = Receiver::start().await;
    let mut site = Site::on(&servers).await.with_usual_names();
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let mut narrow = who_may_not_declare_waits_until_somebody_has(&site).await;
    site = site.with_broker_user("publisher");
    let event = site.json(&["publish", "--account", ACCOUNT, "--type", TYPE]).await;
    assert_eq!(receiver.next().await.event_id(), event["event_ids"][0]);
    site = who_may_not_publish_is_told_so(site.with_broker_user("looking")).await;
    notices_are_sent_and_taken(&site, &mut narrow).await;
    site = dead_letters_are_listed_requeued_and_discarded(site).await;
    what_is_deleted_and_may_not_be_declared_is_told_once(&site, &mut narrow).await;
    site = the_doctor_says_what_it_cannot_check(site).await;
    site = who_has_the_rights_of_the_release_before_does_without_unrouted_events(site).await;
    wait_until("all is declared again", async || !readyz(&mut narrow).await.1.contains("rights")).await;
    let log = narrow.log_lines();
    assert_eq!(narrow.log().matches(DELETED).count(), 1, "{}", narrow.log());
    // Before it attached, it may have found a queue that was just being made.
    let attached = log.iter().position(|line| line.to_string().contains(ATTACHED)).expect("it has attached");
    let warns = lines(&log[attached..], "WARN");
    assert!(warns.iter().all(|line| !line.to_string().contains("lost the broker")), "{}", narrow.log());
    narrow.terminate();
    assert!(narrow.wait().await.success(), "{}", narrow.log());
    // The site's folder has the log.
    drop(site);
    assert_eq!(servers.protocol_errors().await, [""; 0]);
}

/// Starts a worker with all rights, which declares what is missing, and stops it.
async fn a_worker_declares_all(site: &Site) {
    let mut worker = site.launch(&["worker"]).env("AMQP_URL", &site.amqp_url_of("declaring")).start_worker().await;
    worker.terminate();
    assert!(worker.wait().await.success(), "{}", worker.log());
}

/// Returns the worker that waited.
async fn who_may_not_declare_waits_until_somebody_has(site: &Site) -> Replica {
    let mut narrow = site.launch(&["worker"]).env("AMQP_URL", &site.amqp_url_of("narrow")).start();
    narrow.wait_for_log("lacks a right at the broker").await;
    let log = narrow.log_lines();
    assert_eq!(lines(&log, "ERROR").len(), 1, "{}", narrow.log());
    let told = lines(&log, "ERROR")[0].to_string();
    for said in [
        "the user narrow may not declare the exchange penr.events (durable, topic)",
        "the queue penr.webhooks (durable, x-dead-letter-exchange=penr.webhooks.dead,",
        r"give it configure on ^(penr\\.events|penr\\.webhooks\\.notices|",
        ", or declare it",
    ] {
        assert!(told.contains(said), "no {said} in {told}");
    }
    let (status, said) = readyz(&mut narrow).await;
    assert!(status == 503 && said.contains("consumer: not ready\n") && said.contains("rights: missing\n"), "{said}");
    a_worker_declares_all(site).await;
    narrow.wait_for_log(ATTACHED).await;
    wait_until("it is ready", async || narrow.is_ready().await).await;
    assert!(!readyz(&mut narrow).await.1.contains("rights"));
    let log = narrow.log_lines();
    let unchecked: Vec<_> = log.iter().filter(|line| line.to_string().contains("is not checked")).collect();
    assert_eq!(unchecked.len(), 1, "{}", narrow.log());
    let said = unchecked[0].to_string();
    assert!(
        unchecked[0]["level"] == "WARN" && said.contains("nor bind penr.webhooks.dead to penr.webhooks.dead"),
        "{said}"
    );
    narrow
}

async fn who_may_not_publish_is_told_so(site: Site) -> Site {
    let refused = site.cli(&["publish", "--account", ACCOUNT, "--type", TYPE]).await;
    let said = r"error: the user looking may not publish to the exchange penr.events: give it write on ^penr\.events$";
    assert!(refused.code == 1 && refused.stderr.contains(said), "{refused:?}");
    site
}

async fn notices_are_sent_and_taken(site: &Site, worker: &mut Replica) {
    let mut taker = Amqp::connect(&site.amqp_url_of("noticing")).await.unwrap();
    taker.declare_queue("mine", &[]).await.unwrap();
    taker.bind("mine", site.notices_exchange(), "#").await.unwrap();
    let insert =
        format!("INSERT INTO notices (id, kind, body) VALUES ('{}', 'webhook.failing', '{{}}')", Uuid::new_v4());
    site.sql().await.execute(&insert, &[]).await.unwrap();
    worker.wait_for_log("sent a notice").await;
    let taken = eventually("it is there", async || taker.take("mine").await.unwrap()).await;
    assert_eq!(taken.routing_key, "webhook.failing");
}

/// Begins as the user `looking`, who may not requeue.
async fn dead_letters_are_listed_requeued_and_discarded(site: Site) -> Site {
    let dead = async |site: &Site| site.queue_depth(site.dead_queue()).await == 1;
    site.publish_message(&site.message("no event")).await;
    wait_until("it is dead", async || dead(&site).await).await;
    let listed = site.json(&["dead-letters", "list"]).await["data"].clone();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    wait_until("it was put back", async || dead(&site).await).await;
    let refused = site.cli(&["dead-letters", "requeue", "--all"]).await;
    let said = r"the user looking may not write to the default exchange: give it write on ^amq\.default$";
    assert!(refused.code == 1 && refused.stderr.contains(said), "{refused:?}");
    wait_until("it is back", async || dead(&site).await).await;
    let site = site.with_broker_user("requeueing");
    assert_eq!(site.json(&["dead-letters", "requeue", "--all"]).await["requeued"], 1);
    wait_until("it is dead again", async || dead(&site).await).await;
    let site = site.with_broker_user("publisher");
    let refused = site.cli(&["dead-letters", "list"]).await;
    let said = r"may not read the queue penr.webhooks.dead: give it read on ^penr\.webhooks\.dead$";
    assert!(refused.code == 1 && refused.stderr.contains(said), "{refused:?}");
    let site = site.with_broker_user("looking");
    assert_eq!(site.json(&["dead-letters", "discard", &id]).await["discarded"], 1);
    site
}

/// Ends with another user declaring the queue again, which the worker notices later.
async fn what_is_deleted_and_may_not_be_declared_is_told_once(site: &Site, narrow: &mut Replica) {
    site.delete_dead_queue().await;
    narrow.wait_for_log(DELETED).await;
    // It stays ready. On a busy machine the database may be late with the answer that readiness needs.
    wait_until("it is ready and says what it lacks", async || {
        let (status, said) = readyz(narrow).await;
        assert!(said.contains("consumer: ready\n") && said.contains("rights: missing\n"), "{said}");
        status == 200
    })
    .await;
    assert!(narrow.log().contains(r"configure on ^penr\\.webhooks\\.dead$, or declare it"), "{}", narrow.log());
    a_worker_declares_all(site).await;
}

async fn the_doctor_says_what_it_cannot_check(site: Site) -> Site {
    let site = site.with_broker_user("doctor");
    let report = site.doctor().await;
    report.assert("topology", "ok", &[]);
    report.assert("round_trip", "ok", &[]);
    report.assert("unrouted", "ok", &[]);
    let site = site.with_broker_user("declaring");
    let report = site.doctor().await;
    report.assert("topology", "ok", &[]);
    report.assert("unrouted", "ok", &[]);
    report.assert(
        "round_trip",
        "warns",
        &[r"write on ^amq\\.default$; workers do without, `dead-letters requeue` does not"],
    );
    report.assert_nowhere("alarms");
    let site = site.with_broker_user("narrow");
    let report = site.doctor().await;
    let words =
        ["the user narrow may not declare the exchange penr.events (durable, topic)", "x-overflow=reject-publish"];
    report.assert("topology", "warns", &words);
    report.assert("topology", "warns", &["nor bind penr.webhooks.dead to", "loses rejected messages"]);
    report.assert("round_trip", "warns", &[r"configure on ^penr\\.webhooks\\.doctor\\.", r"write on ^amq\\.default$"]);
    site
}

/// A worker that is to say once, as a warning, that unrouted events are not kept, with these words, and that works all the same.
async fn it_says_once_that_they_are_not_kept(site: &Site, user: &str, words: &[&str]) {
    let mut worker = site.launch(&["worker"]).env("AMQP_URL", &site.amqp_url_of(user)).start_worker().await;
    let (status, said) = readyz(&mut worker).await;
    assert!(status == 200 && !said.contains("rights"), "{said}");
    let log = worker.log_lines();
    let told: Vec<_> = lines(&log, "WARN").into_iter().filter(|line| line.to_string().contains(NOT_KEPT)).collect();
    let [told] = &told[..] else { panic!("not told once: {}", worker.log()) };
    assert!(words.iter().all(|word| told.to_string().contains(word)), "no {words:?} in {told}");
    worker.terminate();
    assert!(worker.wait().await.success(), "{}", worker.log());
}

async fn who_has_the_rights_of_the_release_before_does_without_unrouted_events(site: Site) -> Site {
    let mut amqp = site.own_amqp().await;
    amqp.delete_queue(site.unrouted_queue()).await.unwrap();
    amqp.delete_exchange(site.unrouted_exchange()).await.unwrap();
    let right = r"give it configure on ^penr\\.events\\.unrouted$, or declare it";
    it_says_once_that_they_are_not_kept(&site, "cut", &["the user cut may not declare the exchange", right]).await;
    let site = site.with_broker_user("cut");
    let missing = ["not declared: the exchange penr.events.unrouted, the queue penr.events.unrouted"];
    site.doctor().await.assert("unrouted", "warns", &missing);
    let right = r"give it write on ^penr\\.events\\.unrouted$ and read on ^penr\\.events\\.unrouted$, or bind it";
    it_says_once_that_they_are_not_kept(&site, "former", &["the user former may not bind the queue", right]).await;
    let site = site.with_broker_user("former");
    let unbound =
        ["may not bind penr.events.unrouted to penr.events.unrouted", r"give it write on ^penr\\.events\\.unrouted$"];
    site.doctor().await.assert("unrouted", "warns", &unbound);
    let unrouted = Message::to("", site.unrouted_queue(), "no event").with_id("msg_1");
    assert_eq!(site.publish_message(&unrouted).await, Fate::Confirmed);
    let site = site.with_broker_user("former_looking");
    let listed = site.cli(&["dead-letters", "list"]).await;
    let note =
        "note: unrouted events are not looked at: the user former_looking may not read the queue penr.events.unrouted";
    assert!(listed.code == 0 && listed.stderr.contains(note), "{listed:?}");
    let site = site.with_broker_user("looking");
    assert_eq!(site.json(&["dead-letters", "discard", "msg_1"]).await["discarded"], 1);
    // With the documented rights it is bound again.
    a_worker_declares_all(&site).await;
    let to_exchange = Message::to(site.unrouted_exchange(), "no.such", "no event");
    assert_eq!(site.publish_message(&to_exchange).await, Fate::Confirmed);
    site
}
