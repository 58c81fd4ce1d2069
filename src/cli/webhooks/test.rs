//! Sends a test event, as a customer does with the page.

use anyhow::anyhow;

use super::{id, inactive, unknown};
use crate::advice;
use crate::cli::{CommandResult, Failure, nearest, output, publish};
use crate::config::Settings;
use crate::event::EventData;
use crate::ids::WebhookId;
use crate::sender::Sender;
use crate::store::{Scope, Store};
use crate::test_send::{Prepared, TestRefusal, TestWish};

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks webhooks test 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f
  penr-webhooks webhooks test 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --event-type content.published
  penr-webhooks webhooks test 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --data '{\"title\":\"Hello\"}'";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Test {
    /// The webhook's id, as `webhooks list` shows it
    #[arg(value_parser = id)]
    id: WebhookId,
    /// The type of the test event, such as content.published; the webhook's first unless given
    #[arg(long)]
    event_type: Option<String>,
    /// Its data, sent as it is written: JSON such as '{"title":"Hello"}', or @FILE with JSON in it; the type's example unless given
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
}

pub(super) async fn send(
    store: &Store,
    settings: &Settings,
    Test { id, event_type, data }: Test,
    json: bool,
) -> CommandResult {
    let event_type = event_type.map(|name| nearest::event_type(&name, &settings.events.catalogue)).transpose()?;
    let data = data.map(|argument| read(&argument)).transpose()?;
    let sender = Sender::new(&settings.sender).map_err(anyhow::Error::from)?;
    let wish = TestWish { catalogue: &settings.events.catalogue, event_type, data };
    let prepared = Prepared::read(store, settings.keyring()?, Scope::Everyone, id, wish).await;
    let prepared = prepared.map_err(|refused| failure(id, refused))?;
    let placed = prepared.take_place(store, settings.sender.max_per_second).await;
    let prepared = placed.map_err(|refused| failure(id, refused))?;
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

fn read(argument: &str) -> Result<EventData, Failure> {
    let refused = |refusal| Failure::Usage(format!("--data {refusal}"));
    EventData::parse(&publish::data_text(argument)?).map_err(refused)
}

fn failure(id: WebhookId, refused: TestRefusal) -> Failure {
    match refused {
        TestRefusal::Unknown => unknown(id),
        TestRefusal::Inactive(reason) => inactive(id, reason.as_deref()),
        TestRefusal::Held(since) => {
            let (since, refused) = (output::short(since), TestRefusal::Held(since));
            Failure::Failed(anyhow!("{refused} since {since} UTC: nothing is sent before its release"))
        }
        TestRefusal::OverPace(wait) => {
            let seconds = wait.as_secs() + 1;
            Failure::Failed(anyhow!("{refused}; try again in {seconds} s"))
        }
        TestRefusal::Store(error) => error.into(),
    }
}
