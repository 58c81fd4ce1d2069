//! Registers and manages webhooks.

use clap::Subcommand;
use serde_json::{Value, json};

use super::signals::Signals;
use super::{CommandResult, Failure, account, nearest, output, store};
use crate::config::Settings;
use crate::ids::{AccountId, WebhookId};
use crate::secret::SigningSecret;
use crate::store::{AnswerId, NewWebhook, Scope, Store};
use crate::webhook::{CustomHeaders, MaxPerSecond, Subscriptions, Webhook, WebhookName, WebhookRefusal, WebhookUrl};
use crate::webhook_activity::ListedWebhook;

mod change;
mod delivery;
mod headers_and_pace;
mod hold;
mod list;
mod log;
mod recover;
mod secret;
mod test;

pub(super) use hold::{Shown as ShownHold, name as held_name};

const CREATE_EXAMPLE: &str = "\
Examples:
  penr-webhooks webhooks create --account acc_42 --name Blog --url https://example.com/hook \\
      --events content.created,content.published
  penr-webhooks webhooks create --account acc_42 --name Blog --url https://example.com/hook \\
      --events content.created --headers headers.json --max-per-second 5";

const SHOW_EXAMPLE: &str = "\
Example:
  penr-webhooks webhooks show 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f";

const REENCRYPT_EXAMPLE: &str = "\
Example, after a key was put before the others in security.encryption_keys:
  penr-webhooks webhooks reencrypt";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register a webhook and print it with its secret
    #[command(after_help = CREATE_EXAMPLE)]
    Create {
        /// The account that it belongs to, such as acc_42
        #[arg(long, value_parser = account)]
        account: AccountId,
        /// What its owner calls it, such as Blog
        #[arg(long)]
        name: String,
        /// Where to send events, such as https://example.com/hook
        #[arg(long)]
        url: String,
        /// Event types with a comma between them, such as content.created,content.published
        #[arg(long, value_delimiter = ',', required = true)]
        events: Vec<String>,
        /// A file with headers for its requests, such as {"Authorization":"Bearer x"}; - reads standard input.
        /// No flag takes a value: other users of the machine could read it in `ps`, and it would stay in the shell's history
        #[arg(long, value_name = "FILE")]
        headers: Option<String>,
        /// The most requests that it gets in a second, 1 to 1000; as many as it takes unless given
        #[arg(long, value_name = "N", value_parser = headers_and_pace::pace)]
        max_per_second: Option<MaxPerSecond>,
    },
    /// List an account's webhooks, or those of all accounts
    #[command(after_help = list::EXAMPLES)]
    List(list::List),
    /// Show one webhook
    #[command(after_help = SHOW_EXAMPLE)]
    Show {
        /// The webhook's id, as `webhooks list` shows it
        #[arg(value_parser = id)]
        id: WebhookId,
    },
    /// Change a webhook; switching it off cancels its pending deliveries
    #[command(after_help = change::UPDATE_EXAMPLES)]
    Update(change::Update),
    /// Delete a webhook and cancel its pending deliveries
    #[command(after_help = change::DELETE_EXAMPLES)]
    Delete(change::Delete),
    /// Print the signing secret, replace it, or end the one before it
    #[command(after_help = secret::EXAMPLES)]
    Secret(secret::Secret),
    /// Send a test event now, as a real one would be sent; exit code 1 if the receiver did not take it
    #[command(after_help = test::EXAMPLES)]
    Test(test::Test),
    /// Show the newest attempts, or those that the flags choose
    #[command(after_help = log::EXAMPLES)]
    Log(log::Log),
    /// Show one delivery whole: its state, its attempts, and what was sent
    #[command(after_help = delivery::EXAMPLE)]
    Delivery(delivery::Delivery),
    /// Send one delivery again, with its whole retry schedule
    #[command(after_help = recover::RESEND_EXAMPLES)]
    Resend(recover::Resend),
    /// Send closed deliveries again, at a bounded rate; safe to interrupt and to repeat
    #[command(after_help = recover::RECOVER_EXAMPLES)]
    Recover(recover::Recover),
    /// Send nothing to a webhook, an account's webhooks, or all, and keep everything until the release
    #[command(after_help = hold::HOLD_EXAMPLES)]
    Hold(hold::HoldArguments),
    /// End a hold: what waits is sent at a bounded rate
    #[command(after_help = hold::RELEASE_EXAMPLES)]
    Release(hold::What),
    /// List what is held, since when, and why
    #[command(after_help = hold::LIST_EXAMPLE)]
    Holds,
    /// Encrypt all secrets and headers with the newest key; safe to interrupt and to repeat
    #[command(after_help = REENCRYPT_EXAMPLE)]
    Reencrypt,
}

/// Webhooks whose secrets one statement encrypts anew.
const PAGE: i64 = 200;

pub(super) async fn run(command: Command, settings: &Settings, json: bool, signals: &Signals) -> CommandResult {
    let store = store(settings)?;
    match command {
        Command::Create { account, name, url, events, headers, max_per_second } => {
            let headers = headers_and_pace::new_headers(headers.as_deref());
            let new = Registration {
                headers: headers?,
                max_per_second,
                ..Registration::check(&name, &url, &events, settings)?
            };
            create(&store, settings, &account, &new, json).await
        }
        Command::List(arguments) => list::show(&store, arguments, json).await,
        Command::Show { id } => show_with_activity(&store, id, json).await,
        Command::Update(arguments) => change::update(&store, settings, arguments, json).await,
        Command::Delete(arguments) => change::delete(&store, arguments, json).await,
        Command::Secret(arguments) => secret::run(&store, settings, arguments, json).await,
        Command::Log(arguments) => log::show(&store, settings, arguments, json).await,
        Command::Delivery(arguments) => delivery::show(&store, settings, arguments, json).await,
        Command::Test(arguments) => test::send(&store, settings, arguments, json).await,
        Command::Resend(arguments) => recover::resend(&store, arguments, json).await,
        Command::Recover(arguments) => recover::recover(&store, arguments, settings.recover.rate, json, signals).await,
        Command::Hold(arguments) => hold::hold(&store, arguments, json).await,
        Command::Release(what) => hold::release(&store, what, settings.recover.rate, json).await,
        Command::Holds => hold::list(&store, json).await,
        Command::Reencrypt => reencrypt(&store, settings, json).await,
    }
}

