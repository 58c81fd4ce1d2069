//! While this machine cannot reach the internet, no delivery loses an attempt, and no webhook becomes unhealthy.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpSocket;

use crate::support::*;

const TYPE: &str = "content.created";
const ACCOUNTS: usize = 6;
const HOSTS: usize = 12;

/// Ports that refuse connections until they are listened on.
fn closed_hosts() -> Vec<TcpSocket> {
    let bound = |host: usize, port| {
        let socket = TcpSocket::new_v4().expect("a socket");
        let address = Ipv4Addr::new(127, 0, 77, u8::try_from(host + 1).unwrap());
        socket.bind(SocketAddr::from((address, port))).expect("a free port");
        socket
    };
    (0..HOSTS).map(|host| bound(host, 0)).collect()
}

async fn publish_to_all(site: &Site) {
    for account in 0..ACCOUNTS {
        site.publish(&format!("acc_{account}"), TYPE, json!({})).await;
    }
}

#[tokio::test]
async fn when_no_receiver_can_be_reached_no_attempt_counts_until_one_can() {
    let site = Site::new().await.set("retry.schedule", r#"["1s", "1s", "1s"]"#).set("retry.jitter", "0");
    let site = site.set("sender.allow_networks", r#"["127.0.0.0/8"]"#);
    let hosts = closed_hosts();
    let urls = hosts.iter().map(|host| format!("http://{}/hook", host.local_addr().unwrap()));
    let accounts: Vec<String> = (0..HOSTS).map(|host| format!("acc_{}", host % ACCOUNTS)).collect();
    let urls: Vec<String> = urls.collect();
    join_all(accounts.iter().zip(&urls).map(|(account, url)| site.create_webhook(account, url, &[TYPE]))).await;
    let mut worker = site.worker().await;
    publish_to_all(&site).await;
    worker.wait_for_log("no receiver can be reached").await;
    let address = worker.logged("operations address", "address").await;
    let told = async || {
        let answer = http::get(&address, "/readyz").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        (answer.text().contains("egress: out"), http::metric(&address, "egress_out").await == 1.0)
    };
    assert_eq!(told().await, (true, true));
    publish_to_all(&site).await;
    // Enough for one attempt of each delivery in hand and some probes: longer than the first wait of the schedule.
    worker.wait_for_log_times("to be made again", HOSTS + 2).await;
    let charged = site.count("SELECT count(*) FROM attempts").await;
    assert!(
        charged <= 2,
        "{charged} attempts counted, though two hosts at most had failed before the worker suspected its own network"
    );
    assert_eq!(told().await, (true, true));

    let receivers: Vec<Receiver> = hosts.into_iter().map(|host| Receiver::on(host.listen(64).unwrap())).collect();
    worker.wait_for_log("receivers can be reached again").await;
    join_all(receivers.iter().map(|receiver| receiver.wait_for(2))).await;
    let all_recorded = i64::try_from(2 * HOSTS).unwrap() + charged;
    wait_until("all is recorded", async || site.count("SELECT count(*) FROM attempts").await == all_recorded).await;
    assert_eq!(told().await, (false, false));
    // The health of a webhook whose row another transaction held is written a little later.
    let unhealthy = "SELECT count(*) FROM webhooks WHERE consecutive_failures > 0";
    wait_until("no webhook is unhealthy", async || site.count(unhealthy).await == 0).await;
    assert_eq!(worker.metric("parked_total").await, 0.0);
    assert_eq!(worker.log().matches("no receiver can be reached from this machine").count(), 1);
    assert_eq!(site.queue_depth(site.worker_queue()).await, 0);
}
