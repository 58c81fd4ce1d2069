//! Whatever happens to Postgres, workers keep their results and record each once; no event is sent twice because of it, and
//! messages wait at the broker meanwhile.

mod connections;
mod refusals;
mod sessions;
mod slow;

use crate::support::*;

const OUTAGE: &str = "waiting for the database";
pub const ATTEMPTS: &str = "SELECT count(*) FROM attempts";
const CANNOT_RECORD: &str = "cannot record, holding the results";
const CANNOT_LOOK_UP: &str = "cannot look up webhooks, waiting";

/// Statements end after this long; long enough for a test to act within one. Requests may last until the test lets their
/// receivers answer.
pub fn impatient(site: Site) -> Site {
    patient(site).set("database.statement_timeout", "2s").set("database.connect_timeout", "1s")
}

/// Receivers may keep a request open for as long as a server takes to start.
pub fn patient(site: Site) -> Site {
    site.set("sender.timeout", "60s").set("worker.lease", "10m")
}

/// A ledger whose worker reaches Postgres through a proxy.
async fn behind_a_proxy() -> (Ledger, Proxy, Replica) {
    ledger_behind_a_proxy(impatient(Site::new().await)).await
}

async fn ledger_behind_a_proxy(site: Site) -> (Ledger, Proxy, Replica) {
    let ledger = Ledger::open(site).await;
    let proxy = Proxy::to(ledger.site.postgres_address()).await;
    let through = ledger.site.database_url_through(&proxy.addr());
    let worker = ledger.site.launch(&["worker"]).env("DATABASE_URL", &through).start_worker().await;
    (ledger, proxy, worker)
}

/// Publishes events, and waits until all their requests have arrived. The receiver answers when the gate opens.
async fn held_in_flight(ledger: &Ledger, count: usize) -> Gate {
    let gate = Gate::default();
    ledger.receiver.always(Reply::status(200).held_by(&gate));
    let before = ledger.receiver.count();
    ledger.publish(count).await;
    ledger.receiver.wait_for(before + count).await;
    gate
}

/// Waits until this many sessions wait for a lock in the ledger's database.
async fn wait_for_blocked_sessions(ledger: &Ledger, count: i64) {
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE NOT l.granted AND d.datname = current_database()";
    ledger.wait_for_count(waiting, count).await;
}

/// Checks that the worker kept all messages that it had taken.
pub fn stayed_attached(worker: &Replica) -> bool {
    worker.log().matches("consumer attached").count() == 1
}

