//! Takes the events that have arrived, matches them to webhooks with one query, and starts their deliveries.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use super::matching::ReceivedEvent;
use super::portion::Portion;
use super::redelivered::Redelivered;
use super::share::Report;
use super::spans;
use crate::event::EventParser;
use crate::queue::{Incoming, Settled, Settlement};
use crate::text::printable;

/// Bytes of a message's id, and of its routing key, in the log.
const MAX_LOGGED_BYTES: usize = 128;

pub(super) struct Intake {
    pub(super) parser: EventParser,
    pub(super) attempts: Arc<Attempts>,
    /// Messages taken at a time.
    pub(super) batch: usize,
    /// How long the log is kept (days).
    pub(super) retention: Duration,
    pub(super) stop: CancellationToken,
}

impl Intake {
    /// Runs until told to stop. The broker hands out again what was not started by then.
    pub(super) async fn run(self, messages: mpsc::Receiver<Incoming>) {
        let (again, redelivered) = mpsc::unbounded_channel();
        let check = Redelivered { attempts: self.attempts.clone(), retention: self.retention, batch: self.batch };
        let work = async { tokio::join!(self.receive(messages, again), check.run(redelivered)) };
        self.stop.run_until_cancelled(work).await;
    }

    async fn receive(&self, mut messages: mpsc::Receiver<Incoming>, again: mpsc::UnboundedSender<ReceivedEvent>) {
        let (mut in_hand, mut lookup) = (Vec::with_capacity(self.batch), Portion::of(self.batch));
        while messages.recv_many(&mut in_hand, self.batch).await > 0 {
            let (mut fresh, mut redelivered) = (Vec::new(), Vec::new());
            for message in in_hand.drain(..).filter(|message| message.receipt.is_usable()) {
                let list = if message.redelivered { &mut redelivered } else { &mut fresh };
                list.extend(self.parse(message).await);
            }
            let matched = self.attempts.look_up(fresh, &mut lookup).await;
            self.attempts.deliver_all(matched).await;
            for event in redelivered {
                // The task that receives them ends after this one.
                let _ = again.send(event);
            }
        }
    }

    /// Reads the event of a message. A message without a valid one is rejected, and `None` is returned.
    async fn parse(&self, message: Incoming) -> Option<ReceivedEvent> {
        let mut span = spans::consume(&self.attempts.tracer, &message);
        let Incoming { body, properties, receipt, routing_key, .. } = message;
        match self.parser.parse(&body, &properties, jiff::Timestamp::now()) {
            Ok(mut event) => {
                receipt.count_event();
                if let Some(span) = &mut span {
                    spans::is_event(span, &event);
                    // A trace that was begun here.
                    event.trace = event.trace.or(Some(span.context()));
                }
                Some(ReceivedEvent { event, receipt, span })
            }
            Err(malformed) => {
                let (reason, bytes) = (malformed.reason(), body.len());
                if let Some(mut span) = span {
                    span.failed(reason);
                }
                self.attempts.metrics.dead_letters.count(reason);
                let trace_id = properties.trace.map(|trace| tracing::field::display(trace.trace_id));
                // Nothing of the body: these two find the message and its publisher.
                let message_id = properties.message_id.as_deref().map(|id| printable(id, MAX_LOGGED_BYTES));
                let routing_key = printable(routing_key.as_str(), MAX_LOGGED_BYTES);
                tracing::warn!(
                    reason,
                    bytes,
                    message_id,
                    routing_key,
                    trace_id,
                    "a message is no event and becomes a dead letter: {malformed}"
                );
                self.attempts.report(Report::Settled(Settled { receipt, settlement: Settlement::Dead })).await;
                None
            }
        }
    }
}
