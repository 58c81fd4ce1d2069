//! A RabbitMQ cluster of three nodes, one test's own, which may stop or kill each of them. Postgres is the one that all tests
//! share.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::SemaphorePermit;
use tokio::time::{MissedTickBehavior, interval, timeout};
use url::Url;

use super::amqp::{Amqp, Fate};
use super::broker::new_event_id;
use super::ledger::Ledger;
use super::private::{Instance, room, services};
use super::proxy::Proxy;
use super::replica::{Launch, Replica};
use super::servers::Servers;
use super::settings::Configure;
use super::site::Site;
use super::wait::eventually;

/// As `scripts/services` calls them.
pub const NODES: [&str; 3] = ["rabbitmq", "node2", "node3"];

/// How many tasks publish, and how far apart each publishes its events.
const PUBLISHERS: usize = 4;
const EVERY: Duration = Duration::from_millis(50);
/// A publisher without a confirm for so long tries another node.
const CONFIRMS_AFTER: Duration = Duration::from_secs(2);
const BETWEEN_NODES: Duration = Duration::from_millis(50);

pub struct Cluster {
    // Stopped before the next test may start servers: fields are dropped in this order.
    instance: Instance,
    /// What the test itself connects to.
    own: Proxy,
    urls: String,
    servers: Arc<Servers>,
    _room: SemaphorePermit<'static>,
}

impl Cluster {
    /// Starts all three nodes and waits until they are up and know each other.
    pub async fn start() -> Self {
        let room = room().await;
        let instance = Instance::start(&NODES).await;
        let urls = instance.export("AMQP_URL").await;
        let first = urls.split(',').next().expect("it has a first one");
        let own = Proxy::to(address_of(first)).await;
        let servers = Servers::with_disposable_broker(first.replace(&address_of(first), &own.addr()));
        Self { instance, own, urls, servers, _room: room }
    }

    /// The URLs of all nodes, as an operator writes them.
    pub fn urls(&self) -> &str {
        &self.urls
    }

    /// The URL of one node.
    pub fn url(&self, node: &str) -> &str {
        let nth = NODES.iter().position(|known| *known == node).expect("a node of the cluster");
        self.urls.split(',').nth(nth).expect("one for each node")
    }

    /// `host:port`.
    pub fn address(&self, node: &str) -> String {
        address_of(self.url(node))
    }

    /// A worker that knows all nodes.
    pub fn launch(&self, site: &Site, arguments: &[&str]) -> Launch {
        site.launch(arguments).env("AMQP_URL", &self.urls)
    }

    /// The test itself asks and publishes at this node from here on.
    pub async fn ask_at(&self, node: &str) {
        self.own.move_to(self.address(node));
        self.own.cut().await;
    }

    /// Which node a worker takes its events from.
    pub async fn node_of(&self, worker: &Replica) -> &'static str {
        eventually("the worker is connected to a node", async || {
            NODES.into_iter().find(|node| worker.sockets_to(&self.address(node)) > 0)
        })
        .await
    }

    /// Which node leads a queue, as another node sees it.
    pub async fn leader(&self, queue: &str, seen_by: &str) -> Option<&'static str> {
        let listed = self.ctl(seen_by, &["--quiet", "list_queues", "--no-table-headers", "name", "leader"]).await;
        let leader = listed.lines().find_map(|line| line.strip_prefix(&format!("{queue}\t")))?;
        NODES.into_iter().find(|node| leader.trim() == erlang_name(node))
    }

    /// Takes a node out of service for maintenance: it closes its connections and gives its leaders away.
    pub async fn drain(&self, node: &str) {
        self.tell(&["drain", node]).await;
    }

    pub async fn revive(&self, node: &str) {
        self.tell(&["revive", node]).await;
    }

    /// What `rabbitmqctl` prints on this node.
    pub async fn ctl(&self, node: &str, arguments: &[&str]) -> String {
        services(&[&["ctl-on", node, self.instance.name()], arguments].concat()).await
    }
}

impl Deref for Cluster {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl From<&Cluster> for Arc<Servers> {
    fn from(cluster: &Cluster) -> Self {
        cluster.servers.clone()
    }
}

fn erlang_name(node: &str) -> String {
    if node == NODES[0] { "penr@localhost".to_owned() } else { format!("penr-{node}@localhost") }
}

fn address_of(url: &str) -> String {
    let url = Url::parse(url).expect("scripts/services exports URLs");
    format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"))
}

/// An event that the broker has confirmed.
pub struct Confirmed {
    pub id: String,
    pub at: Instant,
}

/// Publishes to any node that confirms.
struct Publisher<'a> {
    urls: Vec<&'a str>,
    at: usize,
    amqp: Option<Amqp>,
}

impl Publisher<'_> {
    /// Publishes an event, again under the same id and to another node whenever nothing confirms it.
    async fn publish(&mut self, ledger: &Ledger) -> Confirmed {
        let id = new_event_id();
        while !matches!(timeout(CONFIRMS_AFTER, self.try_publish(ledger, &id)).await, Ok(Ok(Fate::Confirmed))) {
            self.amqp = None;
            self.at += 1;
            tokio::time::sleep(BETWEEN_NODES).await;
        }
        ledger.note(&id);
        Confirmed { id, at: Instant::now() }
    }

    async fn try_publish(&mut self, ledger: &Ledger, id: &str) -> super::amqp::Result<Fate> {
        let amqp = match &mut self.amqp {
            Some(amqp) => amqp,
            none => none.insert(Amqp::connect(self.urls[self.at % self.urls.len()]).await?),
        };
        amqp.publish(&ledger.event(id)).await
    }
}

impl Ledger {
    /// Publishes to any nodes that confirm while something happens, and returns what was confirmed, too.
    pub async fn publish_to_any<T>(&self, cluster: &Cluster, what: impl Future<Output = T>) -> (T, Vec<Confirmed>) {
        let (over, confirmed) = (Cell::new(false), RefCell::new(Vec::new()));
        let publisher = async |at| {
            let mut publisher = Publisher { urls: cluster.urls().split(',').collect(), at, amqp: None };
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !over.get() {
                ticks.tick().await;
                let event = publisher.publish(self).await;
                confirmed.borrow_mut().push(event);
            }
        };
        let publish = futures_util::future::join_all((0..PUBLISHERS).map(publisher));
        let what = async {
            let result = what.await;
            over.set(true);
            result
        };
        let (result, _) = tokio::join!(what, publish);
        (result, confirmed.into_inner())
    }
}
