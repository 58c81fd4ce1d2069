//! Declares the exchange and the queue that keep events which no queue takes, and declares them again if somebody deletes them.
//!
//! Workers can do without both: whatever the broker answers here stops no consumer and makes no worker unready. The user of a
//! worker may have no rights on them, since releases before this one did not need them.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::bindings::unrouted_binding;
use super::declare::{DeclareAnswer, Declarer, undeclared};
use super::entities::unrouted_entities;
use super::part::Part;
use super::rights::{MissingRights, Names, Right};
use crate::config::Queue;
use crate::error_chain;
use crate::queue::connection::link::Link;
use crate::queue::error::QueueError;
use crate::reconnect::Outage;

/// How long a consumer that attaches waits for these declarations. If they take longer, the watch makes them.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two checks whether somebody has deleted them.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Between two tries of what the broker refused, since it logs an error for each.
const REFUSED_AGAIN: Duration = Duration::from_mins(10);
const NOT_KEPT: &str = "events that no queue takes are not kept; all others are delivered as usual";

/// What is known of the exchange and the queue. It outlives a connection, so that the log says the same only once.
#[derive(Debug, Default)]
pub(in crate::queue) struct Unrouted {
    state: State,
    refusals: Outage,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Unknown,
    Declared,
    /// The broker refused something at this time.
    Refused(Instant),
}

/// The broker's answers to all declarations and the binding.
enum Answer {
    Declared,
    /// They exist, but this user may not declare them: somebody else cares for them.
    OfOthers,
    /// The queue has other arguments, as the broker says. It keeps events all the same.
    OtherArguments(String),
    /// Events that no queue takes are not kept, and why.
    NotKept(String),
}

impl Unrouted {
    /// Declares and binds, as a consumer attaches. Does nothing unless this consumer watches what all share.
    pub(in crate::queue) async fn begin(&mut self, link: &Link, part: &Part) {
        if part.watches_shared && timeout(ATTACH_TIMEOUT, self.declare(link, &part.queue)).await.is_err() {
            tracing::debug!("the broker does not answer in time about the queue of unrouted events");
        }
    }

    /// Declares again what somebody deletes, and tries again after a refusal.
    pub(in crate::queue) async fn keep(&mut self, link: &Link, part: &Part) -> Infallible {
        if !part.watches_shared {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            match self.state {
                State::Refused(at) if at.elapsed() < REFUSED_AGAIN => {}
                State::Declared => match is_declared(link, &part.queue).await {
                    Ok(true) => {}
                    Ok(false) => {
                        tracing::warn!("what keeps unrouted events was deleted at the broker; declaring it again");
                        self.declare(link, &part.queue).await;
                    }
                    Err(error) => {
                        tracing::debug!(error = error_chain(&error), "cannot check what keeps unrouted events")
                    }
                },
                State::Unknown | State::Refused(_) => self.declare(link, &part.queue).await,
            }
        }
    }

    async fn declare(&mut self, link: &Link, queue: &Queue) {
        let (reason, what) = match declare(link, queue).await {
            Ok(Answer::Declared) => {
                self.state = State::Declared;
                self.refusals.end();
                return;
            }
            Ok(Answer::OfOthers) => {
                self.state = State::Refused(Instant::now());
                self.refusals.end();
                tracing::debug!("somebody else cares for what keeps unrouted events");
                return;
            }
            Ok(Answer::OtherArguments(difference)) => (
                difference,
                "the queue of unrouted events has other arguments than these settings; it is used as it is",
            ),
            Ok(Answer::NotKept(reason)) | Err(QueueError::Mismatch(reason)) => (reason, NOT_KEPT),
            Err(error) if error.is_away() => {
                // The consumer logs the loss of the connection.
                tracing::debug!(error = error_chain(&error), "cannot declare what keeps unrouted events");
                return;
            }
            Err(error) => (error_chain(&error), NOT_KEPT),
        };
        self.state = State::Refused(Instant::now());
        if self.refusals.is_news(&reason) {
            tracing::warn!(error = reason, "{what}");
        }
    }
}

async fn declare(link: &Link, queue: &Queue) -> Result<Answer, QueueError> {
    let mut declarer = Declarer::begin(link).await?;
    let (mut missing, mut is_of_others, mut difference) = (Vec::new(), false, None);
    for entity in unrouted_entities(queue) {
        match declarer.declare(&entity).await {
            Ok(DeclareAnswer::Ok) => continue,
            Ok(DeclareAnswer::Missing | DeclareAnswer::Forbidden) => {}
            // A queue keeps messages whatever its arguments are. An exchange of another type may pass none on.
            Err(QueueError::Mismatch(other)) if entity.is_queue(&queue.unrouted_queue) => {
                difference = Some(other);
                declarer = Declarer::begin(link).await?;
                continue;
            }
            Err(error) => return Err(error),
        }
        match declarer.check_exists(&entity).await? {
            DeclareAnswer::Missing => missing.push(entity),
            DeclareAnswer::Ok | DeclareAnswer::Forbidden => is_of_others = true,
        }
    }
    if !missing.is_empty() {
        return Ok(Answer::NotKept(undeclared(link.user(), &missing, queue).to_string()));
    }
    let answer = match declarer.bind_key(&unrouted_binding(queue), "").await? {
        DeclareAnswer::Missing => Answer::NotKept("somebody deletes what was just declared".to_owned()),
        DeclareAnswer::Forbidden if !is_of_others => Answer::NotKept(unbound(link.user(), queue).to_string()),
        DeclareAnswer::Ok | DeclareAnswer::Forbidden => match difference {
            Some(difference) => Answer::OtherArguments(difference),
            None if is_of_others => Answer::OfOthers,
            None => Answer::Declared,
        },
    };
    declarer.close().await?;
    Ok(answer)
}

/// Whether both are there. If so, they are bound afterwards: who recreates one leaves it without its binding.
async fn is_declared(link: &Link, queue: &Queue) -> Result<bool, QueueError> {
    let mut declarer = Declarer::begin(link).await?;
    for entity in unrouted_entities(queue) {
        if let DeclareAnswer::Missing = declarer.check_exists(&entity).await? {
            return Ok(false);
        }
    }
    let is_there = !matches!(declarer.bind_key(&unrouted_binding(queue), "").await?, DeclareAnswer::Missing);
    declarer.close().await?;
    Ok(is_there)
}

fn unbound(user: &str, queue: &Queue) -> MissingRights {
    let Queue { unrouted_exchange, unrouted_queue, .. } = queue;
    MissingRights {
        user: user.to_owned(),
        doing: format!("bind the queue {unrouted_queue} to the exchange {unrouted_exchange}"),
        needs: vec![
            (Right::Write, Names::One(unrouted_queue.clone())),
            (Right::Read, Names::One(unrouted_exchange.clone())),
        ],
        or_else: ", or bind it, with any routing key",
    }
}
