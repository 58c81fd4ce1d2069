//! Publishes events, refusing what a worker would refuse.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Failure, Outcome, account, broker_address, output};
use crate::config::Settings;
use crate::event::{AccountId, Properties};
use crate::queue::{PublishError, Publisher};

/// Messages on their way to the broker at a time.
const UNCONFIRMED: usize = 256;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(long, value_parser = account)]
    account: AccountId,
    /// The event type
    #[arg(long = "type")]
    event_type: String,
    /// JSON, or @FILE with JSON in it
    #[arg(long, default_value = "{}")]
    data: String,
    /// The event's id; a fresh one unless given
    #[arg(long)]
    id: Option<String>,
    /// How many events to publish, each with an id of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
}

pub(super) async fn run(arguments: Arguments, settings: &Settings, json: bool) -> Outcome {
    broker_address(settings)?;
    if arguments.id.is_some() && arguments.count > 1 {
        return Err(Failure::Usage("--id names one event, so --count cannot be more than 1".to_owned()));
    }
    let data = read_data(&arguments.data)?;
    let first = message(&arguments, &data, arguments.id.clone().unwrap_or_else(fresh_id));
    // A worker would make a dead letter of it.
    settings
        .events
        .parse(first.body.as_bytes(), &Properties::default(), jiff::Timestamp::now())
        .map_err(|malformed| Failure::Usage(format!("this is no event: {malformed}")))?;
    let publisher = Publisher::connect(&settings.amqp, &settings.queue).await?;
    let rest = (1..arguments.count).map(|_| message(&arguments, &data, fresh_id()));
    let ids = publish_all(&publisher, settings, &arguments, std::iter::once(first).chain(rest)).await;
    publisher.close().await;
    let ids = ids?;
    if json {
        return output::json(&json!({ "published": ids.len(), "event_ids": ids }));
    }
    match &ids[..] {
        [id] => output::line(format_args!("published {id}")),
        all => output::line(format_args!("published {} events", all.len())),
    }
}

struct Message {
    id: String,
    body: String,
}

async fn publish_all(
    publisher: &Publisher,
    settings: &Settings,
    arguments: &Arguments,
    messages: impl Iterator<Item = Message>,
) -> Result<Vec<String>, PublishError> {
    let progress = output::progress(u64::from(arguments.count));
    let mut ids = Vec::new();
    let mut unconfirmed = FuturesUnordered::new();
    for message in messages {
        let exchange = &settings.queue.events_exchange;
        let sent = publisher.send(exchange, &arguments.event_type, &message.id, message.body.as_bytes()).await?;
        unconfirmed.push(sent.confirmed());
        ids.push(message.id);
        if unconfirmed.len() >= UNCONFIRMED {
            unconfirmed.next().await.transpose()?;
            progress.inc(1);
        }
    }
    while let Some(confirmed) = unconfirmed.next().await {
        confirmed?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(ids)
}

fn read_data(argument: &str) -> Result<Box<RawValue>, Failure> {
    let text = match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::Usage(format!("--data: {path} cannot be read: {error}")))?,
        None => argument.to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| Failure::Usage(format!("--data is not JSON: {error}")))
}

fn fresh_id() -> String {
    format!("evt_{}", uuid::Uuid::now_v7().simple())
}

/// The data goes out byte for byte.
fn message(arguments: &Arguments, data: &RawValue, id: String) -> Message {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let body = format!(
        r#"{{"id":{},"type":{},"account_id":{},"occurred_at":"{:.3}","data":{}}}"#,
        text(&id),
        text(&arguments.event_type),
        text(arguments.account.as_str()),
        jiff::Timestamp::now(),
        data.get()
    );
    Message { id, body }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Queue(error) => error.into(),
            error => Self::Failed(error.into()),
        }
    }
}
