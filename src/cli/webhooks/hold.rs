//! Holds what is sent to webhooks, releases it, and lists what is held.

use std::borrow::Cow;

use anyhow::anyhow;
use comfy_table::Cell;
use serde::Serialize;

use super::{find, id, unknown};
use crate::cli::{CommandResult, Failure, account, output};
use crate::hold::{Held, Hold, HoldReason};
use crate::ids::{AccountId, WebhookId};
use crate::store::Store;
use crate::text::printable;
use crate::timestamps::{optional_rfc3339, rfc3339};

pub(super) const HOLD_EXAMPLES: &str = "\
Examples:
  penr-webhooks webhooks hold 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --reason maintenance
  penr-webhooks webhooks hold --account acc_42
  penr-webhooks webhooks hold --all --reason upgrade";

pub(super) const RELEASE_EXAMPLES: &str = "\
Examples:
  penr-webhooks webhooks release 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f
  penr-webhooks webhooks release --account acc_42
  penr-webhooks webhooks release --all";

pub(super) const LIST_EXAMPLE: &str = "\
Example:
  penr-webhooks webhooks holds";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct HoldArguments {
    #[command(flatten)]
    what: What,
    /// Why, for other operators: 1 to 200 characters
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<HoldReason>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct What {
    /// The webhook's id, as `webhooks list` shows it
    #[arg(value_parser = id)]
    id: Option<WebhookId>,
    /// All webhooks of this account, those made later too
    #[arg(long, value_parser = account)]
    account: Option<AccountId>,
    /// All webhooks: while they are held, workers take no events from the broker either
    #[arg(long)]
    all: bool,
}

impl What {
    fn held(self) -> Held {
        match (self.id, self.account) {
            (Some(webhook), _) => Held::Webhook(webhook),
            (None, Some(account)) => Held::Account(account),
            (None, None) => Held::All,
        }
    }
}

/// A hold as JSON has it.
#[derive(Serialize)]
pub(in crate::cli) struct Shown<'a> {
    webhook_id: Option<WebhookId>,
    account_id: Option<&'a str>,
    /// Everything is held: both ids are null.
    all: bool,
    #[serde(serialize_with = "rfc3339")]
    since: jiff::Timestamp,
    reason: Option<&'a str>,
    /// When its release began; null if it has not.
    #[serde(serialize_with = "optional_rfc3339")]
    released_at: Option<jiff::Timestamp>,
}

impl<'a> From<&'a Hold> for Shown<'a> {
    fn from(hold: &'a Hold) -> Self {
        let (webhook_id, account_id) = match &hold.held {
            Held::Webhook(webhook) => (Some(*webhook), None),
            Held::Account(account) => (None, Some(account.as_str())),
            Held::All => (None, None),
        };
        Self {
            webhook_id,
            account_id,
            all: hold.held == Held::All,
            since: hold.since,
            reason: hold.reason.as_deref(),
            released_at: hold.release.map(|release| release.at),
        }
    }
}

pub(super) async fn hold(store: &Store, HoldArguments { what, reason }: HoldArguments, json: bool) -> CommandResult {
    let held = what.held();
    let Some(hold) = store.hold(&held, reason.as_ref()).await? else {
        return Err(match held {
            Held::Webhook(id) => unknown(id),
            Held::Account(_) | Held::All => Failure::Failed(anyhow!("nothing was held")),
        });
    };
    if json {
        return output::json(&Shown::from(&hold));
    }
    let (what, since) = (name(&held), output::short(hold.since));
    output::line(format_args!(
        "held since {since} UTC: {what}. Nothing is sent, everything is kept. To send it: webhooks release {}",
        argument(&held)
    ))
}

pub(super) async fn release(store: &Store, what: What, rate: u32, json: bool) -> CommandResult {
    let held = what.held();
    let Some(released) = store.release_hold(&held).await? else { return Err(not_held(store, &held).await?) };
    if json {
        return output::json(&Shown::from(&released));
    }
    let what = name(&held);
    output::line(format_args!("released: {what}. The workers send what waits, to each webhook {rate} a second"))?;
    if let Held::Webhook(id) = held {
        for other in others(store, id).await? {
            output::line(format_args!("it stays held: there is a hold of {} too", name(&other.held)))?;
        }
    }
    Ok(())
}

/// Why nothing was released.
async fn not_held(store: &Store, held: &Held) -> Result<Failure, Failure> {
    let what = name(held);
    let Held::Webhook(id) = held else { return Ok(Failure::Failed(anyhow!("not held: {what}"))) };
    let hint = others(store, *id).await?.first().map(|other| {
        format!(
            ", but there is a hold of {}. To release that: webhooks release {}",
            name(&other.held),
            argument(&other.held)
        )
    });
    Ok(Failure::Failed(anyhow!("not held by itself: {what}{}", hint.unwrap_or_default())))
}

/// The holds of the webhook's account and of everything.
async fn others(store: &Store, webhook: WebhookId) -> Result<Vec<Hold>, Failure> {
    let account = Held::Account(find(store, webhook).await?.account_id);
    let mut holds = store.holds().await?;
    holds.retain(|hold| hold.release.is_none() && (hold.held == Held::All || hold.held == account));
    Ok(holds)
}

pub(super) async fn list(store: &Store, json: bool) -> CommandResult {
    let holds = store.holds().await?;
    if json {
        let shown: Vec<Shown<'_>> = holds.iter().map(Shown::from).collect();
        return output::json(&serde_json::json!({ "data": shown }));
    }
    let mut table = output::table(["HELD", "SINCE (UTC)", "STATE", "REASON"]);
    for hold in &holds {
        table.add_row([
            Cell::new(name(&hold.held)),
            Cell::new(output::short(hold.since)),
            Cell::new(if hold.release.is_some() { "being released" } else { "held" }),
            Cell::new(hold.reason.as_deref().map(|reason| printable(reason, usize::MAX)).unwrap_or_default()),
        ]);
    }
    output::keep_whole(&mut table, 0);
    output::show(&table)
}

/// What is held, in words.
pub(in crate::cli) fn name(held: &Held) -> Cow<'static, str> {
    match held {
        Held::Webhook(id) => format!("webhook {id}").into(),
        Held::Account(account) => format!("account {}", account.as_str()).into(),
        Held::All => "all webhooks".into(),
    }
}

/// As the commands name it.
fn argument(held: &Held) -> Cow<'static, str> {
    match held {
        Held::Webhook(id) => id.to_string().into(),
        Held::Account(account) => format!("--account {}", quoted(account.as_str())).into(),
        Held::All => "--all".into(),
    }
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:@".contains(&byte);
    match text.bytes().all(is_plain) {
        true => text.into(),
        false => format!("'{}'", text.replace('\'', "'\\''")).into(),
    }
}

/// Parses a reason, for clap.
fn reason(text: &str) -> Result<HoldReason, String> {
    let refusal = "a reason has 1 to 200 characters, at least one of them visible, and no control characters";
    HoldReason::parse(text).ok_or_else(|| refusal.to_owned())
}
