//! No caller notices a roll-out. An API that stops first reports that it is not ready, and serves callers until the load
//! balancer has seen that. It closes no connection just as a proxy uses it. It also listens where there is no IPv6.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::{Kept, get};
use crate::support::older_schema::{back_to, names_after};
use crate::support::*;

const PATH: &str = "/v1/openapi.json";

#[tokio::test]
async fn after_a_sigterm_a_process_is_not_ready_and_still_serves_whoever_comes_for_the_drain_delay() {
    // Within this time even a loaded machine must do everything from the signal to `idle.ends()`.
    const DELAY: Duration = Duration::from_secs(12);
    let site = Site::new().await.set("api.drain_delay", "12s").set("shutdown.grace", "2m");
    // The receiver answers the test send only after the delay.
    let site = site.set("sender.timeout", "60s").set("worker.lease", "10m");
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    receiver.always(Reply::status(204).held_by(&gate));
    let mut api = site.api_of(site.launch(&["run"])).await;
    api.replica.wait_for_log(replica::ATTACHED).await;
    let operations = api.replica.logged("operations address", "address").await;
    let (mut used, mut idle) = (Kept::open(&api.address).await, Kept::open(&api.address).await);
    for kept in [&mut used, &mut idle] {
        assert_eq!(kept.get(PATH).await.header("connection"), None);
    }
    let customer = api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await;
    gate.close();
    let held = tokio::spawn(async move { customer.ask("POST", &format!("{path}/test"), &[], b"").await.status });
    receiver.wait_for(1).await;

    let signalled = Instant::now();
    api.replica.terminate();
    // The worker does not wait for the delay.
    api.replica.wait_for_log("\"stopped\"").await;
    let readiness = get(&operations, "/readyz").await;
    assert_eq!((readiness.status, readiness.text()), (503, "stopping: yes\n".to_owned()));
    assert_eq!(get(&operations, "/livez").await.status, 200);
    for mut kept in [Kept::open(&api.address).await, used] {
        let answer = kept.get(PATH).await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        kept.ends().await;
    }
    assert!(
        signalled.elapsed() < DELAY,
        "this machine is too slow for this test: {:?} after the signal",
        signalled.elapsed()
    );

    idle.ends().await;
    assert!(signalled.elapsed() >= DELAY, "{:?}", signalled.elapsed());
    wait_until("nobody listens", async || TcpStream::connect(&api.address).await.is_err()).await;
    assert!(get(&operations, "/metrics").await.text().contains("penr_webhooks_build_info"));
    gate.open();
    assert_eq!(held.await.unwrap(), 200);
    assert!(api.replica.wait().await.success());
}

