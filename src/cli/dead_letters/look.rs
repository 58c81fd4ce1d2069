//! Reads the dead queue with care for its delivery limit: RabbitMQ before 4.3 counts every look at a letter, and removes a
//! letter that was looked at too often.

use crate::cli::{CommandResult, Failure, output};
use crate::config::Settings;
use crate::error_chain;
use crate::management;
use crate::queue::{Counted, DeadLetters, QueueError, RewriteError};

pub(super) const DISCARD_UNREADABLE: &str =
    "what cannot be read is not requeued: `dead-letters discard --unreadable` removes one";

/// Connects to the dead queue. A policy may lower the delivery limit that the queue was declared with; only the management
/// plugin shows that, so it is asked first.
///
/// # Errors
///
/// No node serves, or `AMQP_URL` cannot be used.
pub(super) async fn connect(settings: &Settings) -> Result<DeadLetters, QueueError> {
    let limit = management::delivery_limit(&settings.amqp, &settings.queue.dead_queue).await;
    let limit = limit.unwrap_or_else(|error| {
        let why = error_chain(&error);
        output::complaint(format_args!(
            "note: amqp.management_url cannot be read, so that a lower delivery limit of a policy is not known: {why}"
        ));
        None
    });
    DeadLetters::connect(&settings.amqp, &settings.queue, limit).await
}

/// Reports whether the broker counted this look towards the letters' delivery limit: a note, or a failure when they are
/// near the limit.
pub(super) fn report_cost(counted: Option<Counted>) -> CommandResult {
    let Some(counted) = counted else { return Ok(()) };
    let ends_reading = counted.ends_reading();
    let Counted { error, near_limit } = counted;
    let them = match error {
        RewriteError::Every(_) => "they",
        RewriteError::TooLarge { .. } | RewriteError::Cut => "one of them",
    };
    let why = error_chain(&error);
    if !near_limit {
        output::complaint(format_args!(
            "note: the broker counts this look, and a delivery-limit of a policy may remove letters that were looked at \
             often: {them} cannot be written anew: {why}"
        ));
        return Ok(());
    }
    let stopped = if ends_reading { "stopped reading: " } else { "" };
    Err(Failure::Failed(anyhow::anyhow!(
        "{stopped}the broker's delivery limit removes dead letters that are read too often, and {them} cannot be written \
         anew: {why}"
    )))
}
