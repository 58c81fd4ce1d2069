//! Takes whatever events are in hand, matches them to webhooks with one query, and starts their deliveries.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use super::owed::Taken;
use super::portion::Portion;
use super::recorder::Report;
use super::redelivered::Redelivered;
use crate::event::EventParser;
use crate::metrics::Reason;
use crate::queue::{Incoming, Settled, Settlement};

pub(super) struct Intake {
    pub(super) parser: EventParser,
    pub(super) attempts: Arc<Attempts>,
    pub(super) batch: usize,
    /// How long the log is kept.
    pub(super) retention: Duration,
    pub(super) stop: CancellationToken,
}

impl Intake {
    /// Until told to stop. What is in hand then goes back with its channel.
    pub(super) async fn run(self, messages: mpsc::Receiver<Incoming>) {
        let (again, redelivered) = mpsc::unbounded_channel();
        let check = Redelivered { attempts: self.attempts.clone(), retention: self.retention, batch: self.batch };
        let work = async { tokio::join!(self.take(messages, again), check.run(redelivered)) };
        self.stop.run_until_cancelled(work).await;
    }

    async fn take(&self, mut messages: mpsc::Receiver<Incoming>, again: mpsc::UnboundedSender<Taken>) {
        let (mut in_hand, mut lookup) = (Vec::with_capacity(self.batch), Portion::of(self.batch));
        while messages.recv_many(&mut in_hand, self.batch).await > 0 {
            let (mut fresh, mut redelivered) = (Vec::new(), Vec::new());
            for message in in_hand.drain(..).filter(|message| message.receipt.is_usable()) {
                let list = if message.redelivered { &mut redelivered } else { &mut fresh };
                list.extend(self.parse(message).await);
            }
            for owed in self.attempts.look_up(fresh, &mut lookup).await {
                self.attempts.deliver(owed).await;
            }
            for taken in redelivered {
                // Whoever receives ends after the intake.
                let _ = again.send(taken);
            }
        }
    }

    /// `None` after it was rejected for its reason.
    async fn parse(&self, message: Incoming) -> Option<Taken> {
        let Incoming { body, properties, receipt, .. } = message;
        match self.parser.parse(&body, &properties, jiff::Timestamp::now()) {
            Ok(event) => {
                self.attempts.metrics.events.inc();
                Some(Taken { event, receipt })
            }
            Err(malformed) => {
                let (reason, bytes) = (malformed.reason(), body.len());
                self.attempts.metrics.dead_letters.get_or_create(&Reason { reason }).inc();
                tracing::warn!(reason, bytes, "a message is no event and becomes a dead letter: {malformed}");
                self.attempts.report(Report::Settled(Settled { receipt, settlement: Settlement::Dead })).await;
                None
            }
        }
    }
}
