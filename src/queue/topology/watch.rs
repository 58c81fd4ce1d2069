//! Watches that what a worker needs at the broker stays declared and bound.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::declare::{DeclareAnswer, Declarer, declare, join};
use super::part::Part;
use super::unchecked::UncheckedTopology;
use crate::queue::connection::link::Link;
use crate::queue::convert::name;
use crate::queue::error::QueueError;
use crate::reconnect::Outage;
use crate::{error_chain, millis};

/// Between two checks of what may be deleted without ending our consumer.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Between two tries of what this user may not do, since the broker logs an error for each: declaring, or asking whether
/// something exists. If somebody else declares it, the next check finds it.
const FORBIDDEN_AGAIN: Duration = Duration::from_secs(60);

/// Declares again what somebody deletes while we consume. Without the dead queue, rejected messages would stay in the worker
/// queue for ever. The queue that we consume is not watched: its deletion ends the consumer.
pub(in crate::queue) async fn keep_declared(
    link: &Link,
    part: &Part,
    mut unchecked: UncheckedTopology,
    rights_missing: impl Fn(bool),
) -> Infallible {
    let mut outage = Outage::default();
    let mut forbidden_since = None;
    let mut hidden_cleared_at = Instant::now();
    loop {
        tokio::time::sleep(CHECK_EVERY).await;
        if hidden_cleared_at.elapsed() >= FORBIDDEN_AGAIN {
            hidden_cleared_at = Instant::now();
            unchecked.hidden.clear();
        }
        let missing = match forbidden_since.is_some_and(|since: Instant| since.elapsed() < FORBIDDEN_AGAIN) {
            true => Missing::IsLeft,
            false => Missing::IsDeclared,
        };
        match check(link, part, &mut unchecked, missing).await {
            Ok(CheckResult::MissingLeft) => {}
            Ok(found) => {
                forbidden_since = None;
                rights_missing(false);
                if let Some(failed) = outage.end() {
                    tracing::info!(failed_ms = millis(failed), "all is declared at the broker");
                }
                if let CheckResult::DeclaredAgain = found {
                    tracing::warn!("an exchange or the dead queue was deleted at the broker; declared it again");
                }
            }
            Err(error) if error.is_away() => {
                // The consumer logs the loss of the connection.
                tracing::debug!(error = error_chain(&error), "the connection ended during a check");
            }
            Err(error) => {
                let reason = error_chain(&error);
                let news = outage.is_news(&reason);
                if let QueueError::Forbidden(_) = error {
                    forbidden_since = Some(Instant::now());
                    rights_missing(true);
                    if news {
                        tracing::error!(
                            error = reason,
                            "somebody deleted at the broker what the worker may not declare"
                        );
                    }
                } else if news {
                    tracing::warn!(error = reason, "cannot check whether all is still declared, or declare it again");
                }
            }
        }
    }
}

/// What to do with an exchange or a queue that is missing.
enum Missing {
    IsDeclared,
    /// This user was not allowed to declare it within the last minute.
    IsLeft,
}

enum CheckResult {
    All,
    /// Something was missing.
    DeclaredAgain,
    /// Something is missing, and was left so.
    MissingLeft,
}

/// Has no time limit of its own: nothing waits for it, and a further request to a queue that does not answer would only occupy
/// a further channel. The end of the connection ends it.
async fn check(
    link: &Link,
    part: &Part,
    unchecked: &mut UncheckedTopology,
    missing: Missing,
) -> Result<CheckResult, QueueError> {
    let mut declarer = Declarer::begin(link).await?;
    let checked = check_all(&mut declarer, part, unchecked).await?;
    let found = match (checked, missing) {
        (DeclareAnswer::Ok | DeclareAnswer::Forbidden, _) => CheckResult::All,
        (DeclareAnswer::Missing, Missing::IsLeft) => CheckResult::MissingLeft,
        (DeclareAnswer::Missing, Missing::IsDeclared) => {
            let (channel, not_checked) = declare(link, part).await?;
            *unchecked = not_checked;
            join(link, part, unchecked).await?;
            channel.close(200, name("done")).await?;
            return Ok(CheckResult::DeclaredAgain);
        }
    };
    declarer.close().await?;
    Ok(found)
}

/// Checks whether each exchange and queue exists, and binds the queues again: if somebody deleted and recreated one between
/// two checks, its bindings are lost.
async fn check_all(
    declarer: &mut Declarer<'_>,
    part: &Part,
    unchecked: &mut UncheckedTopology,
) -> Result<DeclareAnswer, QueueError> {
    if part.watches_shared
        && let DeclareAnswer::Missing = check_shared(declarer, part, unchecked).await?
    {
        return Ok(DeclareAnswer::Missing);
    }
    declarer.bind_share(part, unchecked).await
}

async fn check_shared(
    declarer: &mut Declarer<'_>,
    part: &Part,
    unchecked: &mut UncheckedTopology,
) -> Result<DeclareAnswer, QueueError> {
    for entity in part.entities().iter().filter(|entity| !entity.is_queue(&part.shard.queue)) {
        if unchecked.hidden.contains(&entity.name) {
            continue;
        }
        match declarer.check_exists(entity).await? {
            DeclareAnswer::Ok => {}
            DeclareAnswer::Forbidden => unchecked.hidden.push(entity.name.clone()),
            DeclareAnswer::Missing => return Ok(DeclareAnswer::Missing),
        }
    }
    declarer.bind_shared(part, unchecked).await
}
