//! Sends deliveries again: one, or all that were closed. Safe to interrupt and to repeat.

use std::time::Duration;

use anyhow::anyhow;
use jiff::Timestamp;
use serde_json::json;

use super::{id, unknown};
use crate::cli::signals::Signals;
use crate::cli::{CommandResult, Failure, output};
use crate::ids::{DeliveryId, WebhookId};
use crate::store::{ClosedSpan, RecoverError, Scope, Since, Store};

/// Further back than any delivery is kept.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Resend {
    #[arg(value_parser = id)]
    id: WebhookId,
    /// As `webhooks log --json` shows it
    #[arg(value_parser = delivery_id)]
    delivery_id: DeliveryId,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Recover {
    #[arg(value_parser = id)]
    id: WebhookId,
    /// Those closed at this time or later: 2026-11-23T10:00:00Z, or so long ago: 2h
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Since,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn resend(store: &Store, Resend { id, delivery_id }: Resend, json: bool) -> CommandResult {
    store.resend(Scope::Everyone, id, delivery_id).await.map_err(|refused| failure(id, refused))?;
    if json {
        return output::json(&json!({ "resent": delivery_id.0 }));
    }
    output::line(format_args!("resending {}: its next attempt is due now", delivery_id.0))
}

pub(super) async fn recover(
    store: &Store,
    Recover { id, since, dry_run }: Recover,
    rate: u32,
    json: bool,
    signals: &Signals,
) -> CommandResult {
    let closed =
        store.count_closed(Scope::Everyone, id, since, i64::MAX).await.map_err(|refused| failure(id, refused))?;
    if dry_run {
        return report("would recover", closed.recoverable, &closed, json);
    }
    let mut signal = signals.receiver()?;
    let progress = output::progress(closed.recoverable);
    let mut recovering = 0;
    let recovered = store.recover(id, &closed, rate, |count| {
        recovering += count;
        progress.inc(count);
    });
    let (recovered, code) = tokio::select! {
        biased;
        // What is committed before the signal stays recovered.
        code = signal.first() => (Ok(()), Some(code)),
        recovered = recovered => (recovered, None),
    };
    // Afterwards a signal ends the process at once again.
    drop(signal);
    progress.finish_and_clear();
    if let Some(code) = code {
        let so_far = format!("{recovering} of {} are recovering", closed.recoverable);
        return report("recovering", recovering, &closed, json).and(Err(Failure::Stopped(so_far, code)));
    }
    match recovered {
        Ok(()) => report("recovering", recovering, &closed, json),
        Err(refused) if recovering == 0 => Err(failure(id, refused)),
        Err(refused) => {
            let so_far = format!("only {recovering} of {} are recovering", closed.recoverable);
            Err(match failure(id, refused) {
                Failure::Failed(error) => Failure::Failed(error.context(so_far)),
                other => other,
            })
        }
    }
}

fn report(done: &str, count: u64, closed: &ClosedSpan, json: bool) -> CommandResult {
    if json {
        return output::json(&json!({ "recovering": count, "not_recoverable": closed.dropped }));
    }
    output::line(format_args!("{done} {}", deliveries(count)))?;
    if closed.dropped > 0 {
        let dropped = deliveries(closed.dropped);
        output::line(format_args!("not recoverable, for their events are no longer kept: {dropped}"))?;
    }
    Ok(())
}

fn deliveries(count: u64) -> String {
    match count {
        1 => "1 delivery".to_owned(),
        count => format!("{count} deliveries"),
    }
}

fn failure(id: WebhookId, refused: RecoverError) -> Failure {
    let switch_on = format!("switch it on first: webhooks update {id} --active true");
    Failure::Failed(match refused {
        RecoverError::Store(error) => return error.into(),
        RecoverError::UnknownWebhook => return unknown(id),
        RecoverError::Off => anyhow!("webhook {id} is switched off; {switch_on}"),
        RecoverError::Disabled(reason) => anyhow!("webhook {id} was disabled ({reason}); {switch_on}"),
        RecoverError::UnknownDelivery => anyhow!("webhook {id} has no such delivery"),
        RecoverError::EventDropped => anyhow!("the delivery's event is no longer kept"),
    })
}

/// Parses a delivery's id, for clap.
fn delivery_id(text: &str) -> Result<DeliveryId, String> {
    let id = text.parse().map(DeliveryId);
    id.map_err(|_| "a delivery's id is a UUID, as `webhooks log --json` shows it".to_owned())
}

/// Parses a time, or how long ago it was, for clap.
fn since(text: &str) -> Result<Since, String> {
    let time = || text.parse::<Timestamp>().ok().map(Since::Time);
    let ago = || humantime::parse_duration(text).ok().filter(|ago| *ago <= LONGEST).map(Since::Ago);
    time()
        .or_else(ago)
        .ok_or_else(|| "give a time such as 2026-11-23T10:00:00Z, or how long ago, such as 2h".to_owned())
}
