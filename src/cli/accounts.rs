//! Erases what is kept of an account. Safe to interrupt and to repeat.

use clap::Subcommand;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep_until};

use super::{CommandResult, Failure, account, output, store};
use crate::config::Settings;
use crate::ids::AccountId;
use crate::store::{Erased, Erasure, Store};

/// How long a worker may take to record the result of an attempt that has ended.
const RECORDING: Duration = Duration::from_secs(2);

const ERASE_EXAMPLES: &str = "\
Examples:
  penr-webhooks accounts erase acc_42
  penr-webhooks accounts erase acc_42 --yes";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Count what is kept of an account; with --yes, erase it for good
    #[command(after_help = ERASE_EXAMPLES)]
    Erase(Erase),
}

#[derive(Debug, clap::Args)]
pub(super) struct Erase {
    /// The account, such as acc_42
    #[arg(value_parser = account)]
    account: AccountId,
    /// Erase its webhooks, events, log rows, pending and closed deliveries, kept answers; without this flag they are only counted
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(Command::Erase(arguments): Command, settings: &Settings, json: bool) -> CommandResult {
    let (store, Erase { account, yes }) = (store(settings)?, arguments);
    if !yes {
        let webhooks = store.webhooks_with_traces(&account).await?;
        let found = Erased {
            webhooks: store.webhooks_of(&account).await?.len() as u64,
            ..store.erase_traces(&account, &webhooks, Erasure::Count).await?
        };
        return report(&account, found, false, json);
    }
    if !store.may_erase().await? {
        let owner = "run it as the owner of the tables, or grant this role DELETE on events and attempts";
        return Err(Failure::Failed(anyhow::anyhow!("this role may not delete events and log rows: {owner}")));
    }
    let erased = erase(&store, &account, settings.sender.timeout + settings.sender.body_timeout).await?;
    report(&account, erased, true, json)
}

/// Requests that are under way when the webhooks are switched off take `longest` at most. Their results are recorded
/// afterwards, so a second pass erases these. It waits also if the webhooks were off: an erasure that was interrupted may have
/// switched them off a moment ago. A third pass follows when no webhook is left: it erases what came later still, such as a
/// result that a slow database took long to record, and what belongs to a webhook that was made meanwhile.
async fn erase(store: &Store, account: &AccountId, longest: Duration) -> Result<Erased, Failure> {
    store.switch_all_off(account).await?;
    let recorded = Instant::now() + longest + RECORDING;
    let mut webhooks = store.webhooks_with_traces(account).await?;
    let mut erased = store.erase_traces(account, &webhooks, Erasure::Delete).await?;
    if !webhooks.is_empty() {
        sleep_until(recorded).await;
        erased = erased.with(store.erase_traces(account, &webhooks, Erasure::Delete).await?);
    }
    let deleted = store.delete_webhooks(account).await?;
    erased.webhooks = deleted.len() as u64;
    webhooks.extend(deleted);
    webhooks.sort_unstable();
    webhooks.dedup();
    Ok(erased.with(store.erase_traces(account, &webhooks, Erasure::Delete).await?))
}

fn report(account: &AccountId, found: Erased, erased: bool, json: bool) -> CommandResult {
    if json {
        return output::json(&json!({ "account_id": account.as_str(), "erased": erased, "rows": found }));
    }
    output::line(match erased {
        true => format!("erased of {account}:"),
        false => format!("kept of {account}:"),
    })?;
    let mut table = output::table(["ROWS", "OF"]);
    for (rows, of) in [
        (found.webhooks, "webhooks"),
        (found.events, "events"),
        (found.attempts, "log rows"),
        (found.pending_deliveries, "pending deliveries"),
        (found.closed_deliveries, "closed deliveries"),
        (found.kept_answers, "kept answers of the API"),
    ] {
        table.add_row([rows.to_string(), of.to_owned()]);
    }
    output::show(&table)?;
    match erased {
        true => Ok(()),
        false => output::line("nothing was erased: repeat the command with --yes"),
    }
}
