//! Sends a test event, as a customer does with the page.

use anyhow::anyhow;

use super::{id, unknown};
use crate::advice;
use crate::cli::{CommandResult, Failure, nearest, output};
use crate::config::Settings;
use crate::ids::WebhookId;
use crate::sender::Sender;
use crate::store::{Scope, Store};
use crate::test_send::{Prepared, TestRefusal, TestWish};

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks webhooks test 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f
  penr-webhooks webhooks test 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --event-type content.published";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Test {
    /// The webhook's id, as `webhooks list` shows it
    #[arg(value_parser = id)]
    id: WebhookId,
    /// The type of the test event, such as content.published; the webhook's first unless given
    #[arg(long)]
    event_type: Option<String>,
}

pub(super) async fn send(
    store: &Store,
    settings: &Settings,
    Test { id, event_type }: Test,
    json: bool,
) -> CommandResult {
    let event_type = event_type.map(|name| nearest::event_type(&name, &settings.events.catalogue)).transpose()?;
    let sender = Sender::new(&settings.sender).map_err(anyhow::Error::from)?;
    let wish = TestWish { catalogue: &settings.events.catalogue, event_type, data: None };
    let prepared = Prepared::read(store, settings.keyring()?, Scope::Everyone, id, wish).await;
    let prepared = prepared.map_err(|refused| failure(id, refused))?;
    let sent = prepared.send(&sender).await.record(store).await?;
    match json {
        true => output::json(&sent)?,
        false => output::attempt(&sent.row)?,
    }
    let row = &sent.row;
    if row.error.is_none() {
        return Ok(());
    }
    let advice = advice::sentences(row.error.as_deref(), row.error_detail, row.http_status).unwrap_or_default();
    Err(Failure::Failed(anyhow!("the receiver did not take the test. {advice}")))
}

fn failure(id: WebhookId, refused: TestRefusal) -> Failure {
    let switch_on = format!("switch it on first: webhooks update {id} --active true");
    match refused {
        TestRefusal::Unknown => unknown(id),
        TestRefusal::Inactive(None) => Failure::Failed(anyhow!("webhook {id} is switched off; {switch_on}")),
        TestRefusal::Inactive(Some(reason)) => {
            Failure::Failed(anyhow!("webhook {id} was disabled ({reason}); {switch_on}"))
        }
        TestRefusal::Store(error) => error.into(),
    }
}
