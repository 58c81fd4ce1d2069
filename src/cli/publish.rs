//! Publishes events, refusing what a worker would refuse.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt as _, StreamExt as _};
use indicatif::ProgressBar;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::signals::{SignalReceiver, Signals};
use super::{CommandResult, Failure, account, broker_address, nearest, output};
use crate::config::Settings;
use crate::event::Properties;
use crate::ids::AccountId;
use crate::queue::{EventAddress, PublishError, Publisher};

/// Events that were sent and are not confirmed yet, at most.
const UNCONFIRMED: usize = 256;

/// After a signal, how long to wait for the confirms of what was sent before it.
const LAST_CONFIRMS: Duration = Duration::from_secs(2);

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks publish --account acc_42 --type content.published --data '{\"title\":\"Hello\"}'
  penr-webhooks publish --account acc_42 --type content.published --data @event.json --id evt_01JD2Y
  penr-webhooks publish --account acc_42 --type content.published --count 1000";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The account that the event belongs to, such as acc_42
    #[arg(long, value_parser = account)]
    account: AccountId,
    /// The event type, such as content.published
    #[arg(long = "type")]
    event_type: String,
    /// JSON such as '{"title":"Hello"}', or @FILE with JSON in it
    #[arg(long, default_value = "{}")]
    data: String,
    /// The event's id, such as evt_01JD2Y; a fresh one unless given
    #[arg(long)]
    id: Option<String>,
    /// How many events to publish, each with an id of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
}

pub(super) async fn run(arguments: Arguments, settings: &Settings, json: bool, signals: &Signals) -> CommandResult {
    broker_address(settings)?;
    if arguments.id.is_some() && arguments.count > 1 {
        return Err(Failure::Usage("--id names one event, so --count cannot be more than 1".to_owned()));
    }
    nearest::event_type(&arguments.event_type, &settings.events.catalogue)?;
    let data = read_data(&arguments.data)?;
    let first = event(&arguments, &data, arguments.id.clone().unwrap_or_else(fresh_id));
    // Refused here, for a worker would make a dead letter of it.
    settings
        .events
        .parse(first.body.as_bytes(), &Properties::default(), jiff::Timestamp::now())
        .map_err(|malformed| Failure::Usage(format!("this is no event: {malformed}")))?;
    let publisher = Publisher::connect(&settings.amqp, &settings.queue).await?;
    let rest = (1..arguments.count).map(|_| event(&arguments, &data, fresh_id()));
    let events = std::iter::once(first).chain(rest);
    let mut publishing = Publishing { settings, arguments: &arguments, publisher: &publisher, ids: Vec::new() };
    // The `SignalReceiver` is dropped with this line: afterwards a signal ends the process at once again.
    let published = publishing.until_signal(events, &mut signals.receiver()?).await;
    let ids = publishing.ids;
    publisher.close().await;
    if let Some(code) = published? {
        let so_far = format!("{} of {} events were confirmed", ids.len(), arguments.count);
        return report(&ids, json).and(Err(Failure::Stopped(so_far, code)));
    }
    report(&ids, json)
}

fn report(ids: &[String], json: bool) -> CommandResult {
    if json {
        return output::json(&json!({ "published": ids.len(), "event_ids": ids }));
    }
    match ids {
        [id] => output::line(format_args!("published {id}")),
        all => output::line(format_args!("published {} events", all.len())),
    }
}

/// An event as it is published.
struct OutgoingEvent {
    id: String,
    body: String,
}

struct Publishing<'a> {
    settings: &'a Settings,
    arguments: &'a Arguments,
    publisher: &'a Publisher,
    /// The ids of the events that were confirmed.
    ids: Vec<String>,
}

/// Waits for an event's confirm; gives its id.
type Confirmed = BoxFuture<'static, Result<String, PublishError>>;

impl Publishing<'_> {
    /// Publishes all of them, or as many as are sent before a signal; then also returns the signal's exit code.
    async fn until_signal(
        &mut self,
        events: impl Iterator<Item = OutgoingEvent>,
        signal: &mut SignalReceiver,
    ) -> Result<Option<u8>, PublishError> {
        let progress = output::progress(u64::from(self.arguments.count));
        let mut unconfirmed = FuturesOrdered::new();
        let code = tokio::select! {
            biased;
            code = signal.first() => code,
            published = self.publish(events, &mut unconfirmed, &progress) => {
                progress.finish_and_clear();
                return published.map(|()| None);
            }
        };
        let last = async {
            while let Some(id) = unconfirmed.next().await {
                self.ids.push(id?);
            }
            Ok(())
        };
        let confirmed = timeout(LAST_CONFIRMS, last).await;
        progress.finish_and_clear();
        confirmed.unwrap_or(Ok(())).map(|()| Some(code))
    }

    async fn publish(
        &mut self,
        events: impl Iterator<Item = OutgoingEvent>,
        unconfirmed: &mut FuturesOrdered<Confirmed>,
        progress: &ProgressBar,
    ) -> Result<(), PublishError> {
        let (exchange, event_type) = (&self.settings.queue.events_exchange, &self.arguments.event_type);
        for OutgoingEvent { id, body } in events {
            let event = EventAddress { event_type, id: &id, account: self.arguments.account.as_str() };
            let sent = self.publisher.send_event(exchange, event, body.as_bytes()).await?;
            unconfirmed.push_back(async move { sent.confirmed().await.map(|()| id) }.boxed());
            if unconfirmed.len() >= UNCONFIRMED {
                self.confirm_next(unconfirmed, progress).await?;
            }
        }
        while !unconfirmed.is_empty() {
            self.confirm_next(unconfirmed, progress).await?;
        }
        Ok(())
    }

    async fn confirm_next(
        &mut self,
        unconfirmed: &mut FuturesOrdered<Confirmed>,
        progress: &ProgressBar,
    ) -> Result<(), PublishError> {
        if let Some(id) = unconfirmed.next().await {
            self.ids.push(id?);
            progress.inc(1);
        }
        Ok(())
    }
}

/// The text of `--data`: the argument itself, or what the file holds that it names with an `@`.
pub(super) fn data_text(argument: &str) -> Result<String, Failure> {
    match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::Usage(format!("--data: {path} cannot be read: {error}"))),
        None => Ok(argument.to_owned()),
    }
}

fn read_data(argument: &str) -> Result<Box<RawValue>, Failure> {
    serde_json::from_str(&data_text(argument)?).map_err(|error| Failure::Usage(format!("--data is not JSON: {error}")))
}

fn fresh_id() -> String {
    format!("evt_{}", uuid::Uuid::now_v7().simple())
}

/// The event, with the data byte for byte as it was given.
fn event(arguments: &Arguments, data: &RawValue, id: String) -> OutgoingEvent {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let body = format!(
        r#"{{"id":{},"type":{},"account_id":{},"occurred_at":"{:.3}","data":{}}}"#,
        text(&id),
        text(&arguments.event_type),
        text(arguments.account.as_str()),
        jiff::Timestamp::now(),
        data.get()
    );
    OutgoingEvent { id, body }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Queue(error) => error.into(),
            error => Self::Failed(error.into()),
        }
    }
}
