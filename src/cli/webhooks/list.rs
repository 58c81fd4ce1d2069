//! Lists webhooks: those of one account, or of all.

use serde_json::{Value, json};

use crate::cli::{CommandResult, account, output};
use crate::ids::AccountId;
use crate::store::{Position, Store};
use crate::webhook::Webhook;

/// Webhooks that one statement reads.
const PAGE: u32 = 1000;

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks webhooks list --account acc_42 --failing
  penr-webhooks webhooks list --all-accounts --failing";

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct List {
    /// The account, such as acc_42
    #[arg(long, value_parser = account, required_unless_present = "all_accounts")]
    account: Option<AccountId>,
    /// The webhooks of all accounts
    #[arg(long, conflicts_with = "account")]
    all_accounts: bool,
    /// Only webhooks that have failed for so long that the owner was told
    #[arg(long)]
    failing: bool,
}

pub(super) async fn show(store: &Store, List { account, failing, .. }: List, json: bool) -> CommandResult {
    let Some(account) = account else { return all(store, failing, json).await };
    let mut webhooks = store.list_webhooks(&account, None, u32::MAX).await?;
    webhooks.retain(|webhook| webhook.failing || !failing);
    if json {
        return output::json(&json!({ "data": webhooks }));
    }
    output::webhooks(&webhooks)
}

async fn all(store: &Store, only_failing: bool, json: bool) -> CommandResult {
    let (mut webhooks, mut after) = (Vec::new(), None);
    loop {
        let page = store.all_webhooks(only_failing, after, PAGE).await?;
        let last = page.last().map(|webhook| Position { time: webhook.created_at, id: webhook.id.0 });
        let is_full = page.len() == PAGE as usize;
        webhooks.extend(page);
        match last.filter(|_| is_full) {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    if json {
        let documents: Result<Vec<Value>, _> = webhooks.iter().map(with_account).collect();
        return output::json(&json!({ "data": documents.map_err(anyhow::Error::from)? }));
    }
    output::webhooks_of_all(&webhooks)
}

/// The webhook with its account, which customers are not shown.
fn with_account(webhook: &Webhook) -> serde_json::Result<Value> {
    let mut document = serde_json::to_value(webhook)?;
    document["account_id"] = webhook.account_id.as_str().into();
    Ok(document)
}
