//! Brings the schema up to date.

use std::time::Duration;

use serde_json::json;

use super::{Outcome, output, store};
use crate::config::Settings;
use crate::error_chain;
use crate::reconnect::Reconnect;
use crate::store::StoreError;

/// A database that starts together with us gets this long.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(settings: &Settings, json: bool) -> Outcome {
    let store = store(settings)?;
    let mut reconnect = Reconnect::default();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let applied = loop {
        match store.migrate().await {
            Err(error @ (StoreError::Unavailable(_) | StoreError::Busy(_) | StoreError::ReadOnly(_)))
                if tokio::time::Instant::now() < deadline =>
            {
                tracing::warn!(error = error_chain(&error), "waiting for the database");
                tokio::time::sleep(reconnect.wait()).await;
            }
            done => break done?,
        }
    };
    if json {
        return output::json(&json!({ "applied": applied }));
    }
    match applied.len() {
        0 => output::line("the schema is up to date"),
        _ => output::line(format_args!("applied {}", applied.join(", "))),
    }
}
