//! Changes and deletes webhooks. Before deliveries that wait are cancelled, the person at the terminal is asked.

use serde_json::json;

use super::headers_and_pace::{NewPace, changed_headers, new_pace, no_headers, refused};
use super::{find, id, show, unknown};
use crate::cli::{CommandResult, Failure, nearest, output, terminal};
use crate::config::Settings;
use crate::ids::WebhookId;
use crate::store::{Changed, Deleted, Scope, Store, WebhookChange};
use crate::webhook::{WebhookName, WebhookRefusal, WebhookUrl};

pub(super) const UPDATE_EXAMPLES: &str = "\
Examples:
  penr-webhooks webhooks update 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --name Blog --url https://example.com/hook
  penr-webhooks webhooks update 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --events content.created,content.published
  penr-webhooks webhooks update 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --active false --yes
  penr-webhooks webhooks update 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --headers headers.json --max-per-second 5
  penr-webhooks webhooks update 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --no-headers --max-per-second none";

pub(super) const DELETE_EXAMPLES: &str = "\
Example:
  penr-webhooks webhooks delete 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --yes";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Update {
    /// The webhook's id, as `webhooks list` shows it
    #[arg(value_parser = id)]
    id: WebhookId,
    #[command(flatten)]
    change: Change,
    /// Do not ask before deliveries that wait are cancelled
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// What its owner calls it, such as Blog
    #[arg(long)]
    name: Option<String>,
    /// Where to send events, such as https://example.com/hook
    #[arg(long)]
    url: Option<String>,
    /// Event types with a comma between them, such as content.created,content.published; they replace the ones it has
    #[arg(long, value_delimiter = ',')]
    events: Option<Vec<String>>,
    /// Whether events are sent to it; false cancels the deliveries that wait
    #[arg(long)]
    active: Option<bool>,
    /// A file with the headers that replace the ones it has, such as {"Authorization":"Bearer x","X-Team":null}, where null keeps the
    /// stored value; - reads standard input. No flag takes a value: other users of the machine could read it in `ps`, and it would
    /// stay in the shell's history
    #[arg(long, value_name = "FILE")]
    headers: Option<String>,
    /// Remove its headers
    #[arg(long, conflicts_with = "headers")]
    no_headers: bool,
    /// The most requests that it gets in a second, 1 to 1000, or none
    #[arg(long, value_name = "N", value_parser = new_pace)]
    max_per_second: Option<NewPace>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Delete {
    /// The webhook's id, as `webhooks list` shows it
    #[arg(value_parser = id)]
    id: WebhookId,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) async fn update(
    store: &Store,
    settings: &Settings,
    Update { id, change, yes }: Update,
    json: bool,
) -> CommandResult {
    let url = |url: &String| WebhookUrl::parse(url, &settings.sender.urls).map_err(WebhookRefusal::from);
    let events = |events: &Vec<String>| nearest::subscriptions(events, &settings.events.catalogue);
    let checked = WebhookChange {
        name: change.name.as_deref().map(WebhookName::parse).transpose()?,
        url: change.url.as_ref().map(url).transpose()?,
        events: change.events.as_ref().map(events).transpose()?,
        active: change.active,
        headers: match (&change.headers, change.no_headers) {
            (Some(argument), _) => Some(changed_headers(argument)?),
            (None, true) => Some(no_headers()?),
            (None, false) => None,
        },
        max_per_second: change.max_per_second.map(|NewPace(pace)| pace),
        ..WebhookChange::default()
    };
    if change.active == Some(false) && find(store, id).await?.active {
        cancel(store, id, "switches it off", yes).await?;
    }
    match store.update_webhook(settings.keyring()?, Scope::Everyone, id, &checked).await? {
        Changed::Webhook(webhook) => show(&webhook, json),
        Changed::Unknown | Changed::Stale => Err(unknown(id)),
        Changed::Refused(refusal) => Err(refused(refusal)),
        Changed::Unreadable(error) => Err(Failure::Failed(anyhow::Error::from(error))),
    }
}

pub(super) async fn delete(store: &Store, Delete { id, yes }: Delete, json: bool) -> CommandResult {
    find(store, id).await?;
    cancel(store, id, "deletes it for good", yes).await?;
    match store.delete_webhook(Scope::Everyone, id, None).await? {
        Deleted::Done => {}
        Deleted::Unknown | Deleted::Stale => return Err(unknown(id)),
    }
    if json {
        return output::json(&json!({ "deleted": id }));
    }
    output::line(format_args!("deleted {id}"))
}

/// Says on stderr how much waits, and asks on a terminal.
async fn cancel(store: &Store, id: WebhookId, does: &str, yes: bool) -> Result<(), Failure> {
    let waiting = output::deliveries(store.count_waiting(id).await?);
    output::complaint(format_args!("webhook {id}: this {does} and cancels what waits: {waiting}"));
    if yes { Ok(()) } else { terminal::confirm("Go on?") }
}
