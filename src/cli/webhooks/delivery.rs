//! Shows one delivery whole: how it stands, every attempt, and what was sent.

use super::{id, recover, unknown};
use crate::cli::{CommandResult, Failure, output};
use crate::config::Settings;
use crate::ids::{DeliveryId, WebhookId};
use crate::store::{Scope, Store};
use crate::text::printable;
use crate::whole_delivery::{DeliveryRefusal, WholeDelivery};

pub(super) const EXAMPLE: &str = "\
Example:
  penr-webhooks webhooks delivery 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f 5f0c3b9a-1d2e-5f3a-8b4c-6d7e8f9a0b1c";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Delivery {
    /// The webhook's id, as `webhooks list` shows it
    #[arg(value_parser = id)]
    id: WebhookId,
    /// The delivery's id, as `webhooks log` shows it
    #[arg(value_parser = recover::delivery_id)]
    delivery_id: DeliveryId,
}

pub(super) async fn show(store: &Store, settings: &Settings, arguments: Delivery, json: bool) -> CommandResult {
    let Delivery { id, delivery_id } = arguments;
    let read = WholeDelivery::read(store, Some(settings.keyring()?), Scope::Everyone, id, delivery_id).await;
    let delivery = read.map_err(|refused| match refused {
        DeliveryRefusal::UnknownWebhook => unknown(id),
        DeliveryRefusal::NothingLeft => Failure::Failed(anyhow::Error::from(refused)),
        DeliveryRefusal::Store(error) => error.into(),
    })?;
    if json { output::json(&delivery) } else { print(&delivery) }
}

fn print(delivery: &WholeDelivery) -> CommandResult {
    let missing = "no longer kept";
    output::line(format_args!("delivery:      {}", delivery.id))?;
    output::line(format_args!("event:         {}", delivery.event_id.as_deref().unwrap_or(missing)))?;
    output::line(format_args!("event type:    {}", delivery.event_type.as_deref().unwrap_or(missing)))?;
    output::line(format_args!("state:         {}", delivery.state.as_str()))?;
    output::line(format_args!("attempts made: {}", delivery.attempts_made))?;
    output::line(format_args!("created:       {} UTC", output::short(delivery.created_at)))?;
    if let Some(next) = delivery.next_attempt_at {
        output::line(format_args!("next attempt:  {} UTC", output::short(next)))?;
    }
    output::line("\nattempts, newest first:")?;
    output::log(&delivery.attempts)?;
    if let Some(last) = delivery.attempts.first() {
        output::answer(last)?;
    }
    if let Some(headers) = &delivery.request_headers {
        output::line("\nrequest headers of the last attempt:")?;
        headers.iter().try_for_each(|(name, value)| output::line(format_args!("{name}: {value}")))?;
    }
    output::line("\npayload:")?;
    // JSON of one line, as it is sent.
    output::line(delivery.payload.as_deref().map_or_else(|| missing.to_owned(), |body| printable(body, usize::MAX)))
}