/// The checked fields of a new webhook.
struct Registration {
    name: WebhookName,
    url: WebhookUrl,
    events: Subscriptions,
    headers: CustomHeaders,
    max_per_second: Option<MaxPerSecond>,
}

impl Registration {
    fn check(name: &str, url: &str, events: &[String], settings: &Settings) -> Result<Self, Failure> {
        Ok(Self {
            name: WebhookName::parse(name)?,
            url: WebhookUrl::parse(url, &settings.sender.urls).map_err(WebhookRefusal::from)?,
            events: nearest::subscriptions(events, &settings.events.catalogue)?,
            headers: CustomHeaders::default(),
            max_per_second: None,
        })
    }
}

async fn create(
    store: &Store,
    settings: &Settings,
    account: &AccountId,
    new: &Registration,
    json: bool,
) -> CommandResult {
    let secret = SigningSecret::from_random(rand::random());
    let new = NewWebhook {
        id: WebhookId(uuid::Uuid::now_v7()),
        account_id: account,
        name: &new.name,
        url: &new.url,
        events: &new.events,
        secret: &secret,
        headers: &new.headers,
        max_per_second: new.max_per_second,
    };
    let webhook = store.create_webhook(settings.keyring()?, &new).await?;
    if json {
        let mut document = serde_json::to_value(&webhook).map_err(anyhow::Error::from)?;
        document["secret"] = Value::from(secret.expose());
        return output::json(&document);
    }
    output::webhook(&webhook)?;
    output::line(format_args!("secret: {}", secret.expose()))
}

async fn show_with_activity(store: &Store, id: WebhookId, json: bool) -> CommandResult {
    let webhook = find(store, id).await?;
    let activity = store.activity(&webhook.account_id, id).await?.ok_or_else(|| unknown(id))?;
    if json {
        return output::json(&ListedWebhook { webhook, activity: Some(activity.into()) });
    }
    output::webhook(&webhook)?;
    output::waiting(activity.waiting, webhook.max_per_second)
}

fn show(webhook: &Webhook, json: bool) -> CommandResult {
    if json {
        return output::json(webhook);
    }
    output::webhook(webhook)
}

async fn reencrypt(store: &Store, settings: &Settings, json: bool) -> CommandResult {
    let keyring = settings.keyring()?;
    let progress = output::progress(store.count_webhooks().await?);
    let (mut moved, mut raced, mut unreadable, mut after) = (0, 0, Vec::new(), None);
    loop {
        let page = store.reencrypt_page(keyring, after, PAGE).await?;
        moved += page.moved;
        raced += page.raced;
        unreadable.extend(page.unreadable);
        progress.inc(page.seen);
        after = page.next;
        if after.is_none() && std::mem::take(&mut raced) == 0 {
            break;
        }
        if after.is_none() {
            unreadable.clear();
        }
    }
    let (mut unreadable_answers, mut after) = (Vec::new(), None);
    loop {
        let page = store.reencrypt_answers(keyring, after.as_ref(), PAGE).await?;
        moved += page.moved;
        unreadable_answers.extend(page.unreadable);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    progress.finish_and_clear();
    let key = keyring.newest_key_id();
    if json {
        let shown = |id: &AnswerId| json!({ "account_id": id.account_id.as_str(), "key": id.key });
        let answers: Vec<Value> = unreadable_answers.iter().map(shown).collect();
        output::json(
            &json!({ "reencrypted": moved, "unreadable": unreadable, "unreadable_answers": answers, "key": key }),
        )?;
    } else {
        output::line(format_args!("{moved} secrets, headers and kept answers moved to key {key}"))?;
    }
    let left =
        |count, what, first| format!("{count} {what} open with no key in security.encryption_keys, the first {first}");
    let secrets =
        unreadable.first().map(|first| left(unreadable.len(), "secrets or headers", format!("of webhook {first}")));
    let answers =
        unreadable_answers.first().map(|first| left(unreadable_answers.len(), "kept answers", first.to_string()));
    match [secrets, answers].into_iter().flatten().collect::<Vec<_>>() {
        left if left.is_empty() => Ok(()),
        left => Err(Failure::Failed(anyhow::anyhow!(left.join("; ")))),
    }
}

async fn find(store: &Store, id: WebhookId) -> Result<Webhook, Failure> {
    store.find_webhook(Scope::Everyone, id).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: WebhookId) -> Failure {
    Failure::Failed(anyhow::anyhow!("there is no webhook {id}"))
}

/// The webhook takes no deliveries; with the reason if we disabled it.
fn inactive(id: WebhookId, reason: Option<&str>) -> Failure {
    let state = reason.map_or_else(|| "is switched off".to_owned(), |reason| format!("was disabled ({reason})"));
    let cure = format!("switch it on first: webhooks update {id} --active true");
    Failure::Failed(anyhow::anyhow!("webhook {id} {state}; {cure}"))
}

/// Parses a webhook's id, for clap.
fn id(text: &str) -> Result<WebhookId, String> {
    WebhookId::parse(text).ok_or_else(|| "a webhook's id is a UUID, as `webhooks list` shows it".to_owned())
}
