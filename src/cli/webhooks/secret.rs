//! Shows and replaces a webhook's signing secret, and ends the one before it.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::{find, id, unknown};
use crate::cli::{CommandResult, output};
use crate::config::Settings;
use crate::ids::WebhookId;
use crate::secret::{LONGEST_GRACE, Owner, SigningSecret, parse_grace};
use crate::store::{NewSecret, Replaced, Scope, Store};

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks webhooks secret 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f
  penr-webhooks webhooks secret 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --regenerate --grace 30m
  penr-webhooks webhooks secret 01926f3e-8b5a-7c3d-9e1f-2a4b6c8d0e1f --end-previous";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Secret {
    /// The webhook's id, as `webhooks list` shows it
    #[arg(value_parser = id)]
    id: WebhookId,
    /// Replace it first; the old one stays valid beside it for 24 hours, or for --grace
    #[arg(long)]
    regenerate: bool,
    /// How long the old one stays valid, such as 30m: 0s to 24h; 0s if it has leaked
    #[arg(long, value_name = "DURATION", requires = "regenerate", value_parser = parse_grace)]
    grace: Option<Duration>,
    /// Sign with the newest secret alone from now on, and print none
    #[arg(long, conflicts_with = "regenerate")]
    end_previous: bool,
}

pub(super) async fn run(store: &Store, settings: &Settings, arguments: Secret, json: bool) -> CommandResult {
    let Secret { id, regenerate, grace, end_previous } = arguments;
    match (regenerate, end_previous) {
        (true, _) => replace(store, settings, id, grace.unwrap_or(LONGEST_GRACE), json).await,
        (_, true) => end(store, id, json).await,
        _ => show(store, settings, id, json).await,
    }
}

async fn show(store: &Store, settings: &Settings, id: WebhookId, json: bool) -> CommandResult {
    let secret = store.secret(settings.keyring()?, Scope::Everyone, id).await?.ok_or_else(|| unknown(id))?;
    let secret = secret.map_err(anyhow::Error::from)?;
    if json {
        return output::json(&json!({ "secret": secret.expose() }));
    }
    output::line(secret.expose())
}

async fn replace(store: &Store, settings: &Settings, id: WebhookId, grace: Duration, json: bool) -> CommandResult {
    let keyring = settings.keyring()?;
    let account_id = find(store, id).await?.account_id;
    let owner = Owner { account_id: &account_id, webhook_id: id };
    let secret = SigningSecret::from_random(rand::random());
    let new = NewSecret { owner, secret: &secret, grace };
    let Replaced::Until(until) = store.replace_secret(keyring, &new, None).await? else { return Err(unknown(id)) };
    if json {
        let until = format!("{until:.3}");
        return output::json(&json!({ "secret": secret.expose(), "previous_valid_until": until }));
    }
    output::line(secret.expose())?;
    // Not on stdout: scripts take what stands there for the secret.
    output::complaint(match grace.is_zero() {
        true => "the old secret signs no more".to_owned(),
        false => output::previous_secret(until),
    });
    Ok(())
}

async fn end(store: &Store, id: WebhookId, json: bool) -> CommandResult {
    if !store.end_previous_secret(Scope::Everyone, id).await? {
        return Err(unknown(id));
    }
    if json {
        return output::json(&json!({ "previous_valid_until": Option::<Timestamp>::None }));
    }
    output::line(format_args!("webhook {id}: the newest secret alone signs from now on"))
}