#[tokio::test]
async fn a_kept_connection_outlives_the_time_of_a_head_and_ends_when_it_asks_nothing() {
    let site = Site::new().await.set("api.header_timeout", "1s").set("api.idle_timeout", "8s");
    let api = site.api_of(site.launch(&["api"])).await;
    let (mut kept, mut silent) = (Kept::open(&api.address).await, Kept::open(&api.address).await);
    kept.get(PATH).await;
    let mut dawdler = TcpStream::connect(&api.address).await.unwrap();
    dawdler.write_all(b"GET / HT").await.unwrap();
    let mut nothing = Vec::new();
    let closed = dawdler.read_to_end(&mut nothing);
    within("a head that does not end is given up", PATIENCE, closed).await.unwrap();
    assert_eq!(kept.get(PATH).await.status, 200);
    let asked = Instant::now();
    silent.ends().await;
    kept.ends().await;
    assert!(asked.elapsed() >= Duration::from_secs(7), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn behind_a_proxy_that_keeps_connections_no_request_fails_for_one_that_closes() {
    at_the_edge_of_idle("20s", "1s", "1200ms", &[Duration::from_secs(1), Duration::from_millis(1200)]).await;
}

/// Has 80 requests sent through nginx, 20 ms away, on kept connections that have been idle for about as long as each of
/// these times. They are of a method that nginx does not send again.
pub async fn at_the_edge_of_idle(idle: &str, header: &str, nginx: &str, edges: &[Duration]) {
    const WAY: Duration = Duration::from_millis(20);
    let site = Site::new().await.set("api.idle_timeout", idle).set("api.header_timeout", header);
    let api = site.api().await;
    let way = Proxy::to(&api.address).await;
    way.delay(WAY);
    let proxy = Nginx::that_keeps_connections(&way.addr(), nginx).await;
    let customer = Customer { address: proxy.addr(), ..api.customer("acc_1") };
    let requests = (0..80_u32).map(|number| {
        let (customer, edge) = (customer.clone(), edges[number as usize % edges.len()]);
        // The next request arrives two ways later, from a little before this time to a little after it.
        let wait = edge + Duration::from_millis(number.into()) - 3 * WAY;
        async move {
            // The path names no webhook, so the database is not asked.
            let first = customer.send_text("POST", "/v1/webhooks", "{}").await.status;
            tokio::time::sleep(wait).await;
            [first, customer.send_text("POST", "/v1/webhooks", "{}").await.status]
        }
    });
    let answers = join_all(requests).await;
    let failed = answers.iter().flatten().filter(|status| **status != 400).count();
    println!("{failed} of {} requests failed at the edge of {nginx}", 2 * answers.len());
    assert_eq!(failed, 0, "{answers:?}");
}

#[tokio::test]
async fn where_there_is_no_ipv6_all_addresses_are_those_of_ipv4() {
    // Answers as a kernel without IPv6 does, or, with SWITCHED_OFF, as one in which IPv6 is switched off.
    const KERNEL: &str = r#"
        #include <errno.h>
        #include <stdlib.h>
        #include <sys/socket.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int socket(int family, int type, int protocol) {
            if (family == AF_INET6 && !getenv("SWITCHED_OFF")) return errno = EAFNOSUPPORT, -1;
            return syscall(SYS_socket, family, type, protocol);
        }
        int bind(int fd, const struct sockaddr *address, socklen_t length) {
            if (address->sa_family == AF_INET6) return errno = EADDRNOTAVAIL, -1;
            return syscall(SYS_bind, fd, address, length);
        }"#;
    let site = Site::new().await.set("ops.listen", "[::]:0").set("api.listen", "[::]:0");
    let (source, kernel) = (site.folder().join("kernel.c"), site.folder().join("kernel.so"));
    std::fs::write(&source, KERNEL).unwrap();
    let mut cc = tokio::process::Command::new("cc");
    let compiled = cc.args(["-shared", "-fPIC", "-o"]).args([&kernel, &source]);
    assert!(compiled.status().await.unwrap().success());
    for switched_off in [false, true] {
        let launch = site.launch(&["api"]).env("LD_PRELOAD", kernel.to_str().unwrap());
        let launch = if switched_off { launch.env("SWITCHED_OFF", "yes") } else { launch };
        let mut api = site.api_of(launch).await;
        let operations = api.replica.logged("operations address", "address").await;
        for (address, path) in [(&api.address, PATH), (&operations, "/livez")] {
            let port = address.strip_prefix("0.0.0.0:").expect("all addresses of IPv4");
            assert_eq!(get(&format!("127.0.0.1:{port}"), path).await.status, 200);
        }
        assert_eq!(api.replica.log().matches("there is no IPv6 here").count(), 2);
    }
}

#[tokio::test]
async fn a_worker_and_an_api_serve_the_schema_before_the_causes_and_keep_them_as_soon_as_it_is_migrated() {
    let site = Site::new().await;
    let nobody = ClosedPort::new();
    site.sql().await.batch_execute(&back_to(11)).await.unwrap();
    let mut api = site.api_of(site.launch(&["run"])).await;
    api.replica.wait_for_log(replica::ATTACHED).await;
    let customer = api.customer("acc_1");
    let path = customer.create_plain_at(&nobody.url()).await;
    let log = format!("{path}/deliveries?status=failed");
    let newest = async |wanted: fn(&serde_json::Value) -> bool| {
        eventually("the attempt is in the log", async || {
            let page = customer.get(&log).await.json();
            page["data"].get(0).cloned().filter(wanted)
        })
        .await
    };
    site.publish("acc_1", "content.created", 1.into()).await;
    let row = newest(|_| true).await;
    assert_eq!((&row["error"], &row["error_detail"]), (&"connect".into(), &serde_json::Value::Null));
    assert_eq!(site.json(&["migrate"]).await["applied"], serde_json::json!(names_after(11)));
    site.publish("acc_1", "content.created", 2.into()).await;
    let row = newest(|row| !row["error_detail"].is_null()).await;
    assert_eq!(row["error_detail"], "refused");
}
