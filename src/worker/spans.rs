//! What the worker's spans say, by OpenTelemetry's semantic conventions. A span has the host of a receiver, and never its URL, a
//! payload or a secret.
//!
//! ```text
//!  publisher's span ─► consume (from the message to its ack) ─► attempt (the first)
//!                  └─► attempt (each later one, and the first of what was parked)
//!  look-up, record: a trace of their own, with links to the spans that they work for
//! ```

use super::attempts::Attempts;
use super::turn::Turn;
use crate::delivery::{Attempt, Outcome};
use crate::event::Event;
use crate::queue::Incoming;
use crate::store::TurnResult;
use crate::telemetry::{Span, SpanKind, Tracer};
use crate::trace_context::TraceContext;

/// A message was taken from its queue.
pub(super) fn consume(tracer: &Tracer, message: &Incoming) -> Option<Box<Span>> {
    let mut span = tracer.receive(message.properties.trace, SpanKind::Consumer)?;
    let destination = message.destination();
    span.name(format!("consume {destination}"));
    span.set("messaging.system", "rabbitmq");
    span.set("messaging.operation.name", "consume");
    span.set("messaging.operation.type", "process");
    span.set("messaging.destination.name", destination);
    span.set("messaging.message.body.size", length(message.body.len()));
    Some(span)
}

/// The message is this event.
pub(super) fn is_event(span: &mut Span, event: &Event) {
    span.set("messaging.message.id", event.id.as_str().to_owned());
    span.set("penr_webhooks.event_type", event.event_type.as_str().to_owned());
}

/// The webhooks of events are read, whose messages have these spans.
pub(super) fn look_up<'a>(
    tracer: &Tracer,
    events: impl ExactSizeIterator<Item = Option<&'a Span>>,
) -> Option<Box<Span>> {
    let count = events.len();
    let mut span = tracer.batch(events.flatten().map(Span::context), SpanKind::Client)?;
    span.name("look-up");
    span.set("db.system.name", "postgresql");
    span.set("messaging.batch.message_count", length(count));
    Some(span)
}

/// Results are written.
pub(super) fn record<T: AsRef<TurnResult>>(tracer: &Tracer, results: &[T]) -> Option<Box<Span>> {
    let mut span = tracer.batch(results.iter().filter_map(|result| trace_of(result.as_ref())), SpanKind::Client)?;
    span.name("record");
    span.set("db.system.name", "postgresql");
    span.set("db.operation.batch.size", length(results.len()));
    Some(span)
}

/// The span of the attempt, or the one that the delivery's attempts are children of.
fn trace_of(result: &TurnResult) -> Option<TraceContext> {
    result.attempt().and_then(|attempt| attempt.trace).or(result.delivery.event().trace)
}

impl Attempts {
    /// An attempt was made.
    pub(super) fn note_attempt(&self, turn: &Turn, attempt: &Attempt) {
        let (delivery, times) = (&turn.delivery, (attempt.started, attempt.duration));
        let Some(mut span) = self.tracer.past(attempt.trace, turn.trace(), SpanKind::Client, times) else { return };
        span.name("POST");
        span.set("http.request.method", "POST");
        if let Some((host, port)) = self.sender.host_and_port(delivery) {
            span.set("server.address", host.trim_matches(['[', ']']).to_owned());
            span.set("server.port", i64::from(port));
        }
        if delivery.attempt > 1 {
            span.set("http.request.resend_count", i64::from(delivery.attempt - 1));
        }
        span.set("penr_webhooks.webhook_id", delivery.webhook.id.to_string());
        span.set("penr_webhooks.delivery_id", delivery.id.0.to_string());
        span.set("penr_webhooks.event_type", delivery.event().event_type.as_str().to_owned());
        if let Some(status) = attempt.outcome.http_status() {
            span.set("http.response.status_code", i64::from(status));
        }
        match &attempt.outcome {
            Outcome::Answered(answer) if answer.is_success() => {}
            Outcome::Answered(answer) => span.failed(answer.status.to_string()),
            Outcome::Failed(error) => span.failed(attempt.outcome.error_detail().unwrap_or(error.as_str())),
        }
    }
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
