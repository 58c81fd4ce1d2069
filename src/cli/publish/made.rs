//! Publishes events that are made from flags: one, or as many as asked, each with an id of its own.

use indicatif::ProgressBar;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::LAST_CONFIRMS;
use super::window::{Answer, Window};
use crate::cli::signals::{SignalReceiver, Signals};
use crate::cli::{CommandResult, Failure, nearest, output};
use crate::config::Settings;
use crate::event::Properties;
use crate::ids::AccountId;
use crate::queue::{EventAddress, PublishError, Publisher};

/// What the events have.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) account: AccountId,
    pub(super) event_type: String,
    /// JSON, or the name of a file behind an `@`.
    pub(super) data: String,
    /// That of the only event.
    pub(super) id: Option<String>,
    pub(super) count: u32,
}

pub(super) async fn publish(arguments: &Made, settings: &Settings, json: bool, signals: &Signals) -> CommandResult {
    if arguments.id.is_some() && arguments.count > 1 {
        return Err(Failure::Usage("--id names one event, so --count cannot be more than 1".to_owned()));
    }
    nearest::event_type(&arguments.event_type, &settings.events.catalogue)?;
    let data = read_data(&arguments.data)?;
    let first = event(arguments, &data, arguments.id.clone().unwrap_or_else(fresh_id));
    // Refused here, for a worker would make a dead letter of it.
    settings
        .events
        .parse(first.body.as_bytes(), &Properties::default(), jiff::Timestamp::now())
        .map_err(|malformed| Failure::Usage(format!("this is no event: {malformed}")))?;
    let publisher = Publisher::connect(&settings.amqp, &settings.queue).await?;
    let rest = (1..arguments.count).map(|_| event(arguments, &data, fresh_id()));
    let events = std::iter::once(first).chain(rest);
    let mut publishing = Publishing { settings, arguments, publisher: &publisher, ids: Vec::new() };
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
    arguments: &'a Made,
    publisher: &'a Publisher,
    /// The ids of the events that were confirmed.
    ids: Vec<String>,
}

impl Publishing<'_> {
    /// Publishes all of them, or as many as are sent before a signal; then also returns the signal's exit code.
    async fn until_signal(
        &mut self,
        events: impl Iterator<Item = OutgoingEvent>,
        signal: &mut SignalReceiver,
    ) -> Result<Option<u8>, PublishError> {
        let progress = output::progress(u64::from(self.arguments.count));
        let mut unconfirmed = Window::new();
        let code = tokio::select! {
            biased;
            code = signal.first() => code,
            published = self.publish(events, &mut unconfirmed, &progress) => {
                progress.finish_and_clear();
                return published.map(|()| None);
            }
        };
        let last = async {
            while let Some(answer) = unconfirmed.next().await {
                self.note(answer)?;
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
        unconfirmed: &mut Window<String>,
        progress: &ProgressBar,
    ) -> Result<(), PublishError> {
        let (exchange, event_type) = (&self.settings.queue.events_exchange, &self.arguments.event_type);
        for OutgoingEvent { id, body } in events {
            let event = EventAddress { event_type, id: &id, account: self.arguments.account.as_str() };
            let sent = self.publisher.send_event(exchange, event, body.as_bytes()).await?;
            unconfirmed.push(id.clone(), id, sent);
            if unconfirmed.is_full() {
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
        unconfirmed: &mut Window<String>,
        progress: &ProgressBar,
    ) -> Result<(), PublishError> {
        if let Some(answer) = unconfirmed.next().await {
            self.note(answer)?;
            progress.inc(1);
        }
        Ok(())
    }

    fn note(&mut self, (id, confirmed): Answer<String>) -> Result<(), PublishError> {
        confirmed.map(|()| self.ids.push(id))
    }
}

fn read_data(argument: &str) -> Result<Box<RawValue>, Failure> {
    serde_json::from_str(&super::data_text(argument)?)
        .map_err(|error| Failure::Usage(format!("--data is not JSON: {error}")))
}

fn fresh_id() -> String {
    format!("evt_{}", uuid::Uuid::now_v7().simple())
}

/// The event, with the data byte for byte as it was given.
fn event(arguments: &Made, data: &RawValue, id: String) -> OutgoingEvent {
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
