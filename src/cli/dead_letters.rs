//! Shows dead letters and unrouted events, sends them to the workers again, or removes them.

use clap::Subcommand;

use self::pass::{Fate, Pass, Selection};
use super::signals::Signals;
use super::{CommandResult, broker_address};
use crate::config::Settings;
use crate::queue::Publisher;

mod listing;
mod look;
mod pass;
mod row;
mod why;

const LIST_EXAMPLES: &str = "\
Examples:
  penr-webhooks dead-letters list
  penr-webhooks dead-letters list --limit 1000 --show";

const REQUEUE_EXAMPLES: &str = "\
Examples:
  penr-webhooks dead-letters requeue evt_01JD2Y
  penr-webhooks dead-letters requeue --reason unknown_type
  penr-webhooks dead-letters requeue --all";

const DISCARD_EXAMPLES: &str = "\
Examples:
  penr-webhooks dead-letters discard evt_01JD2Y
  penr-webhooks dead-letters discard --unreadable";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the oldest, each with the reason it would be refused for now; and events that no queue took
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Show so many at most, such as 1000; and as many unrouted events
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Print their payload too, which may be a customer's data
        #[arg(long)]
        show: bool,
    },
    /// Send them to the workers again; one that is still no event comes back once
    #[command(after_help = REQUEUE_EXAMPLES)]
    Requeue(Requeued),
    /// Remove them for good
    #[command(after_help = DISCARD_EXAMPLES)]
    Discard(Discarded),
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Requeued {
    /// The id of one, as `list` shows it
    id: Option<String>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// All of one reason, as `list` shows it, such as unknown_type
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Discarded {
    /// The id of one, as `list` shows it
    id: Option<String>,
    /// One of those whose properties cannot be read
    #[arg(long)]
    unreadable: bool,
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool, signals: &Signals) -> CommandResult {
    broker_address(settings)?;
    match command {
        Command::List { limit, show } => listing::print(settings, limit, show, json).await,
        Command::Requeue(Requeued { id, reason, .. }) => {
            let selection = match (id, reason) {
                (Some(id), _) => Selection::Id(id),
                (None, Some(reason)) => Selection::Reason(reason),
                (None, None) => Selection::All,
            };
            let publisher = Publisher::connect(&settings.amqp, &settings.queue).await?;
            Pass::new(settings, selection, Fate::Requeued(Box::new(publisher))).run(json, signals).await
        }
        Command::Discard(Discarded { id: Some(id), .. }) => {
            Pass::new(settings, Selection::Id(id), Fate::Discarded).run(json, signals).await
        }
        Command::Discard(Discarded { id: None, .. }) => {
            Pass::new(settings, Selection::OneUnreadable, Fate::Discarded).run(json, signals).await
        }
    }
}
