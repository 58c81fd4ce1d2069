//! Checks an installation: one line per check, with what to do. Nothing is changed, and every wait ends.
//!
//! Checks run side by side where they do not need each other. What needs something that does not answer is not tried,
//! and says so.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{Outcome, output};
use crate::config::Settings;
use crate::error_chain;
use crate::scrub::scrub;
use crate::text::printable;

mod broker;
mod database;
mod machine;
mod management;
mod memory;
mod rights;
mod settings;
mod versions;

/// For all checks together. More than the bounds within them, so that those tell what was waited for.
const PATIENCE: Duration = Duration::from_secs(13);

const MAX_DETAIL_BYTES: usize = 1000;

/// What was found out about one thing.
#[derive(Debug, Clone, Serialize)]
struct Check {
    check: &'static str,
    status: Status,
    detail: String,
    /// Unless all is well.
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warns,
    Fails,
}

pub(super) async fn run(settings: &Settings, json: bool) -> Outcome {
    let deadline = Deadline(Instant::now() + PATIENCE);
    let (database, broker, management, dns, proxy) = tokio::join!(
        database::checks(settings, deadline),
        broker::checks(settings, deadline),
        management::checks(settings, deadline),
        machine::dns(settings, deadline),
        machine::proxy(settings, deadline),
    );
    let (certificates, open_files) = (machine::certificates(settings), machine::open_files(settings));
    let of_machine = vec![dns, proxy, certificates, open_files, memory::memory(settings)];
    let checks = [settings::checks(settings), database, broker, management, of_machine].concat();
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

    /// What these checks need is not there.
    fn skipped(checks: &[&'static str], because: &str) -> Vec<Self> {
        let skip = |check: &&'static str| Self::warns(check, format!("not checked: {because}"), "cure that first");
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

/// Some of it is a server's own words.
fn shown(detail: &str) -> String {
    printable(&scrub(detail), MAX_DETAIL_BYTES)
}

/// When the last answer counts.
#[derive(Debug, Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    /// The answer, or that there is none.
    async fn wait<T>(self, question: impl Future<Output = T>) -> Result<T, String> {
        timeout_at(self.0, question).await.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))
    }

    /// The answer, or in one line why there is none.
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
