//! Reads the queues of dead letters and of unrouted events with care for their delivery limit: RabbitMQ before 4.3 counts every
//! look at a letter, and removes a letter that was looked at too often.

use crate::cli::{CommandResult, Failure, output};
use crate::config::Settings;
use crate::error_chain;
use crate::management;
use crate::queue::{Counted, DeadLetters, LetterQueue, QueueError, RewriteError};

pub(super) const DISCARD_UNREADABLE: &str =
    "what cannot be read is not requeued: `dead-letters discard --unreadable` removes one";

/// Connects to read one of the queues. A policy may lower the delivery limit that the queue was declared with; only the
/// management plugin shows that, so it is asked first.
///
/// # Errors
///
/// No node serves, or `AMQP_URL` cannot be used.
pub(super) async fn connect(settings: &Settings, queue: LetterQueue) -> Result<DeadLetters, QueueError> {
    let limit = management::delivery_limit(&settings.amqp, queue.name(&settings.queue)).await;
    let limit = limit.unwrap_or_else(|error| {
        // Both queues are read one after the other: this is said once.
        if queue == LetterQueue::Dead {
            let why = error_chain(&error);
            output::complaint(format_args!(
                "note: amqp.management_url cannot be read, so that a lower delivery limit of a policy is not known: {why}"
            ));
        }
        None
    });
    DeadLetters::connect(&settings.amqp, &settings.queue, queue, limit).await
}

/// Whether a command goes on without this queue, after a note: that the queue of unrouted events does not exist, or may not be
/// read, must keep nobody from the dead letters.
pub(super) fn is_left_out(queue: LetterQueue, error: &QueueError) -> bool {
    let left_out = queue == LetterQueue::Unrouted && matches!(error, QueueError::NoQueue(_) | QueueError::Forbidden(_));
    if left_out {
        output::complaint(format_args!("note: unrouted events are not looked at: {}", error_chain(error)));
    }
    left_out
}

/// Reports whether the broker counted these looks towards the letters' delivery limits: a note, or a failure when some are
/// near their limit. Each queue that was looked at has its own `Counted`.
pub(super) fn report_costs(counted: Vec<Counted>) -> CommandResult {
    let (mut noted, mut failed) = (Vec::new(), Ok(()));
    for one in counted {
        match cost(one) {
            Cost::Note(note) if noted.contains(&note) => {}
            Cost::Note(note) => {
                output::complaint(&note);
                noted.push(note);
            }
            Cost::Failure(failure) => failed = failed.and(Err(Failure::Failed(anyhow::Error::msg(failure)))),
        }
    }
    failed
}

enum Cost {
    Note(String),
    Failure(String),
}

fn cost(counted: Counted) -> Cost {
    let ends_reading = counted.ends_reading();
    let Counted { error, near_limit } = counted;
    let them = match error {
        RewriteError::Every(_) => "they",
        RewriteError::TooLarge { .. } | RewriteError::Cut => "one of them",
    };
    let why = error_chain(&error);
    if !near_limit {
        return Cost::Note(format!(
            "note: the broker counts this look, and a delivery-limit of a policy may remove letters that were looked at \
             often: {them} cannot be written anew: {why}"
        ));
    }
    let stopped = if ends_reading { "stopped reading: " } else { "" };
    Cost::Failure(format!(
        "{stopped}the broker's delivery limit removes dead letters that are read too often, and {them} cannot be written \
         anew: {why}"
    ))
}
