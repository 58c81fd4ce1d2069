//! Sends deliveries again: one, or all that were closed. Safe to interrupt and to repeat.

use anyhow::anyhow;
use jiff::Timestamp;
use serde_json::json;

use super::{id, inactive, unknown};
use crate::cli::signals::Signals;
use crate::cli::{CommandResult, Failure, output, times};
use crate::ids::{DeliveryId, WebhookId};
use crate::store::{ClosedSpan, RecoverError, RecoverySpan, Scope, Store};

pub(super) const RESEND_EXAMPLES: &str = "\
Example:
  penr-webhooks webhooks resend 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f 5f0c3b9a-1d2e-5f3a-8b4c-6d7e8f9a0b1c";

pub(super) const RECOVER_EXAMPLES: &str = "\
Examples:
  penr-webhooks webhooks recover 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --since 2h --dry-run
  penr-webhooks webhooks recover 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --since 2026-11-23T10:00:00Z \\
      --until 2026-11-23T11:00:00Z";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Resend {
    /// The webhook's id, as `webhooks list` shows it
    #[arg(value_parser = id)]
    id: WebhookId,
    /// The delivery's id, as `webhooks log` shows it
    #[arg(value_parser = delivery_id)]
    delivery_id: DeliveryId,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Recover {
    /// The webhook's id, as `webhooks list` shows it
    #[arg(value_parser = id)]
    id: WebhookId,
    /// Those closed at this time or later: 2026-11-23T10:00:00Z, or so long ago: 2h
    #[arg(long, value_name = "TIME", value_parser = times::since)]
    since: RecoverySpan,
    /// Only those closed before this time: 2026-11-23T11:00:00Z, or so long ago: 1h
    #[arg(long, value_name = "TIME", value_parser = times::time)]
    until: Option<Timestamp>,
    /// Only count them, and send nothing
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
    Recover { id, since, until, dry_run }: Recover,
    rate: u32,
    json: bool,
    signals: &Signals,
) -> CommandResult {
    let since = span(since, until)?;
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

/// With an end, how long ago the beginning was is counted by this machine's clock, as for the end.
fn span(since: RecoverySpan, until: Option<Timestamp>) -> Result<RecoverySpan, Failure> {
    let Some(until) = until else { return Ok(since) };
    let since = match since {
        RecoverySpan::Since(time) | RecoverySpan::Between(time, _) => time,
        RecoverySpan::Ago(ago) => times::ago(ago),
    };
    let later = || Failure::Usage("--until must be later than --since".to_owned());
    RecoverySpan::between(since, until).ok_or_else(later)
}

fn report(done: &str, count: u64, closed: &ClosedSpan, json: bool) -> CommandResult {
    if json {
        return output::json(&json!({ "recovering": count, "not_recoverable": closed.dropped }));
    }
    output::line(format_args!("{done} {}", output::deliveries(count)))?;
    if closed.dropped > 0 {
        let dropped = output::deliveries(closed.dropped);
        output::line(format_args!("not recoverable, for their events are no longer kept: {dropped}"))?;
    }
    Ok(())
}

fn failure(id: WebhookId, refused: RecoverError) -> Failure {
    Failure::Failed(match refused {
        RecoverError::Store(error) => return error.into(),
        RecoverError::UnknownWebhook => return unknown(id),
        RecoverError::Off => return inactive(id, None),
        RecoverError::Disabled(reason) => return inactive(id, Some(&reason)),
        RecoverError::UnknownDelivery => anyhow!("webhook {id} has no such delivery"),
        RecoverError::EventDropped => anyhow!("the delivery's event is no longer kept"),
    })
}

/// Parses a delivery's id, for clap.
pub(super) fn delivery_id(text: &str) -> Result<DeliveryId, String> {
    let id = text.parse().map(DeliveryId);
    id.map_err(|_| "a delivery's id is a UUID, as `webhooks log` shows it".to_owned())
}
