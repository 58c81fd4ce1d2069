//! Registers and manages webhooks.

use clap::Subcommand;
use serde_json::{Value, json};

use super::signals::Signals;
use super::{CommandResult, Failure, account, output, store};
use crate::config::Settings;
use crate::ids::{AccountId, WebhookId};
use crate::secret::{Owner, SigningSecret};
use crate::store::{Changed, Deleted, LogFilter, NewSecret, NewWebhook, Replaced, Scope, Store, WebhookChange};
use crate::webhook::{Subscriptions, Webhook, WebhookName, WebhookRefusal, WebhookUrl};

mod recover;
mod test;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register a webhook and print it with its secret
    Create {
        #[arg(long, value_parser = account)]
        account: AccountId,
        #[arg(long)]
        name: String,
        #[arg(long)]
        url: String,
        /// Event types, comma-separated
        #[arg(long, value_delimiter = ',', required = true)]
        events: Vec<String>,
    },
    /// List an account's webhooks
    List {
        #[arg(long, value_parser = account)]
        account: AccountId,
    },
    /// Show one webhook
    Show {
        #[arg(value_parser = id)]
        id: WebhookId,
    },
    /// Change a webhook; switching it off cancels its pending deliveries
    Update {
        #[arg(value_parser = id)]
        id: WebhookId,
        #[command(flatten)]
        change: Change,
    },
    /// Delete a webhook and cancel its pending deliveries
    Delete {
        #[arg(value_parser = id)]
        id: WebhookId,
    },
    /// Print the signing secret
    Secret {
        #[arg(value_parser = id)]
        id: WebhookId,
        /// Replace it first; the old one stays valid beside it for 24 hours
        #[arg(long)]
        regenerate: bool,
    },
    /// Send a test event now, as a real one would be sent
    Test(test::Test),
    /// Show the newest attempts
    Log {
        #[arg(value_parser = id)]
        id: WebhookId,
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Send one delivery again, with its whole retry schedule
    Resend(recover::Resend),
    /// Send closed deliveries again, at a bounded rate; safe to interrupt and to repeat
    Recover(recover::Recover),
    /// Encrypt all secrets with the newest key; safe to interrupt and to repeat
    Reencrypt,
}

/// How long a replaced secret also signs.
const GRACE: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Webhooks whose secrets one statement encrypts anew.
const PAGE: i64 = 200;

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct Change {
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    url: Option<String>,
    /// Event types, comma-separated
    #[arg(long, value_delimiter = ',')]
    events: Option<Vec<String>>,
    #[arg(long)]
    active: Option<bool>,
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool, signals: &Signals) -> CommandResult {
    let store = store(settings)?;
    match command {
        Command::Create { account, name, url, events } => {
            let new = Registration::check(&name, &url, &events, settings)?;
            create(&store, settings, &account, &new, json).await
        }
        Command::List { account } => list(&store, &account, json).await,
        Command::Show { id } => show(&find(&store, id).await?, json),
        Command::Update { id, change } => update(&store, settings, id, &change, json).await,
        Command::Delete { id } => delete(&store, id, json).await,
        Command::Secret { id, regenerate } => secret(&store, settings, id, regenerate, json).await,
        Command::Log { id, limit } => log(&store, id, limit, json).await,
        Command::Test(arguments) => test::send(&store, settings, arguments, json).await,
        Command::Resend(arguments) => recover::resend(&store, arguments, json).await,
        Command::Recover(arguments) => recover::recover(&store, arguments, settings.recover.rate, json, signals).await,
        Command::Reencrypt => reencrypt(&store, settings, json).await,
    }
}

/// The checked fields of a new webhook.
struct Registration {
    name: WebhookName,
    url: WebhookUrl,
    events: Subscriptions,
}

