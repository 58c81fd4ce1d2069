//! Brings the schema up to date, gives roles what they need, and does the owner's part of retention.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::running::Running;
use super::{CommandResult, output, store};
use crate::config::Settings;
use crate::error_chain;
use crate::reconnect::Reconnect;
use crate::store::{GrantError, INDEXES, Schema, Store, StoreError, Unmigrated};
use crate::text::printable;

/// A process's host may have any name.
const MAX_LINE_BYTES: usize = 400;
/// How long to wait for a database that starts at the same time.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks migrate
  penr-webhooks migrate --check
  penr-webhooks migrate --grant-to penr_app
  penr-webhooks migrate --retention";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only say which migrations and indexes are missing, and change nothing; exit code 1 if any is
    #[arg(long, conflicts_with_all = ["grant_to", "retention"])]
    check: bool,
    /// Then give a role, such as penr_app, what workers, APIs and the other commands need, and nothing else; may be repeated
    #[arg(long, value_name = "ROLE")]
    grant_to: Vec<String>,
    /// Only drop what is past its retention: a daily job of the tables' owner, where no worker has its role
    #[arg(long, conflicts_with = "grant_to")]
    retention: bool,
}

pub(super) async fn run(arguments: &Arguments, settings: &Settings, json: bool) -> CommandResult {
    let store = store(settings)?;
    if arguments.check {
        return check(&store, json).await;
    }
    if arguments.retention {
        return drop_expired(&store, settings, json).await;
    }
    let applied = migrate(&store).await?;
    for role in &arguments.grant_to {
        store.grant_to(role).await.map_err(|error| match error {
            GrantError::Store(error) => error.into(),
            error => anyhow::Error::from(error),
        })?;
    }
    let newer = match store.schema().await? {
        Schema::Newer { version, ours } => Some(newer(version, ours)),
        _ => None,
    };
    if json {
        let mut done = json!({ "applied": applied });
        if !arguments.grant_to.is_empty() {
            done["granted_to"] = json!(arguments.grant_to);
        }
        return output::json(&done);
    }
    match (newer, applied.len()) {
        (Some(newer), 0) => output::line(format_args!("{newer}; nothing was changed")),
        (None, 0) => output::line("the schema is up to date"),
        _ => output::line(format_args!("applied {}", applied.join(", "))),
    }?;
    arguments.grant_to.iter().try_for_each(|role| output::line(format_args!("{role} has what it needs")))
}

async fn check(store: &Store, json: bool) -> CommandResult {
    let Unmigrated { version, ours, missing } = store.unmigrated(INDEXES).await?;
    let running = Running::find(store).await;
    let waiting = version.filter(|version| *version < ours).and_then(|_| running.waiting_for_migrate());
    let warnings: Vec<String> = running.too_far_apart().into_iter().chain(waiting).collect();
    if json {
        let processes = running.to_json();
        let found = json!({ "schema": version, "program": ours, "missing": missing, "processes": processes, "warnings": warnings });
        output::json(&found)?;
    } else {
        match version {
            None => output::line("there is no schema yet"),
            Some(version) if version > ours => output::line(newer(version, ours)),
            Some(version) => output::line(format_args!("the schema is version {version}, this program makes {ours}")),
        }?;
        missing.iter().try_for_each(|name| output::line(format_args!("missing: {name}")))?;
        let summary = running.summary();
        output::line(summary.unwrap_or_else(|unknown| format!("which processes run is not known: {unknown}")))?;
        running.of_other_versions().try_for_each(|process| output::line(printable(&process, MAX_LINE_BYTES)))?;
        warnings.iter().try_for_each(|warning| output::line(format_args!("warning: {warning}")))?;
    }
    match missing.len() {
        0 => Ok(()),
        count => Err(anyhow::anyhow!("{count} missing: run `penr-webhooks migrate`").into()),
    }
}

fn newer(version: i32, ours: i32) -> String {
    format!("the schema is version {version}, newer than this program's {ours}, which it serves too")
}

async fn check_and_migrate(store: &Store) -> Result<Vec<String>, StoreError> {
    store.check_sessions().await?;
    store.migrate(INDEXES).await
}

async fn migrate(store: &Store) -> Result<Vec<String>, StoreError> {
    let mut reconnect = Reconnect::default();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match check_and_migrate(store).await {
            Err(error @ (StoreError::Unavailable(_) | StoreError::Busy(_) | StoreError::ReadOnly(_)))
                if tokio::time::Instant::now() < deadline =>
            {
                tracing::warn!(error = error_chain(&error), "waiting for the database");
                tokio::time::sleep(reconnect.wait()).await;
            }
            done => return done,
        }
    }
}

async fn drop_expired(store: &Store, settings: &Settings, json: bool) -> CommandResult {
    store.check_schema().await?;
    let dropped = store.drop_expired(&settings.retention).await.map_err(anyhow::Error::from)?;
    if json {
        return output::json(&json!({ "dropped": dropped.partitions, "left": dropped.left }));
    }
    match dropped.partitions.len() {
        0 => output::line("no partition was dropped"),
        _ => output::line(format_args!("dropped {}", dropped.partitions.join(", "))),
    }?;
    match dropped.left {
        0 => Ok(()),
        left => {
            output::line(format_args!("{left} more are past their retention: three of a table are dropped an hour"))
        }
    }
}
