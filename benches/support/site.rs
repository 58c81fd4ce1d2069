//! What a benchmark runs on: settings, database, broker and receiver, emptied before every run.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use lapin::options::QueuePurgeOptions;
use lapin::{Connection, ConnectionProperties};
use penr_webhooks::config::Settings;
use uuid::Uuid;

use super::database::Database;
use super::processes::{SETTINGS, command};
use super::{Load, Receiver, Worker};

pub use super::database::{Webhooks, url};

/// A pause after loading, in which the servers finish their background work.
const SETTLE: Duration = Duration::from_secs(2);
/// Numbers that no measured event has.
const WARM_UP: u64 = 1_000_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Site {
    pub settings: Settings,
    pub receiver: Receiver,
    pub database: Database,
}

impl Site {
    /// On the servers of the environment, with nothing in them yet but schema and queues.
    pub async fn open() -> anyhow::Result<Self> {
        let ours = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = Settings::load(None, std::env::vars().chain(ours), |path| std::fs::read_to_string(path))?;
        let migrated = command(&["migrate"]).status()?;
        anyhow::ensure!(migrated.success(), "the database cannot be migrated");
        let database = Database::open(&settings).await?;
        let site = Self { settings, receiver: Receiver::start().await?, database };
        site.declare_topology().await?;
        Ok(site)
    }

    /// Webhooks that answer at once, on hosts of their own.
    pub fn healthy(accounts: usize) -> Webhooks {
        Webhooks { name: "h", accounts, per_account: 1, path: "/ok", first_host: 0 }
    }

    /// Removes every webhook, event and arrival.
    pub async fn empty(&mut self) -> anyhow::Result<()> {
        self.database.empty().await?;
        self.purge().await?;
        self.receiver.take().await?;
        Ok(())
    }

    pub async fn register(&self, group: &Webhooks) -> anyhow::Result<Vec<Uuid>> {
        self.database.register(&self.settings, self.receiver.port, group).await
    }

    pub async fn give_headers(&self, webhooks: &[Uuid], headers: usize) -> anyhow::Result<()> {
        self.database.give_headers(&self.settings, webhooks, headers).await
    }

    pub async fn settle(&self) -> anyhow::Result<()> {
        self.database.settle().await?;
        tokio::time::sleep(SETTLE).await;
        Ok(())
    }

    /// A worker that has delivered an event to each of these webhooks. The receiver has cleared these arrivals.
    pub async fn warm_worker(&mut self, webhooks: &Webhooks) -> anyhow::Result<Worker> {
        let worker = Worker::start(&[])?;
        let load = Load::new(webhooks, 1024);
        let each = webhooks.accounts as u64;
        load.publish(&self.settings, WARM_UP..WARM_UP + each).await?;
        self.receiver.wait_for(each * webhooks.per_account as u64).await?;
        self.receiver.take().await?;
        Ok(worker)
    }

    /// A worker declares the queues; nothing is published before.
    async fn declare_topology(&self) -> anyhow::Result<()> {
        let (_worker, deadline) = (Worker::start(&[])?, Instant::now() + PATIENCE);
        let nobody = Webhooks { name: "nobody", ..Self::healthy(1) };
        while Load::new(&nobody, 0).publish(&self.settings, 0..1).await.is_err() {
            anyhow::ensure!(Instant::now() < deadline, "the worker did not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn purge(&self) -> anyhow::Result<()> {
        let url = self.settings.amqp.url.expose();
        let connection = Connection::connect(url, ConnectionProperties::default()).await.context("the broker")?;
        let channel = connection.create_channel().await?;
        let queues = self.settings.queue.all_shards().map(|shard| shard.queue);
        for queue in queues.chain([self.settings.queue.dead_queue.clone()]) {
            channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await?;
        }
        Ok(connection.close(200, "done".into()).await?)
    }
}
