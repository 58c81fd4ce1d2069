//! Publishes events, refusing what a worker would refuse.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueHint;

use self::made::Made;
use super::check::{self, Outside};
use super::signals::Signals;
use super::{CommandResult, Failure, account, broker_address, event_id};
use crate::config::Settings;
use crate::ids::{AccountId, EventId};
use crate::queue::PublishError;

mod made;
mod stream;
mod window;

/// After a signal, how long to wait for the confirms of what was sent before it.
const LAST_CONFIRMS: Duration = Duration::from_secs(2);

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks publish --account acc_42 --type content.published --data '{\"title\":\"Hello\"}'
  penr-webhooks publish --account acc_42 --type content.published --data @event.json --id evt_01JD2Y
  penr-webhooks publish --account acc_42 --type content.published --count 1000
Examples with whole events, one in a line, such as
{\"id\":\"evt_1\",\"type\":\"content.published\",\"account_id\":\"acc_42\",\"occurred_at\":\"2026-11-23T10:00:00Z\",\"data\":{}}:
  zcat events.jsonl.gz | penr-webhooks publish --stdin
  zcat events.jsonl.gz | penr-webhooks publish --stdin --after evt_01JD2Y
Examples that publish nothing:
  penr-webhooks publish --check events.jsonl
  penr-webhooks publish --check event.json --routing-key content.published --message-id evt_01JD2Y \\
    --timestamp 1795428000 --content-encoding utf-8";

/// The flags that events are made of. A flag that requires one that conflicts with these must itself conflict with them: else clap
/// does not miss the required one.
const OF_FLAGS: [&str; 5] = ["account", "event_type", "data", "id", "count"];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The account that the event belongs to, such as acc_42
    #[arg(long, value_parser = account, required_unless_present_any = ["stdin", "check"])]
    account: Option<AccountId>,
    /// The event type, such as content.published
    #[arg(long = "type", required_unless_present_any = ["stdin", "check"])]
    event_type: Option<String>,
    /// JSON such as '{"title":"Hello"}', or @FILE with JSON in it
    #[arg(long, default_value = "{}")]
    data: String,
    /// The event's id, such as evt_01JD2Y; a fresh one unless given
    #[arg(long)]
    id: Option<String>,
    /// How many events to publish, each with an id of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
    /// Publish the lines of standard input: each is a whole event in JSON with an id of its own, sent as it stands there. Ends
    /// at the first one that a worker would refuse, and always prints the last id up to which all are confirmed
    #[arg(long, conflicts_with_all = OF_FLAGS)]
    stdin: bool,
    /// Leave out the lines up to and with the event of this id: the last confirmed one of the run before
    #[arg(long, value_name = "ID", requires = "stdin", conflicts_with_all = OF_FLAGS, value_parser = event_id)]
    after: Option<EventId>,
    /// Publish nothing: say what a worker would do with the message in FILE, and to which webhooks it would go. FILE, or - for
    /// standard input, is one message if it is one JSON text or has no line that is a JSON object, without blanks before it; else
    /// a message in each line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = OF_FLAGS, conflicts_with_all = ["stdin", "after"])]
    check: Option<PathBuf>,
    #[command(flatten)]
    outside: Outside,
}

pub(super) async fn run(arguments: Arguments, settings: &Settings, json: bool, signals: &Signals) -> CommandResult {
    let Arguments { account, event_type, data, id, count, stdin, after, check, outside } = arguments;
    if let Some(path) = check {
        return check::file(&path, &outside, settings, json).await;
    }
    if outside != Outside::default() {
        let only = "--message-id, --timestamp, --content-encoding and --routing-key are for --check";
        return Err(Failure::Usage(only.to_owned()));
    }
    broker_address(settings)?;
    if stdin {
        return stream::publish(after, settings, json, signals).await;
    }
    let (account, event_type) = account.zip(event_type).expect("clap requires both");
    made::publish(&Made { account, event_type, data, id, count }, settings, json, signals).await
}

/// The text of `--data`: the argument itself, or what the file holds that it names with an `@`.
pub(super) fn data_text(argument: &str) -> Result<String, Failure> {
    match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::Usage(format!("--data: {path} cannot be read: {error}"))),
        None => Ok(argument.to_owned()),
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Queue(error) => error.into(),
            error => Self::Failed(error.into()),
        }
    }
}