#[tokio::test]
async fn a_worker_started_without_postgres_begins_when_it_comes() {
    let ledger = Ledger::open(impatient(Site::new().await)).await;
    ledger.site.worker().await.kill9();
    let proxy = Proxy::to(ledger.site.postgres_address()).await;
    proxy.refuse(true).await;
    let through = ledger.site.database_url_through(&proxy.addr());
    let mut worker = ledger.site.launch(&["worker"]).env("DATABASE_URL", &through).start();
    ledger.publish(5).await;
    worker.wait_for_log_times("the worker cannot start yet", 2).await;
    proxy.refuse(false).await;
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn a_postgres_restarted_and_a_postgres_killed_double_and_lose_nothing() {
    let servers = PrivateServers::postgres().await;
    // A server that is gone refuses connections at once. With shorter time limits for the database, a busy machine would have
    // more than two outages.
    let site = patient(Site::on(&servers).await).set("log.filter", "info");
    let ledger = Ledger::open(site).await;
    let mut worker = ledger.site.worker().await;
    let gate = held_in_flight(&ledger, 20).await;
    servers.graceful_stop("postgres").await;
    gate.open();
    // A worker might not see a server that is back at once.
    worker.wait_for_log(OUTAGE).await;
    servers.restart("postgres").await;
    ledger.wait_until_done().await;
    // Otherwise the next outage may begin before this one has ended, and both count as one.
    worker.wait_for_log("the database takes what waited").await;
    let gate = held_in_flight(&ledger, 20).await;
    servers.kill("postgres").await;
    gate.open();
    ledger.publish(20).await;
    worker.wait_for_log_times(OUTAGE, 2).await;
    servers.restart("postgres").await;
    ledger.wait_until_done().await;
    assert!(stayed_attached(&worker));
    worker.wait_for_log_times("the database takes what waited", 2).await;
    assert_eq!(worker.warnings(), [OUTAGE; 2]);
    assert_eq!(worker.log().matches("the database takes what waited").count(), 2);
    assert_eq!(ledger.count(ATTEMPTS).await, 60);
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn results_in_hand_when_postgres_goes_are_recorded_when_it_is_back() {
    let (ledger, proxy, mut worker) = behind_a_proxy().await;
    let gate = held_in_flight(&ledger, 20).await;
    proxy.refuse(true).await;
    proxy.cut().await;
    gate.open();
    worker.wait_for_log(CANNOT_RECORD).await;
    ledger.publish(20).await;
    proxy.refuse(false).await;
    ledger.wait_until_done().await;
    assert!(stayed_attached(&worker));
    assert_eq!(ledger.count(ATTEMPTS).await, 40);
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn a_postgres_that_swallows_everything_is_waited_for_without_spinning() {
    let (ledger, proxy, mut worker) = behind_a_proxy().await;
    let gate = held_in_flight(&ledger, 5).await;
    proxy.pause();
    gate.open();
    ledger.publish(5).await;
    worker.wait_for_log(CANNOT_RECORD).await;
    worker.wait_for_log_times(CANNOT_LOOK_UP, 2).await;
    let asked = worker.log().matches(CANNOT_LOOK_UP).count();
    assert!(asked < 10, "{asked} questions within a few seconds");
    proxy.cut().await;
    proxy.resume();
    ledger.wait_until_done().await;
    assert!(stayed_attached(&worker));
    assert_eq!(ledger.count(ATTEMPTS).await, 10);
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn the_broker_hands_a_message_out_once_while_postgres_is_away() {
    let (ledger, proxy, mut worker) = behind_a_proxy().await;
    proxy.refuse(true).await;
    proxy.cut().await;
    ledger.publish(1).await;
    worker.wait_for_log_times(CANNOT_LOOK_UP, 4).await;
    worker.kill9();
    let handed_out = eventually("the message is back", async || ledger.site.take_delivery_count().await).await;
    assert_eq!(handed_out, 1, "the broker handed it out more than once before the worker was killed");
    assert_eq!(ledger.receiver.count(), 0);
}

#[tokio::test]
async fn what_waits_too_long_for_postgres_goes_back_and_nothing_is_taken_before_results_are_recorded() {
    let site = impatient(Site::new().await).set("worker.give_back_after", "1s");
    let (ledger, proxy, mut worker) = ledger_behind_a_proxy(site).await;
    let gate = held_in_flight(&ledger, 5).await;
    proxy.refuse(true).await;
    proxy.cut().await;
    gate.open();
    ledger.publish(5).await;
    worker.wait_for_log("goes back").await;
    let site = &ledger.site;
    wait_until("the broker has it all", async || site.queue_depth(site.worker_queue()).await == 10).await;
    let so_far = worker.log().matches(CANNOT_LOOK_UP).count();
    worker.wait_for_log_times(CANNOT_LOOK_UP, so_far + 2).await;
    assert!(stayed_attached(&worker), "it took messages it could not work on");
    proxy.refuse(false).await;
    ledger.wait_until_done().await;
    worker.wait_for_log_times("consumer attached", 2).await;
    assert_eq!((ledger.count(ATTEMPTS).await, ledger.receiver.count()), (10, 10));
    ledger.close(vec![worker]).await.assert_sound(0);
}

/// The lines of the log that are not about attempts.
fn told(worker: &Replica) -> Vec<String> {
    let lines = worker.log_lines().into_iter().filter(|line| line["level"] != "DEBUG" && line["message"] != "attempt");
    lines.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn an_outage_of_postgres_is_one_line_when_it_begins_and_one_when_it_is_over() {
    let (ledger, proxy, mut worker) = behind_a_proxy().await;
    let gate = held_in_flight(&ledger, 5).await;
    proxy.refuse(true).await;
    proxy.cut().await;
    gate.open();
    ledger.publish(5).await;
    worker.wait_for_log(CANNOT_RECORD).await;
    worker.wait_for_log_times(CANNOT_LOOK_UP, 3).await;
    worker.wait_for_log("cannot send notices").await;
    proxy.refuse(false).await;
    ledger.wait_until_done().await;
    let outage = ["waiting for the database", "the database takes what waited"];
    // When Postgres is back, a connection may be late once more, which logs two more lines.
    wait_until("it is over", async || {
        let told = told(&worker);
        let of_it: Vec<_> = told.iter().map(String::as_str).filter(|line| outage.contains(line)).collect();
        (1..=3).contains(&(of_it.len() / 2)) && of_it.chunks(2).all(|lines| lines == outage)
    })
    .await;
    assert!(!told(&worker).iter().any(|line| line.starts_with("cannot") && !line.contains("partitions")));
    let pool = ["Connection error", "could not be recycled"];
    assert!(!pool.iter().any(|line| worker.log().contains(line)), "the connection pool logs the outage, too");
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn a_slow_commit_sends_nothing_twice() {
    let ledger = Ledger::open(impatient(Site::new().await)).await;
    let mut worker = ledger.site.worker().await;
    let locker = ledger.site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE attempts").await.unwrap();
    ledger.publish(20).await;
    ledger.receiver.wait_for(20).await;
    worker.wait_for_log(CANNOT_RECORD).await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    ledger.wait_until_done().await;
    assert!(stayed_attached(&worker));
    assert_eq!(ledger.count(ATTEMPTS).await, 20);
    ledger.close(vec![worker]).await.assert_sound(0);
}

/// Has every commit with attempts wait for the session that holds the advisory lock 1, as a commit waits for its disk: neither
/// a time limit, nor a cancellation, nor a client that is gone ends the wait.
const END_LATE: &str = "
    CREATE FUNCTION end_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('client_connection_check_interval', '0', true);
        LOOP
            BEGIN
                PERFORM pg_advisory_xact_lock_shared(1);
                RETURN NULL;
            EXCEPTION WHEN query_canceled OR lock_not_available THEN
            END;
        END LOOP;
    END $$;
    CREATE CONSTRAINT TRIGGER end_late AFTER INSERT ON attempts DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION end_late();
    SELECT pg_advisory_lock(1);";

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_repeated() {
    let (ledger, proxy, mut worker) = behind_a_proxy().await;
    let gatekeeper = ledger.site.another_sql().await;
    gatekeeper.batch_execute(END_LATE).await.unwrap();
    ledger.publish(1).await;
    // On a slow machine a second session may wait for the commit before it is seen.
    let waiting = "SELECT sign(count(*))::bigint FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()";
    ledger.wait_for_count(waiting, 1).await;
    proxy.pause_to_client();
    gatekeeper.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    ledger.wait_for_count(ATTEMPTS, 1).await;
    worker.wait_for_log(CANNOT_RECORD).await;
    proxy.cut().await;
    proxy.resume();
    // The recorder takes this batch after the first.
    ledger.publish(1).await;
    ledger.wait_for_count(ATTEMPTS, 2).await;
    ledger.wait_until_done().await;
    assert_eq!(ledger.count("SELECT count(*) FROM events").await, 2);
    ledger.close(vec![worker]).await.assert_sound(0);
}

/// Makes Postgres refuse the attempts for which the condition holds.
async fn refuse_attempts_where(ledger: &Ledger, condition: &str) {
    let refuse = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF {condition} THEN RAISE EXCEPTION 'refused by a test'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION refuse();"
    );
    ledger.site.sql().await.batch_execute(&refuse).await.unwrap();
}

#[tokio::test]
async fn a_row_that_postgres_refuses_is_closed_and_holds_up_no_other() {
    let ledger = Ledger::open(Site::new().await).await;
    let worker = ledger.site.worker().await;
    refuse_attempts_where(&ledger, "NEW.event_id = 'evt_refused'").await;
    // All events at once, so that their results share transactions.
    let gate = Gate::default();
    ledger.receiver.always(Reply::status(200).held_by(&gate));
    ledger.publish(25).await;
    ledger.publish_as("evt_refused").await;
    ledger.publish(24).await;
    ledger.receiver.wait_for(50).await;
    gate.open();
    ledger.wait_until_done().await;
    assert_eq!(ledger.count(ATTEMPTS).await, 49);
    assert_eq!(ledger.count("SELECT count(*) FROM closed_deliveries WHERE reason = 'unrecordable'").await, 1);
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn an_answer_that_postgres_refuses_is_recorded_without_its_snippet() {
    let ledger = Ledger::open(Site::new().await).await;
    let worker = ledger.site.worker().await;
    refuse_attempts_where(&ledger, "NEW.response_snippet LIKE '%spoilt%'").await;
    ledger.receiver.script([Reply::body(200, "fine"), Reply::body(200, "spoilt"), Reply::body(200, "fine")]);
    ledger.publish(3).await;
    ledger.wait_until_done().await;
    assert_eq!(ledger.count("SELECT count(*) FROM attempts WHERE response_snippet = 'fine'").await, 2);
    assert_eq!(ledger.count("SELECT count(*) FROM attempts WHERE response_snippet IS NULL").await, 1);
    ledger.close(vec![worker]).await.assert_sound(0);
}

/// A worker that gets no messages asks the queue for a sign of its quorum. This must not raise the delivery count of an event
/// that waits in the queue.
#[tokio::test]
async fn an_event_that_waits_behind_a_worker_without_postgres_is_not_handed_out_meanwhile() {
    let site = impatient(Site::new().await).set("worker.prefetch", "1000").set("amqp.connect_timeout", "1s");
    let (ledger, proxy, mut worker) = ledger_behind_a_proxy(site).await;
    proxy.refuse(true).await;
    proxy.cut().await;
    ledger.publish(1_010).await;
    let site = &ledger.site;
    wait_until("the worker has its share", async || site.queue_depth(site.worker_queue()).await == 10).await;
    let so_far = worker.log().matches(CANNOT_LOOK_UP).count();
    worker.wait_for_log_times(CANNOT_LOOK_UP, so_far + 3).await;
    assert_eq!(
        site.take_delivery_count().await,
        Some(0),
        "the worker's questions for a sign of the quorum raised the delivery count"
    );
    assert!(stayed_attached(&worker));
}
