//! Checks an installation: one line per check, with what to do. Changes nothing, and every wait is bounded.
//!
//! Independent checks run at the same time. A check that needs a server which does not answer is reported as skipped.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{CommandResult, output};
use crate::config::Settings;
use crate::error_chain;
use crate::scrub::scrub;
use crate::text::printable;

mod broker;
mod database;
mod machine;
mod management;
mod memory;
mod processes;
mod rights;
mod settings;
mod unrouted;
mod versions;

/// The bound for all checks together. It is longer than each check's own, so that the check itself says what was late.
const PATIENCE: Duration = Duration::from_secs(13);

const MAX_DETAIL_BYTES: usize = 1000;

/// The result of one check.
#[derive(Debug, Clone, Serialize)]
struct Check {
    check: &'static str,
    status: Status,
    detail: String,
    /// What to do; `None` if the check is ok.
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warns,
    Fails,
}

pub(super) async fn run(settings: &Settings, json: bool) -> CommandResult {
    let deadline = Deadline(Instant::now() + PATIENCE);
    let (database, broker, (management, told), dns, proxy) = tokio::join!(
        database::checks(settings, deadline),
        broker::checks(settings, deadline),
        management::checks(settings, deadline),
        machine::dns(settings, deadline),
        machine::proxy(settings, deadline),
    );
    let unrouted = unrouted::check(&broker.unrouted, &told, &settings.queue);
    let processes =
        processes::checks(settings, &database.running, database.schema_is_older, broker.consumers, deadline).await;
    let (certificates, open_files) = (machine::certificates(settings), machine::open_files(settings));
    let of_machine = vec![dns, proxy, certificates, open_files, memory::memory(settings)];
    let checks =
        [settings::checks(settings), database.checks, broker.checks, management, vec![unrouted], processes, of_machine]
            .concat();
    if json {
        output::json(&json!({ "data": checks }))?;
    } else {
        checks.iter().try_for_each(|check| output::line(check.line()))?;
    }
    match checks.iter().filter(|check| check.status == Status::Fails).count() {
        0 => Ok(()),
        1 => Err(anyhow::anyhow!("1 check fails").into()),
        count => Err(anyhow::anyhow!("{count} checks fail").into()),
    }
}

impl Check {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, detail: shown(&detail.into()), advice: None }
    }

    fn warns(check: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Status::Warns, advice: Some(advice.into()), ..Self::ok(check, detail) }
    }

    fn fails(check: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Status::Fails, advice: Some(advice.into()), ..Self::ok(check, detail) }
    }

    /// Results for checks that could not be made.
    fn skipped(checks: &[&'static str], because: &str) -> Vec<Self> {
        let skip = |check: &&'static str| Self::warns(check, format!("not checked: {because}"), "solve that first");
        checks.iter().map(skip).collect()
    }

    fn line(&self) -> String {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Warns => "warns",
            Status::Fails => "fails",
        };
        let advice = self.advice.as_ref().map_or_else(String::new, |advice| format!(": {advice}"));
        format!("{status:5}  {:16}  {}{advice}", self.check.replace('_', " "), self.detail)
    }
}

/// Removes secrets and control characters: a part of the text may come from a server.
fn shown(detail: &str) -> String {
    printable(&scrub(detail), MAX_DETAIL_BYTES)
}

/// When the doctor stops waiting.
#[derive(Debug, Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    /// The answer, or the sentence that there was none in time.
    async fn wait<T>(self, question: impl Future<Output = T>) -> Result<T, String> {
        timeout_at(self.0, question).await.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))
    }

    /// The answer, or the error, or that there was none in time, in one line.
    async fn answer<T, E: Into<anyhow::Error>>(
        self,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, String> {
        self.wait(question).await?.map_err(|error| error_chain(error.into().as_ref()))
    }
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
