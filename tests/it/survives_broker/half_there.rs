//! A broker that accepts connections and answers only in part: a request that a worker has given up leaves nothing behind,
//! neither a socket nor a consumer to which the broker delivers events.

use std::time::Duration;

use serde_json::json;

use super::ATTACHED;
use crate::support::*;

/// Suspends or resumes the broker's process of the worker queue, as a stalled disk or a lost quorum would.
async fn worker_queue(servers: &PrivateServers, site: &Site, action: &str) {
    let call = format!("sys:{action}(whereis('%2F_{}')).", site.worker_queue());
    assert_eq!(servers.ctl(&["eval", &call]).await.trim(), "ok");
}

async fn consumers(servers: &PrivateServers) -> usize {
    let listed = servers.ctl(&["--quiet", "list_consumers", "--no-table-headers", "consumer_tag"]).await;
    listed.lines().filter(|line| !line.trim().is_empty()).count()
}

impl Site {
    async fn add_a_notice(&self) {
        let insert = "INSERT INTO notices (id, kind, body) VALUES (gen_random_uuid(), 'webhook.failing', '{}')";
        self.sql().await.execute(insert, &[]).await.expect("a notice");
    }
}

async fn wait_for_sockets(worker: &Replica, proxy: &Proxy, most: usize) {
    let what = format!("it has at most {most} sockets to the broker");
    let ended = wait_until(&what, async || worker.sockets_to(&proxy.addr()) <= most);
    // Fewer than 10 s: then the broker itself closes connections without a login.
    within(&what, Duration::from_secs(8), ended).await;
}

#[tokio::test]
async fn attaching_that_was_given_up_leaves_no_consumer_behind() {
    let servers = PrivateServers::broker().await;
    let ledger = Ledger::open(Site::on(&servers).await.set("amqp.connect_timeout", "1s")).await;
    drop(ledger.site.worker().await);
    let proxy = Proxy::to(ledger.site.amqp_address()).await;
    let through = ledger.site.amqp_url_through(&proxy.addr());
    worker_queue(&servers, &ledger.site, "suspend").await;
    let mut worker = ledger.site.launch(&["worker"]).env("AMQP_URL", &through).start();
    wait_until("it has tried twice", async || proxy.opened() >= 2).await;
    wait_for_sockets(&worker, &proxy, 1).await;
    let mut stopped = ledger.site.launch(&["worker"]).env("AMQP_URL", &through).start();
    wait_until("another one tries", async || stopped.sockets_to(&proxy.addr()) > 0).await;
    stopped.terminate();
    assert_eq!(stopped.wait().await.code(), Some(0));
    worker_queue(&servers, &ledger.site, "resume").await;
    worker.wait_for_log(ATTACHED).await;
    wait_until("the broker has one consumer", async || consumers(&servers).await == 1).await;
    ledger.publish(300).await;
    ledger.wait_until_done().await;
    wait_until("one connection is left", async || (worker.sockets_to(&proxy.addr()), proxy.live()) == (1, 1)).await;
    worker.terminate();
    assert_eq!(worker.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_broker_that_accepts_and_stays_mute_is_left_no_sockets() {
    let site = Site::new().await.set("amqp.connect_timeout", "1s");
    let proxy = Proxy::to(site.amqp_address()).await;
    proxy.pause();
    let mut worker = site.launch(&["worker"]).env("AMQP_URL", &site.amqp_url_through(&proxy.addr())).start();
    wait_until("it has tried four times", async || proxy.opened() >= 4).await;
    wait_for_sockets(&worker, &proxy, 1).await;
    proxy.resume();
    worker.wait_for_log(ATTACHED).await;
    wait_until("one connection is left", async || (worker.sockets_to(&proxy.addr()), proxy.live()) == (1, 1)).await;
}

#[tokio::test]
async fn over_tls_a_handshake_without_an_answer_leaves_no_socket_either() {
    let authority = Authority::new();
    let site = Site::new().await.set("amqp.connect_timeout", "1s");
    let trusted = authority.trust_file(site.folder());
    let ledger = Ledger::open(site.env("SSL_CERT_FILE", trusted.to_str().expect("a path of ASCII"))).await;
    let front = TlsFront::to(ledger.site.amqp_address(), authority.identity().server_config()).await;
    let proxy = Proxy::to(front.addr()).await;
    let through = ledger.site.amqp_url_through(&proxy.addr()).replacen("amqp://", "amqps://", 1);
    proxy.pause();
    let mut worker = ledger.site.launch(&["worker"]).env("AMQP_URL", &through).start();
    wait_until("it has tried three times", async || proxy.opened() >= 3).await;
    wait_for_sockets(&worker, &proxy, 1).await;
    proxy.resume();
    worker.wait_for_log(ATTACHED).await;
    ledger.publish(1).await;
    ledger.wait_until_done().await;
    wait_until("one socket is left", async || worker.sockets_to(&proxy.addr()) == 1).await;
}

#[tokio::test]
async fn notices_that_cannot_be_sent_leave_no_sockets() {
    let site = Site::new().await.set("amqp.connect_timeout", "1s");
    let proxy = Proxy::to(site.amqp_address()).await;
    let launch = site.launch(&["worker"]).env("AMQP_URL", &site.amqp_url_through(&proxy.addr()));
    let mut worker = launch.start_worker().await;
    let mut notices = site.notices().await;
    proxy.pause_to_client();
    for times in 1..=3 {
        // A new notice each time, since one that could not be sent is tried again only after `worker.lease`.
        site.add_a_notice().await;
        wait_until("it is tried", async || proxy.opened() > times).await;
    }
    wait_for_sockets(&worker, &proxy, 1).await;
    proxy.resume();
    site.add_a_notice().await;
    assert_eq!(notices.next().await, ("webhook.failing".to_owned(), json!({})));
    worker.wait_for_log("sent a notice").await;
    wait_until("two connections are left", async || (worker.sockets_to(&proxy.addr()), proxy.live()) == (2, 2)).await;
}
