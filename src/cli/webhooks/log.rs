//! Shows the webhook log: the newest attempts, or those that flags choose.

use jiff::Timestamp;
use serde_json::json;

use super::{find, id};
use crate::cli::{CommandResult, Failure, event_id, nearest, output, times};
use crate::config::Settings;
use crate::ids::{DeliveryId, EventId, WebhookId};
use crate::store::{LogFilter, LogRow, LogSpan, LogStatus, Scope, Store};

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks webhooks log 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --limit 50
  penr-webhooks webhooks log 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --failed --since 2h
  penr-webhooks webhooks log 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --http-status 503
  penr-webhooks webhooks log 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --event evt_01JD2Y
  penr-webhooks webhooks log 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --type content.published \\
      --since 2026-11-23T10:00:00Z --until 2026-11-23T11:00:00Z";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Log {
    /// The webhook's id, as `webhooks list` shows it
    #[arg(value_parser = id)]
    id: WebhookId,
    /// Show so many attempts at most, such as 50
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only failed attempts
    #[arg(long)]
    failed: bool,
    /// Only attempts that were answered with this status, such as 503
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(100..=999))]
    http_status: Option<u16>,
    /// Only attempts for this event, such as evt_01JD2Y
    #[arg(long, value_name = "EVENT_ID", value_parser = event_id)]
    event: Option<EventId>,
    /// Only attempts for events of this type, such as content.published
    #[arg(long = "type", value_name = "EVENT_TYPE")]
    event_type: Option<String>,
    /// Only attempts made at this time or later: 2026-11-23T10:00:00Z, or so long ago: 2h
    #[arg(long, value_name = "TIME", value_parser = times::time)]
    since: Option<Timestamp>,
    /// Only attempts made before this time: 2026-11-23T11:00:00Z, or so long ago: 1h
    #[arg(long, value_name = "TIME", value_parser = times::time)]
    until: Option<Timestamp>,
}

/// Also shows the log of a deleted webhook, until retention drops it.
pub(super) async fn show(store: &Store, settings: &Settings, arguments: Log, json: bool) -> CommandResult {
    let known = |name: &str| nearest::event_type(name, &settings.events.catalogue);
    let event_type = arguments.event_type.as_deref().map(known).transpose()?;
    let filter = LogFilter {
        status: arguments.failed.then_some(LogStatus::Failed),
        event_type,
        http_status: arguments.http_status,
        delivery: arguments.event.as_ref().map(|event| DeliveryId::of(arguments.id, event)),
        span: LogSpan { from: arguments.since, to: arguments.until },
        ..LogFilter::default()
    };
    let rows = read(store, arguments.id, filter, arguments.limit).await?;
    if rows.is_empty() {
        let newest = store.log(Scope::Everyone, arguments.id, &LogFilter::default(), 1).await?;
        if newest.is_none_or(|page| page.rows.is_empty()) {
            find(store, arguments.id).await?;
        }
    }
    if json {
        return output::json(&json!({ "data": rows }));
    }
    output::log(&rows)
}

/// The newest attempts that the filter leaves. The store reads a bounded number of rows for each page, so a page may have fewer
/// than were wanted although there are more.
async fn read(store: &Store, id: WebhookId, mut filter: LogFilter, limit: u32) -> Result<Vec<LogRow>, Failure> {
    let (mut rows, limit) = (Vec::new(), limit as usize);
    while rows.len() < limit {
        let wanted = u32::try_from(limit - rows.len()).unwrap_or(u32::MAX);
        let Some(page) = store.log(Scope::Everyone, id, &filter, wanted).await? else { break };
        rows.extend(page.rows);
        filter.before = page.next;
        if filter.before.is_none() {
            break;
        }
    }
    Ok(rows)
}
