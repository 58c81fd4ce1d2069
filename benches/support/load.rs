//! Publishes events: all before the measurement, or during it, on a schedule that does not wait for deliveries.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use penr_webhooks::config::Settings;
use penr_webhooks::event::Properties;
use penr_webhooks::queue::{EventAddress, PublishError, Publisher, Unconfirmed};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

use super::{TYPE, Webhooks, now};

/// Messages on their way to the broker at a time.
const UNCONFIRMED: usize = 512;
const FILLER: u8 = b'x';

/// Events of some accounts in turn, numbered from 0. Their ids begin with the name of the accounts' webhooks.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    name: &'static str,
    accounts: usize,
    bytes: usize,
    /// The name of the webhooks whose events take the place of every hundredth event.
    hundredth: Option<&'static str>,
}

const HUNDREDTH: u64 = 100;

impl Load {
    /// For every account of these webhooks, with events of so many bytes.
    pub fn new(webhooks: &Webhooks, bytes: usize) -> Self {
        Self { name: webhooks.name, accounts: webhooks.accounts, bytes, hundredth: None }
    }

    /// The same, but every hundredth event is for the first account of other webhooks.
    pub fn but_for_a_hundredth(self, others: &Webhooks) -> Self {
        Self { hundredth: Some(others.name), ..self }
    }

    /// How many of so many events are for the webhooks themselves.
    pub fn own(&self, events: u64) -> u64 {
        events - self.hundredth.map_or(0, |_| events / HUNDREDTH)
    }

    pub fn message(&self, event: u64) -> Outgoing {
        let own = (self.name, event % self.accounts as u64);
        let other = self.hundredth.filter(|_| event % HUNDREDTH == HUNDREDTH - 1);
        let (name, account) = other.map_or(own, |other| (other, 0));
        let (id, account) = (format!("{name}{event}"), format!("{name}{account}"));
        let mut body = format!(
            r#"{{"id":"{id}","type":"{TYPE}","account_id":"{account}","occurred_at":"2026-11-23T10:00:00Z","data":{{"f":""#,
        );
        let end = "\"}}";
        let filler = self.bytes.saturating_sub(body.len() + end.len());
        body.extend(std::iter::repeat_n(char::from(FILLER), filler));
        body.push_str(end);
        Outgoing { id, account, body }
    }

    /// What a receiver is sent of such an event.
    pub fn sent_body(&self, settings: &Settings) -> anyhow::Result<bytes::Bytes> {
        let body = self.message(0).body;
        Ok(settings.events.parse(body.as_bytes(), &Properties::default(), jiff::Timestamp::now())?.body)
    }

    /// Publishes these events, all of them confirmed when it returns.
    pub async fn publish(&self, settings: &Settings, events: Range<u64>) -> anyhow::Result<()> {
        let publisher = Publisher::connect(&settings.amqp, &settings.queue).await?;
        let mut unconfirmed = FuturesUnordered::new();
        for event in events {
            let sent = self.message(event).send(&publisher, &settings.queue.events_exchange).await?;
            unconfirmed.push(sent.confirmed());
            if unconfirmed.len() >= UNCONFIRMED {
                unconfirmed.next().await.transpose()?;
            }
        }
        while let Some(confirmed) = unconfirmed.next().await {
            confirmed?;
        }
        publisher.close().await;
        Ok(())
    }

    /// Begins to publish so many events a second.
    pub fn on_schedule(self, settings: &Settings, per_second: u64, seconds: u64) -> OpenLoop {
        let (settings, handle) = (settings.clone(), Handle::current());
        let spacing = 1_000_000_000 / per_second.max(1);
        let count = per_second * seconds;
        // A thread of its own: timers of the runtime are coarser than the latencies to be measured.
        OpenLoop(tokio::task::spawn_blocking(move || self.keep_schedule(&settings, &handle, spacing, count)))
    }

    fn keep_schedule(self, settings: &Settings, handle: &Handle, spacing: u64, count: u64) -> anyhow::Result<Schedule> {
        let publisher = handle.block_on(Publisher::connect(&settings.amqp, &settings.queue))?;
        let (mut confirms, started, first) = (JoinSet::new(), Instant::now(), now());
        for event in 0..count {
            let due = Duration::from_nanos(event * spacing);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
            let sent = handle.block_on(self.message(event).send(&publisher, &settings.queue.events_exchange))?;
            confirms.spawn_on(sent.confirmed(), handle);
            while let Some(confirmed) = confirms.try_join_next() {
                confirmed??;
            }
        }
        while let Some(confirmed) = handle.block_on(confirms.join_next()) {
            confirmed??;
        }
        handle.block_on(publisher.close());
        Ok(Schedule { first, spacing, count })
    }
}

/// An event as it is published.
pub struct Outgoing {
    pub id: String,
    account: String,
    pub body: String,
}

impl Outgoing {
    async fn send(&self, publisher: &Publisher, exchange: &str) -> Result<Unconfirmed, PublishError> {
        let event = EventAddress { event_type: TYPE, id: &self.id, account: &self.account };
        publisher.send_event(exchange, event, self.body.as_bytes()).await
    }
}

/// Events that are being published on schedule.
pub struct OpenLoop(JoinHandle<anyhow::Result<Schedule>>);

/// When events were due to be published, by the clock of [`now`].
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    pub first: u64,
    spacing: u64,
    pub count: u64,
}

impl OpenLoop {
    pub async fn published(self) -> anyhow::Result<Schedule> {
        self.0.await?
    }
}

impl Schedule {
    /// Every event's time, without those of the warm-up.
    pub fn after(&self, warm_up: Duration) -> HashMap<u64, u64> {
        let due = |event: u64| (event, self.first + event * self.spacing);
        let warm = |(_, time): &(u64, u64)| u128::from(time - self.first) >= warm_up.as_nanos();
        (0..self.count).map(due).filter(warm).collect()
    }
}