impl Registration {
    fn check(name: &str, url: &str, events: &[String], settings: &Settings) -> Result<Self, WebhookRefusal> {
        Ok(Self {
            name: WebhookName::parse(name)?,
            url: WebhookUrl::parse(url, &settings.sender.urls)?,
            events: Subscriptions::parse(events, &settings.events.catalogue)?,
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

async fn list(store: &Store, account: &AccountId, json: bool) -> CommandResult {
    let webhooks = store.list_webhooks(account, None, u32::MAX).await?;
    if json {
        return output::json(&json!({ "data": webhooks }));
    }
    output::webhooks(&webhooks)
}

fn show(webhook: &Webhook, json: bool) -> CommandResult {
    if json {
        return output::json(webhook);
    }
    output::webhook(webhook)
}

async fn update(store: &Store, settings: &Settings, id: WebhookId, change: &Change, json: bool) -> CommandResult {
    let url = |url: &String| WebhookUrl::parse(url, &settings.sender.urls).map_err(WebhookRefusal::from);
    let events = |events: &Vec<String>| Subscriptions::parse(events, &settings.events.catalogue);
    let change = WebhookChange {
        name: change.name.as_deref().map(WebhookName::parse).transpose()?,
        url: change.url.as_ref().map(url).transpose()?,
        events: change.events.as_ref().map(events).transpose()?,
        active: change.active,
        ..WebhookChange::default()
    };
    match store.update_webhook(Scope::Everyone, id, &change).await? {
        Changed::Webhook(webhook) => show(&webhook, json),
        Changed::Unknown | Changed::Stale => Err(unknown(id)),
    }
}

async fn delete(store: &Store, id: WebhookId, json: bool) -> CommandResult {
    match store.delete_webhook(Scope::Everyone, id, None).await? {
        Deleted::Done => {}
        Deleted::Unknown | Deleted::Stale => return Err(unknown(id)),
    }
    if json {
        return output::json(&json!({ "deleted": id }));
    }
    output::line(format_args!("deleted {id}"))
}

async fn secret(store: &Store, settings: &Settings, id: WebhookId, regenerate: bool, json: bool) -> CommandResult {
    let keyring = settings.keyring()?;
    let secret = if regenerate {
        let account_id = find(store, id).await?.account_id;
        let owner = Owner { account_id: &account_id, webhook_id: id };
        let secret = SigningSecret::from_random(rand::random());
        let new = NewSecret { owner, secret: &secret, grace: GRACE };
        if !matches!(store.replace_secret(keyring, &new, None).await?, Replaced::Until(_)) {
            return Err(unknown(id));
        }
        secret
    } else {
        let secret = store.secret(keyring, Scope::Everyone, id).await?.ok_or_else(|| unknown(id))?;
        secret.map_err(anyhow::Error::from)?
    };
    if json {
        return output::json(&json!({ "secret": secret.expose() }));
    }
    output::line(secret.expose())
}

/// Also shows the log of a deleted webhook, until retention drops it.
async fn log(store: &Store, id: WebhookId, limit: u32, json: bool) -> CommandResult {
    let page = store.log(Scope::Everyone, id, &LogFilter::default(), limit).await?;
    let rows = page.map(|page| page.rows).unwrap_or_default();
    if rows.is_empty() {
        find(store, id).await?;
    }
    if json {
        return output::json(&json!({ "data": rows }));
    }
    output::log(&rows)
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
    let mut after = None;
    loop {
        let (kept, next) = store.reencrypt_answers(keyring, after, PAGE).await?;
        moved += kept;
        after = next;
        if after.is_none() {
            break;
        }
    }
    progress.finish_and_clear();
    if json {
        output::json(&json!({ "reencrypted": moved, "unreadable": unreadable, "key": keyring.newest_key_id() }))?;
    } else {
        output::line(format_args!("{moved} secrets moved to key {}", keyring.newest_key_id()))?;
    }
    match unreadable.first() {
        None => Ok(()),
        Some(first) => Err(Failure::Failed(anyhow::anyhow!(
            "{} secrets open with no key in security.encryption_keys, the first of webhook {first}",
            unreadable.len()
        ))),
    }
}

async fn find(store: &Store, id: WebhookId) -> Result<Webhook, Failure> {
    store.find_webhook(Scope::Everyone, id).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: WebhookId) -> Failure {
    Failure::Failed(anyhow::anyhow!("there is no webhook {id}"))
}

/// Parses a webhook's id, for clap.
fn id(text: &str) -> Result<WebhookId, String> {
    WebhookId::parse(text).ok_or_else(|| "a webhook's id is a UUID, as `webhooks list` shows it".to_owned())
}
