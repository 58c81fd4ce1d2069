//! Servers or receivers vanish without closing a connection, because the network is cut. Both sides notice it within a
//! bounded time, and everything goes on by itself when the network is back.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::support::http::{Response, get};
use crate::support::*;

const PREFETCH: usize = 100;
const HEARTBEAT: Duration = Duration::from_secs(10);
/// RabbitMQ checks a connection once per heartbeat, and closes it at the third check without data at the latest.
const BY_RABBITMQ: Duration = Duration::from_secs(30);
const DATABASE: Duration = Duration::from_secs(15);
/// PostgreSQL sends an idle session its first TCP keepalive after 10 s, and closes it after three without an answer.
const BY_POSTGRES: Duration = Duration::from_secs(30);
/// How long the test's own question to a server may take.
const ASKING: Duration = Duration::from_secs(3);
/// Until everything works again after the network is back.
const BACK: Duration = Duration::from_secs(15);

/// A worker and an API whose servers and receivers are behind cables, and another worker, which nobody cuts off.
struct Scene {
    network: Network,
    servers: PrivateServers,
    ledger: Ledger,
    worker: Replica,
    other: Option<Replica>,
    api: Api,
}

impl Scene {
    async fn set() -> Option<Self> {
        let network = Network::new()?;
        let servers = PrivateServers::also_at(&network.here(Cable::Servers)).await;
        let site = Site::on(&servers).await.set("worker.prefetch", &PREFETCH.to_string());
        let through = |address: String| {
            let port = address.rsplit(':').next().expect("an address has a port");
            format!("{}:{port}", network.here(Cable::Servers))
        };
        let (amqp, postgres) = (through(site.amqp_address()), through(site.postgres_address()));
        let site = site.amqp_through(&amqp).postgres_through(&postgres);
        let site = site.set("sender.allow_networks", r#"["127.0.0.1/32", "198.18.0.0/15"]"#);
        let retries = format!("[{}]", ["\"1s\""; 30].join(", "));
        let site = site.set("retry.schedule", &retries).set("worker.probe_interval_max", "1s");
        let site = site.set("ops.listen", "0.0.0.0:0").set("api.listen", "0.0.0.0:0");
        let receiver = Receiver::start_at(format!("{}:0", network.here(Cable::Receivers)).parse().unwrap()).await;
        let ledger = Ledger::open_at(site, receiver).await;
        let worker = ledger.site.launch(&["worker"]).under(&network.inside()).start_worker().await;
        let mut api = ledger.site.api_of(ledger.site.launch(&["api"]).under(&network.inside())).await;
        api.address = inside(&network, &api.address);
        Some(Self { network, servers, ledger, worker, other: None, api })
    }

    async fn operations(&mut self) -> [String; 2] {
        let worker = self.worker.logged("operations address", "address").await;
        let api = self.api.replica.logged("operations address", "address").await;
        [inside(&self.network, &worker), inside(&self.network, &api)]
    }

    async fn close(self, name: &str, duplicates_allowed: usize) {
        let Self { ledger, worker, other, api, network, servers } = self;
        drop(api);
        super::close(name, 1, ledger, other.into_iter().chain([worker]).collect(), duplicates_allowed).await;
        drop((network, servers));
    }
}

/// Where the test reaches what listens on all addresses of the namespace.
fn inside(network: &Network, address: &str) -> String {
    address.replace("0.0.0.0", &network.there(Cable::Test))
}

/// Publishes without a pause while something happens.
async fn while_publishing(ledger: &Ledger, happens: impl Future<Output = ()>) {
    let over = Cell::new(false);
    let publishing = async {
        while !over.get() {
            ledger.publish(1).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let happens = async {
        happens.await;
        over.set(true);
    };
    tokio::join!(publishing, happens);
}

/// Waits until `is_so`, and fails if that comes later than `limit` after `since`.
async fn soon(what: &str, since: Instant, limit: Duration, mut is_so: impl AsyncFnMut() -> bool) {
    while !is_so().await {
        assert!(since.elapsed() < 2 * limit, "{what}: not after {:.1?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("  {what}: after {:.1?}", since.elapsed());
    assert!(since.elapsed() <= limit, "{what}: later than {limit:?}");
}

fn is(answer: &Response, status: u16, line: &str) -> bool {
    answer.status == status && answer.text().contains(line)
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn servers_that_vanish_without_a_word_are_noticed_on_both_sides_and_lose_nothing() {
    let Some(mut scene) = Scene::set().await else { return };
    scene.other = Some(scene.ledger.site.worker().await);
    let [worker, api] = scene.operations().await;
    let customer = scene.api.customer("acc_1");
    let Scene { network, servers, ledger, .. } = &scene;
    assert_eq!(customer.get("/v1/webhooks").await.status, 200);
    let there = network.there(Cable::Servers);
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE client_addr = '{there}'");
    while_publishing(ledger, async {
        let cut = Instant::now();
        network.cut(Cable::Servers);
        let before = ledger.published();
        let says = async |operations: &String, line: &str| is(&get(operations, "/readyz").await, 503, line);
        let at_once = Duration::from_secs(2);
        tokio::join!(
            soon("a request is answered 503", Instant::now(), at_once, async || {
                customer.get("/v1/webhooks").await.status == 503
            }),
            soon("the API is not ready", cut, DATABASE, async || says(&api, "database: not ready").await),
            soon("the worker misses PostgreSQL", cut, DATABASE, async || says(&worker, "database: not ready").await),
            // Read from the metrics, since the answer about readiness waits for the database, too.
            soon("the worker misses RabbitMQ", cut, 2 * HEARTBEAT + Duration::from_secs(1), async || {
                get(&worker, "/metrics").await.text().contains("penr_webhooks_consumer_attached 0")
            }),
            soon("RabbitMQ misses the worker", cut, BY_RABBITMQ + ASKING, async || {
                !servers.ctl(&["list_connections", "peer_host"]).await.contains(&there)
            }),
            soon("PostgreSQL misses all sessions", cut, BY_POSTGRES + ASKING, async || ledger.count(&sessions).await
                == 0),
            soon("another worker delivers what it held", cut, BY_RABBITMQ + ASKING, async || {
                let ids: std::collections::HashSet<String> =
                    ledger.receiver.requests().iter().map(|request| request.event_id().to_owned()).collect();
                ledger.published_since(0).iter().take(before + 20).all(|id| ids.contains(id))
                    && ledger.published() >= before + 20
            }),
        );
        let mended = Instant::now();
        network.mend(Cable::Servers);
        tokio::join!(
            soon("the worker is back", mended, BACK, async || get(&worker, "/readyz").await.status == 200),
            soon("the API is ready", mended, BACK, async || get(&api, "/readyz").await.status == 200),
            soon("the API answers", mended, BACK, async || customer.get("/v1/webhooks").await.status == 200),
        );
    })
    .await;
    scene.close("servers cut off", 2 * PREFETCH).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn receivers_that_vanish_without_a_word_cost_an_attempt_its_time_and_no_event() {
    let Some(scene) = Scene::set().await else { return };
    let Scene { network, ledger, .. } = &scene;
    let failed = "SELECT count(*) FROM attempts WHERE error IS NOT NULL";
    while_publishing(ledger, async {
        ledger.receiver.wait_for(20).await;
        let cut = Instant::now();
        network.cut(Cable::Receivers);
        // A kept connection, and a new one.
        soon("attempts fail", cut, Duration::from_secs(6), async || ledger.count(failed).await > 0).await;
        soon("more of them", cut, Duration::from_secs(15), async || ledger.count(failed).await > 30).await;
        network.mend(Cable::Receivers);
        let (mended, before) = (Instant::now(), ledger.receiver.count());
        soon("deliveries go on", mended, Duration::from_secs(6), async || ledger.receiver.count() > before).await;
    })
    .await;
    let longest = "SELECT max(duration_ms)::int8 FROM attempts WHERE error IS NOT NULL";
    let longest = ledger.count(longest).await;
    println!("  the longest attempt that failed took {longest} ms");
    assert!(longest <= 5_500, "{longest} ms");
    // What was sent just before the cut may have arrived, and its answer not.
    scene.close("receivers cut off", PREFETCH).await;
}
