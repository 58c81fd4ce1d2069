//! Shows which webhooks of an account got an event, and how it stands with each. Checks a message before it is published.

use clap::Subcommand;
use comfy_table::Cell;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{CommandResult, Failure, account, check, event_id, output, store};
use crate::config::Settings;
use crate::delivery::ErrorDetail;
use crate::ids::{AccountId, DeliveryId, EventId, WebhookId};
use crate::store::{DeliveryRow, LogFilter, PageBounds, Scope, Store};
use crate::text::printable;

const SHOW_EXAMPLE: &str = "\
Example:
  penr-webhooks events show evt_01JD2Y --account acc_42";

const CHECK_EXAMPLES: &str = "\
Examples:
  cat event.json | penr-webhooks events check
  cat event.json | penr-webhooks events check --routing-key content.published --message-id evt_01JD2Y \\
    --timestamp 1795428000 --content-encoding utf-8";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show which webhooks got an event, and how it stands with each
    #[command(after_help = SHOW_EXAMPLE)]
    Show(Show),
    /// Say what a worker would do with the message on standard input, and to which webhooks it would go; publishes nothing
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Check),
}

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    outside: check::Outside,
    /// For those who name a file: it is answered by how to give one
    #[arg(hide = true)]
    file: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The event's id, as its publisher gave it, such as evt_01JD2Y
    #[arg(value_parser = event_id)]
    event_id: EventId,
    /// The account that the event belongs to, such as acc_42
    #[arg(long, value_parser = account)]
    account: AccountId,
}

/// The delivery of an event to one webhook.
#[derive(Debug, Serialize)]
struct Reached {
    webhook_id: Uuid,
    /// Null if the webhook was deleted.
    webhook_name: Option<String>,
    #[serde(flatten)]
    delivery: DeliveryRow,
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool) -> CommandResult {
    match command {
        Command::Show(arguments) => show(arguments, settings, json).await,
        Command::Check(Check { file: Some(file), .. }) if file != "-" => Err(Failure::Usage(
            "events check reads one message from standard input (<FILE): penr-webhooks publish --check FILE takes a file"
                .to_owned(),
        )),
        Command::Check(Check { outside, .. }) => check::message(&outside, settings, json).await,
    }
}

async fn show(Show { event_id, account }: Show, settings: &Settings, json: bool) -> CommandResult {
    let store = store(settings)?;
    let reached = reached(&store, &account, &event_id).await?;
    if reached.is_empty() {
        let none = format!(
            "no webhook of account {account} has a delivery of event {event_id}, as far as the log goes back: \
             `dead-letters list` shows whether a worker or the broker refused it, `events check` who would get it"
        );
        return Err(Failure::Failed(anyhow::anyhow!(none)));
    }
    if json {
        let (event_id, account) = (event_id.as_str(), account.as_str());
        return output::json(&json!({ "event_id": event_id, "account_id": account, "data": reached }));
    }
    print(&reached)
}

/// Also the webhooks that were deleted since, as long as a log row or a delivery of theirs is kept together with its event.
async fn reached(store: &Store, account: &AccountId, event: &EventId) -> Result<Vec<Reached>, Failure> {
    let webhooks = store.list_webhooks(account, None, u32::MAX).await?;
    let mut reached = Vec::new();
    for id in store.webhooks_with_traces(account).await? {
        let delivery = Some(DeliveryId::of(WebhookId(id), event));
        let filter = LogFilter { delivery, ..LogFilter::default() };
        let bounds = PageBounds { rows: 1, until: None };
        let found = store.deliveries(Scope::Everyone, WebhookId(id), &filter, None, bounds).await?;
        let Some(delivery) = found.and_then(|page| page.rows.into_iter().next()) else { continue };
        let webhook = webhooks.iter().find(|webhook| webhook.id.0 == id);
        reached.push(Reached { webhook_id: id, webhook_name: webhook.map(|webhook| webhook.name.clone()), delivery });
    }
    Ok(reached)
}

fn print(reached: &[Reached]) -> CommandResult {
    let header = ["WEBHOOK", "NAME", "STATE", "ATTEMPTS", "HTTP", "ERROR", "CREATED (UTC)", "NEXT (UTC)", "DELIVERY"];
    let mut table = output::table(header);
    for Reached { webhook_id, webhook_name, delivery } in reached {
        let name = webhook_name.as_deref().map_or_else(|| "(deleted)".to_owned(), |name| printable(name, usize::MAX));
        table.add_row([
            Cell::new(webhook_id),
            Cell::new(name),
            Cell::new(delivery.state.as_str()),
            Cell::new(delivery.attempts_made),
            Cell::new(delivery.last_http_status.map_or_else(String::new, |status| status.to_string())),
            Cell::new(output::cause(
                delivery.last_error.as_deref(),
                delivery.last_error_detail.map(ErrorDetail::as_str),
            )),
            Cell::new(output::short(delivery.created_at)),
            Cell::new(delivery.next_attempt_at.map_or_else(String::new, output::short)),
            Cell::new(delivery.delivery_id),
        ]);
    }
    output::keep_whole(&mut table, 0);
    output::show(&table)
}
