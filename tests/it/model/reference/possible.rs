//! Which steps can follow in a state of the model, and how often each kind is chosen. An event that is erased is not
//! published again, for example.

use super::{Delivery, Hand, Kept, Model, Place, State, Turn};
use crate::model::step::{Answer, EVENTS, Event, Fate, Pair, Step, WEBHOOKS, WORKERS, Webhook, Worker};

/// How often an event is published at most.
const COPIES: usize = 3;

impl Model {
    /// Kinds of steps with their weights.
    pub fn possible(&self) -> Vec<(u32, Vec<Step>)> {
        let mut possible = self.of_customers();
        possible.extend(self.of_time());
        for worker in WORKERS {
            possible.extend(self.of_worker(worker));
        }
        possible.retain(|(_, steps)| !steps.is_empty());
        possible
    }

    fn of_customers(&self) -> Vec<(u32, Vec<Step>)> {
        let webhooks = |states: &'static [State]| {
            WEBHOOKS.into_iter().filter(|webhook| states.contains(&self.webhooks[webhook].state)).collect::<Vec<_>>()
        };
        let copies = |event: Event| self.messages.iter().filter(|message| message.event == event).count();
        let gone = |event: Event| matches!(self.events[&event], Kept::Erased | Kept::Expired);
        let published = EVENTS.into_iter().filter(|event| copies(*event) < COPIES && !gone(*event));
        // The first webhook is never deleted, so that deliveries go on.
        let there = webhooks(&[State::On, State::Off, State::Disabled]).into_iter();
        let deletable = there.filter(|webhook| *webhook != WEBHOOKS[0]);
        vec![
            (8, published.map(Step::Publish).collect()),
            (1, webhooks(&[State::On, State::Disabled]).into_iter().map(Step::SwitchOff).collect()),
            (3, webhooks(&[State::Off, State::Disabled]).into_iter().map(Step::SwitchOn).collect()),
            (1, deletable.map(Step::Delete).collect()),
            (3, self.deliveries.keys().copied().map(Step::Resend).collect()),
            (4, WEBHOOKS.into_iter().filter(|webhook| self.closed(*webhook)).map(Step::Recover).collect()),
        ]
    }

    fn closed(&self, webhook: Webhook) -> bool {
        self.deliveries.iter().any(|(pair, delivery)| pair.1 == webhook && delivery.closed.is_some())
    }

    /// An event is erased or expires only when all its messages are acked. Retention also waits until no delivery of the
    /// event is pending or in a worker's hand.
    fn of_time(&self) -> Vec<(u32, Vec<Step>)> {
        let settled = |event: &Event| {
            let fresh = self.in_hands().any(|turn| turn.pair.0 == *event && turn.is_fresh());
            let mut messages = self.messages.iter().filter(|message| message.event == *event);
            self.events[event] == Kept::Stored && !fresh && messages.all(|message| message.at == Place::Acked)
        };
        let over = |event: &Event| {
            let mut deliveries = self.deliveries.iter().filter(|(pair, _)| pair.0 == *event);
            !self.in_hands().any(|turn| turn.pair.0 == *event) && deliveries.all(|(_, d)| d.pending.is_none())
        };
        let waits = |(pair, delivery): (&Pair, &Delivery)| {
            delivery.pending.as_ref().filter(|pending| pending.due.is_none()).map(|_| *pair)
        };
        let waiting: Vec<Pair> = self.deliveries.iter().filter_map(waits).collect();
        let stored: Vec<Event> = EVENTS.into_iter().filter(settled).collect();
        vec![
            (10, waiting.iter().copied().map(Step::FallsDue).collect()),
            (2, waiting.iter().copied().map(Step::FallsDueUnseen).collect()),
            (2, stored.iter().copied().map(Step::Erase).collect()),
            (4, stored.into_iter().filter(over).map(Step::Retention).collect()),
        ]
    }

    fn in_hands(&self) -> impl Iterator<Item = &Turn> {
        let unsure = self.hands.values().filter_map(|hand| hand.unsure.as_ref());
        self.hands.values().flat_map(|hand| &hand.turns).chain(unsure.flat_map(|(batch, _)| batch))
    }

    fn of_worker(&self, worker: Worker) -> Vec<(u32, Vec<Step>)> {
        let Hand { turns, unsure } = &self.hands[&worker];
        let each = |may: fn(&Turn) -> bool, step: fn(Worker, Pair) -> Step| -> Vec<Step> {
            turns.iter().filter(|turn| may(turn)).map(|turn| step(worker, turn.pair)).collect()
        };
        let attempted = |answer| {
            let attempted = turns.iter().filter(|turn| turn.can_be_attempted());
            attempted.map(|turn| Step::Attempt(worker, turn.pair, answer)).collect()
        };
        let once = |holds: bool, step| if holds { vec![step] } else { Vec::new() };
        let ended = unsure.is_none() && turns.iter().any(|turn| !turn.is_open());
        let pending = self.deliveries.values().any(|delivery| delivery.pending.is_some());
        let waiting = EVENTS.into_iter().filter(|event| self.waiting(*event).is_some());
        let holds = self.messages.iter().any(|message| matches!(message.at, Place::Held { by, .. } if by == worker));
        vec![
            (8, waiting.map(|event| Step::Take(worker, event)).collect()),
            (3, attempted(Answer::Ok)),
            (8, attempted(Answer::Error)),
            (1, attempted(Answer::Gone)),
            (1, attempted(Answer::Internal)),
            (3, each(Turn::can_be_parked, Step::Park)),
            (8, each(Turn::can_be_closed, Step::Close)),
            (1, each(Turn::is_open, Step::LookAgain)),
            (3, each(Turn::can_be_released, Step::Release)),
            (8, once(ended, Step::Record(worker, Fate::Answered))),
            (2, once(ended, Step::Record(worker, Fate::Unanswered))),
            (1, once(ended, Step::Record(worker, Fate::Lost))),
            (4, once(unsure.is_some(), Step::Ask(worker))),
            (8, once(pending, Step::Claim(worker, 10))),
            (3, once(pending, Step::Claim(worker, 1))),
            (1, once(pending, Step::Sweep(worker))),
            (1, once(holds || !turns.is_empty() || unsure.is_some(), Step::Crash(worker))),
            (1, once(holds, Step::LoseChannel(worker))),
        ]
    }

    /// The next step if all workers are healthy and receivers answer 200; `None` when nothing is left to do.
    pub fn healthy(&self) -> Option<Step> {
        for (worker, Hand { turns, unsure }) in &self.hands {
            if unsure.is_some() {
                return Some(Step::Ask(*worker));
            }
            if let Some(turn) = turns.iter().find(|turn| turn.is_open()) {
                let close = turn.closes.map(|_| Step::Close(*worker, turn.pair));
                return Some(close.unwrap_or(Step::Attempt(*worker, turn.pair, Answer::Ok)));
            }
            if !turns.is_empty() {
                return Some(Step::Record(*worker, Fate::Answered));
            }
        }
        if let Some(event) = EVENTS.into_iter().find(|event| self.waiting(*event).is_some()) {
            return Some(Step::Take(Worker::A, event));
        }
        let (pair, delivery) = self.deliveries.iter().find(|(_, delivery)| delivery.pending.is_some())?;
        let (pair, pending) = (*pair, delivery.pending.as_ref()?);
        // The worker and the kind of step depend only on the numbers of the event and the webhook. So this part stays the
        // same when the shrinking leaves out earlier steps, and a failure in it remains.
        let worker = WORKERS[usize::from(pair.1.0) % WORKERS.len()];
        Some(match pending.due {
            None if pair.0.0 % 2 == 0 => Step::FallsDueUnseen(pair),
            None => Step::FallsDue(pair),
            Some(_) if pending.unseen.contains(&worker) => Step::Sweep(worker),
            Some(_) => Step::Claim(worker, 10),
        })
    }
}
