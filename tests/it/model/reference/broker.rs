//! Messages, from their publishing to their ack.

use penr_webhooks::delivery::Trigger;

use super::{Hand, Kept, Model, Origin, State, Turn};
use crate::model::step::{Event, Pair, WEBHOOKS, Webhook, Worker};

/// A copy of an event at the broker.
#[derive(Debug, Clone)]
pub struct Message {
    pub(super) event: Event,
    pub(super) at: Place,
    /// Its deliveries, as the lookup found them when a worker took it.
    pub owed: Vec<Pair>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Waits {
        redelivered: bool,
    },
    /// A worker has it, with this many deliveries still to be recorded.
    Held {
        by: Worker,
        left: usize,
    },
    Acked,
}

impl Model {
    /// Whether the broker says that the message may have been worked on before.
    pub fn is_redelivered(&self, message: usize) -> bool {
        self.messages[message].at == Place::Waits { redelivered: true }
    }

    /// The event's oldest message that no worker holds.
    pub fn waiting(&self, event: Event) -> Option<usize> {
        let waits = |message: &Message| message.event == event && matches!(message.at, Place::Waits { .. });
        self.messages.iter().position(waits)
    }

    /// The acked messages, without those whose event retention has dropped.
    pub fn acked(&self) -> impl Iterator<Item = &Message> {
        let acked = |message: &&Message| message.at == Place::Acked && self.events[&message.event] != Kept::Expired;
        self.messages.iter().filter(acked)
    }

    /// A worker takes a message. It begins a delivery for every webhook that is on or that the service disabled; of a
    /// redelivered message only those of which the store holds nothing.
    pub(super) fn take(&mut self, worker: Worker, event: Event) {
        let message = self.waiting(event).expect("it waits");
        let redelivered = self.is_redelivered(message);
        let matches = |webhook: &Webhook| matches!(self.webhooks[webhook].state, State::On | State::Disabled);
        let owed: Vec<Pair> = WEBHOOKS.into_iter().filter(matches).map(|webhook| Pair(event, webhook)).collect();
        let mut left = 0;
        for &pair in &owed {
            if redelivered && self.delivery(pair).is_taken() {
                continue;
            }
            left += 1;
            self.delivery(pair).begun += 1;
            let activation = self.webhooks[&pair.1].activation;
            let closes = self.closes(pair.1, activation);
            let origin = Origin::Message(Some(message));
            let turn = Turn { pair, attempt: 1, trigger: Trigger::Event, activation, closes, origin, ending: None };
            self.hand(worker).turns.push(turn);
        }
        self.messages[message].owed = owed;
        self.messages[message].at = if left == 0 { Place::Acked } else { Place::Held { by: worker, left } };
    }

    /// A message is acked with the last of its deliveries.
    pub(super) fn ack(&mut self, batch: &[Turn]) {
        for turn in batch {
            let Origin::Message(Some(message)) = turn.origin else { continue };
            let Place::Held { by, left } = self.messages[message].at else { unreachable!("it is held") };
            self.messages[message].at = if left == 1 { Place::Acked } else { Place::Held { by, left: left - 1 } };
        }
    }

    /// The broker puts the messages that the worker has not acked back into the queue.
    pub(super) fn hand_back(&mut self, worker: Worker) {
        let held = |message: &&mut Message| matches!(message.at, Place::Held { by, .. } if by == worker);
        self.messages.iter_mut().filter(held).for_each(|message| message.at = Place::Waits { redelivered: true });
    }

    /// The worker drops turns of its messages that have not ended. Those that have ended are still recorded, and ack nothing.
    pub(super) fn lose_channel(&mut self, worker: Worker) {
        self.hand_back(worker);
        let Hand { turns, unsure } = self.hand(worker);
        turns.retain(|turn| !(turn.is_fresh() && turn.is_open()));
        let unsure = unsure.iter_mut().flat_map(|(batch, _)| batch);
        for turn in turns.iter_mut().chain(unsure).filter(|turn| turn.is_fresh()) {
            turn.origin = Origin::Message(None);
        }
    }
}
