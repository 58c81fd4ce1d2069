//! Sends a test event, as a customer does with the page.

use anyhow::anyhow;

use super::{id, unknown};
use crate::advice;
use crate::cli::{CommandResult, Failure, output};
use crate::config::Settings;
use crate::ids::WebhookId;
use crate::sender::Sender;
use crate::store::{Scope, Store};
use crate::test_send::{Prepared, TestRefusal};
use crate::webhook::WebhookRefusal;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Test {
    #[arg(value_parser = id)]
    id: WebhookId,
    /// The webhook's first event type unless given
    #[arg(long)]
    event_type: Option<String>,
}

pub(super) async fn send(
    store: &Store,
    settings: &Settings,
    Test { id, event_type }: Test,
    json: bool,
) -> CommandResult {
    let known = |name: String| {
        let found = settings.events.catalogue.get(&name).cloned();
        found.ok_or(WebhookRefusal::UnknownEvent(name))
    };
    let event_type = event_type.map(known).transpose()?;
    let sender = Sender::new(&settings.sender).map_err(anyhow::Error::from)?;
    let prepared = Prepared::read(store, settings.keyring()?, Scope::Everyone, id, event_type).await;
    let prepared = prepared.map_err(|refused| failure(id, refused))?;
    let sent = prepared.send(&sender).await.record(store).await?;
    // What the receiver answered is the result, not a failure of this command.
    if json {
        return output::json(&sent);
    }
    output::log(std::slice::from_ref(&sent.row))?;
    let row = &sent.row;
    match advice::sentences(row.error.as_deref(), row.error_detail, row.http_status) {
        Some(advice) => output::line(advice),
        None => Ok(()),
    }
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
