//! Makes bearer tokens for the API, as penr.ai's own backend does.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::{CommandResult, account, output};
use crate::config::Settings;
use crate::ids::{AccountId, Actor};
use crate::token::{Access, Grant, LONGEST};

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks token --account acc_42 --expires-in 8h
  penr-webhooks token --account acc_42 --actor user_7
  penr-webhooks token --account acc_42 --read-only";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The account whose webhooks the token's bearer may see and change, such as acc_42
    #[arg(long, value_parser = account)]
    account: AccountId,
    /// How long it is valid, such as 8h; at most 24h
    #[arg(long, default_value = "1h", value_parser = lifetime)]
    expires_in: Duration,
    /// The token may look at everything but secrets, and change nothing: it has the scope `read`
    #[arg(long)]
    read_only: bool,
    /// Who acts for the account, such as user_7: stands in the audit lines of what the token is used for
    #[arg(long, value_name = "NAME", value_parser = actor)]
    actor: Option<Actor>,
}

pub(super) fn run(arguments: &Arguments, settings: &Settings, json: bool) -> CommandResult {
    let now = Timestamp::now();
    let tokens = settings.tokens()?;
    let access = if arguments.read_only { Access::ReadOnly } else { Access::Full };
    let grant = Grant { account: arguments.account.clone(), access, actor: arguments.actor.clone() };
    let token = tokens.sign_grant(&grant, now.as_second(), arguments.expires_in);
    if json {
        let expires_at = Timestamp::from_second(now.as_second()).unwrap_or(now) + arguments.expires_in;
        return output::json(&json!({ "token": token, "expires_at": format!("{expires_at:.3}") }));
    }
    output::line(token)
}

/// Parses a token's lifetime, for clap.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).ok();
    let lifetime = lifetime.filter(|lifetime| (Duration::from_secs(1)..=LONGEST).contains(lifetime));
    lifetime.ok_or_else(|| "a token lives from 1s to 24h: give a number with its unit, such as 8h".to_owned())
}

/// Parses an actor's name, for clap.
fn actor(text: &str) -> Result<Actor, String> {
    Actor::parse(text).ok_or_else(|| "an actor's name has 1 to 128 printable ASCII characters".to_owned())
}
