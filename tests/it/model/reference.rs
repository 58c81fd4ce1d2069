//! The model: what the store must hold after each step. A map of deliveries, each pending, closed or done, with its log.

use std::collections::{BTreeMap, BTreeSet};

use penr_webhooks::delivery::{ClosedReason, Trigger};

use super::step::{Answer, EVENTS, Event, Fate, Pair, Step, WEBHOOKS, WORKERS, Webhook, Worker};

mod broker;
mod possible;
mod turn;

use broker::{Message, Place};
use turn::{Ending, Next, Origin};
pub use turn::{Hand, Turn};

/// How often a delivery is attempted before it is exhausted.
pub const ATTEMPTS: u32 = 3;

/// All state on which deliveries depend.
#[derive(Debug, Clone)]
pub struct Model {
    pub webhooks: BTreeMap<Webhook, Registration>,
    pub events: BTreeMap<Event, Kept>,
    pub messages: Vec<Message>,
    pub deliveries: BTreeMap<Pair, Delivery>,
    pub hands: BTreeMap<Worker, Hand>,
    /// A counter that every step raises. Its values identify claims and order due times.
    pub moment: i64,
}

#[derive(Debug, Clone, Copy)]
pub struct Registration {
    pub state: State,
    /// Raised by every switching off.
    pub activation: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    On,
    Off,
    /// By the service itself, after a 410.
    Disabled,
    Deleted,
}

/// Whether an event is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    NotYet,
    Stored,
    Erased,
    Expired,
}

#[derive(Debug, Clone, Default)]
pub struct Delivery {
    pub pending: Option<Pending>,
    pub closed: Option<Closed>,
    pub log: Vec<Logged>,
    /// How often it was begun: each duplicate of the event begins it anew, and so does a batch that is recorded twice.
    pub begun: u32,
}

#[derive(Debug, Clone)]
pub struct Pending {
    pub attempts_made: u32,
    pub trigger: Trigger,
    pub activation: i32,
    /// The newest claim. Only its result decides what becomes of the delivery.
    claim: Option<i64>,
    /// The smaller, the longer it has been due; `None` is not due.
    pub due: Option<i64>,
    /// Workers whose search for due deliveries has passed it by: they find it only in a sweep.
    unseen: BTreeSet<Worker>,
}

#[derive(Debug, Clone, Copy)]
pub struct Closed {
    pub reason: ClosedReason,
    pub attempts_made: u32,
}

#[derive(Debug, Clone, Copy)]
pub struct Logged {
    pub attempt: u32,
    pub trigger: Trigger,
    pub answer: Answer,
}

impl Delivery {
    /// Whether the store already holds something of it, so that a redelivered message does not begin it again.
    fn is_taken(&self) -> bool {
        self.pending.is_some() || self.closed.is_some() || !self.log.is_empty()
    }
}

/// The result of a request to resend a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resent {
    Done,
    NoWebhook,
    NotOn,
    Unknown,
    EventGone,
}

impl Model {
    pub fn new() -> Self {
        Self {
            webhooks: WEBHOOKS.map(|webhook| (webhook, Registration { state: State::On, activation: 1 })).into(),
            events: EVENTS.map(|event| (event, Kept::NotYet)).into(),
            messages: Vec::new(),
            deliveries: BTreeMap::new(),
            hands: WORKERS.map(|worker| (worker, Hand::default())).into(),
            moment: 0,
        }
    }

    /// Why a delivery that was begun at this activation of its webhook is closed without an attempt now; `None` if it is
    /// attempted.
    fn closes(&self, webhook: Webhook, activation: i32) -> Option<ClosedReason> {
        let webhook = self.webhooks[&webhook];
        match webhook.state {
            State::Disabled => Some(ClosedReason::Disabled),
            State::On if webhook.activation == activation => None,
            _ => Some(ClosedReason::Cancelled),
        }
    }

    /// The result that a request to resend this delivery must have.
    pub fn resent(&self, Pair(event, webhook): Pair) -> Resent {
        let delivery = self.deliveries.get(&Pair(event, webhook));
        match (self.webhooks[&webhook].state, self.events[&event]) {
            (State::Deleted, _) => Resent::NoWebhook,
            (State::Off | State::Disabled, _) => Resent::NotOn,
            _ if !delivery.is_some_and(Delivery::is_taken) => Resent::Unknown,
            (_, Kept::Expired) => Resent::EventGone,
            (_, Kept::Erased) if !super::store::RECOVERS_ERASED => Resent::EventGone,
            _ => Resent::Done,
        }
    }

    /// The closed deliveries that recovering a webhook begins again; `None` if the recovery is refused.
    pub fn recoverable(&self, webhook: Webhook) -> Option<Vec<Pair>> {
        let kept = |pair: &Pair| match self.events[&pair.0] {
            Kept::Erased => super::store::RECOVERS_ERASED,
            kept => kept == Kept::Stored,
        };
        let closed = self.deliveries.iter().filter(|(pair, delivery)| pair.1 == webhook && delivery.closed.is_some());
        let closed = closed.map(|(pair, _)| *pair).filter(kept).collect();
        (self.webhooks[&webhook].state == State::On).then_some(closed)
    }

    /// Due deliveries, those that are due longest first.
    pub fn due(&self) -> Vec<Pair> {
        let due = |(pair, delivery): (&Pair, &Delivery)| Some((delivery.pending.as_ref()?.due?, *pair));
        let ordered: BTreeSet<(i64, Pair)> = self.deliveries.iter().filter_map(due).collect();
        ordered.into_iter().map(|(_, pair)| pair).collect()
    }

    /// Whether the store must say that the batch is recorded whose answer was lost. The store finds a batch by the id of an
    /// attempt, so a batch without one counts as not recorded.
    pub fn finds_recorded(&self, worker: Worker) -> bool {
        let attempted = |turn: &Turn| matches!(turn.ending, Some(Ending::Attempted(_)));
        let unsure = self.hands[&worker].unsure.as_ref();
        unsure.is_some_and(|(batch, committed)| *committed && batch.iter().any(attempted))
    }

    pub fn apply(&mut self, step: Step) {
        self.moment += 1;
        match step {
            Step::Publish(event) => {
                self.messages.push(Message { event, at: Place::Waits { redelivered: false }, owed: Vec::new() });
            }
            Step::Take(worker, event) => self.take(worker, event),
            Step::Attempt(worker, pair, answer) => {
                self.turn(worker, pair, Turn::can_be_attempted).ending = Some(Ending::Attempted(answer));
            }
            Step::Park(worker, pair) => self.turn(worker, pair, Turn::can_be_parked).ending = Some(Ending::Parked),
            Step::Close(worker, pair) => {
                let turn = self.turn(worker, pair, Turn::can_be_closed);
                turn.ending = turn.closes.map(Ending::NotAttempted);
            }
            Step::LookAgain(worker, pair) => self.look_again(worker, pair),
            Step::Record(worker, fate) => self.record(worker, fate),
            Step::Ask(worker) => self.ask(worker),
            Step::Claim(worker, room) => self.claim(worker, room),
            Step::Sweep(worker) => self.sweep(worker),
            Step::Release(worker, pair) => self.release(worker, pair),
            Step::FallsDue(pair) => self.falls_due(pair, self.moment, []),
            // Earlier than all other due times: the searches of both workers have passed it by.
            Step::FallsDueUnseen(pair) => self.falls_due(pair, -self.moment, WORKERS),
            Step::Crash(worker) => {
                self.hands.insert(worker, Hand::default());
                self.hand_back(worker);
                // A worker that starts reads the whole table first.
                self.sweep(worker);
            }
            Step::LoseChannel(worker) => self.lose_channel(worker),
            Step::SwitchOff(webhook) => {
                let webhook = self.webhook(webhook);
                webhook.activation += i32::from(webhook.state == State::On);
                webhook.state = State::Off;
            }
            Step::SwitchOn(webhook) => self.webhook(webhook).state = State::On,
            Step::Delete(webhook) => self.webhook(webhook).state = State::Deleted,
            Step::Resend(pair) => {
                if self.resent(pair) == Resent::Done {
                    self.pend_again(pair);
                    self.delivery(pair).closed = None;
                }
            }
            Step::Recover(webhook) => self.recover(webhook),
            Step::Erase(event) => drop(self.events.insert(event, Kept::Erased)),
            Step::Retention(event) => {
                self.events.insert(event, Kept::Expired);
                self.deliveries.iter_mut().filter(|(pair, _)| pair.0 == event).for_each(|(_, d)| d.closed = None);
            }
        }
    }

    fn look_again(&mut self, worker: Worker, pair: Pair) {
        let owed_since = self.turn(worker, pair, Turn::is_open).activation;
        let closes = self.closes(pair.1, owed_since);
        let now = self.webhooks[&pair.1].activation;
        let turn = self.turn(worker, pair, Turn::is_open);
        turn.closes = closes;
        if closes != Some(ClosedReason::Cancelled) {
            turn.activation = now;
        }
    }

    /// Records, as one batch, the turns that have ended, of each delivery one.
    fn record(&mut self, worker: Worker, fate: Fate) {
        let (mut batch, mut pairs, mut rest) = (Vec::new(), BTreeSet::new(), Vec::new());
        for turn in std::mem::take(&mut self.hand(worker).turns) {
            let chosen = !turn.is_open() && pairs.insert(turn.pair);
            if chosen { batch.push(turn) } else { rest.push(turn) }
        }
        self.hand(worker).turns = rest;
        if fate != Fate::Lost {
            self.write(&batch);
        }
        match fate {
            Fate::Answered => self.ack(&batch),
            Fate::Unanswered | Fate::Lost => self.hand(worker).unsure = Some((batch, fate == Fate::Unanswered)),
        }
    }

    fn ask(&mut self, worker: Worker) {
        let recorded = self.finds_recorded(worker);
        let (batch, committed) = self.hand(worker).unsure.take().expect("a batch is unsure");
        if !recorded {
            self.write(&batch);
        }
        if !recorded && committed {
            batch.iter().for_each(|turn| self.delivery(turn.pair).begun += 1);
        }
        self.ack(&batch);
    }

    fn write(&mut self, batch: &[Turn]) {
        for turn in batch {
            self.moment += 1;
            self.write_result(turn);
        }
        // A receiver that is gone disables its webhook, unless that was switched off meanwhile.
        for turn in batch.iter().filter(|turn| turn.ending == Some(Ending::Attempted(Answer::Gone))) {
            let webhook = self.webhook(turn.pair.1);
            if webhook.state == State::On && webhook.activation == turn.activation {
                *webhook = Registration { state: State::Disabled, activation: webhook.activation + 1 };
            }
        }
    }

    fn write_result(&mut self, turn: &Turn) {
        let moment = self.moment;
        let kept = self.events.get_mut(&turn.pair.0).expect("all are there");
        if *kept == Kept::NotYet {
            *kept = Kept::Stored;
        }
        let delivery = self.deliveries.entry(turn.pair).or_default();
        if let Some(Ending::Attempted(answer)) = turn.ending {
            delivery.log.push(Logged { attempt: turn.attempt, trigger: turn.trigger, answer });
        }
        // The result of a claim counts only if no newer claim was made. The result of a first attempt, which is made
        // straight from a message, counts only if nothing is pending yet.
        let decides = match turn.origin {
            Origin::Message(_) => delivery.pending.is_none(),
            Origin::Claim(claim) => delivery.pending.as_ref().is_some_and(|pending| pending.claim == Some(claim)),
        };
        let attempts_made = turn.attempts_made();
        match turn.next() {
            Next::Done => (delivery.pending, delivery.closed) = (None, None),
            _ if !decides => {}
            Next::Closes(reason) => {
                (delivery.pending, delivery.closed) = (None, Some(Closed { reason, attempts_made }));
            }
            Next::Waits { due, trigger } => {
                let activation = delivery.pending.as_ref().map_or(turn.activation, |pending| pending.activation);
                let due = due.then_some(moment);
                let unseen = BTreeSet::new();
                delivery.pending = Some(Pending { attempts_made, trigger, activation, claim: None, due, unseen });
            }
        }
    }

    fn claim(&mut self, worker: Worker, room: usize) {
        let mut rooms: BTreeMap<Webhook, usize> = WEBHOOKS.map(|webhook| (webhook, room)).into();
        for pair in self.due() {
            let room = rooms.get_mut(&pair.1).expect("all are there");
            let pending = self.delivery(pair).pending.as_ref().expect("it is due");
            let (attempts_made, trigger, activation) = (pending.attempts_made, pending.trigger, pending.activation);
            if *room == 0 || pending.unseen.contains(&worker) {
                continue;
            }
            *room -= 1;
            if matches!(self.events[&pair.0], Kept::Erased | Kept::Expired) {
                self.close(pair, ClosedReason::Cancelled);
                continue;
            }
            self.moment += 1;
            let claim = self.moment;
            let pending = self.delivery(pair).pending.as_mut().expect("it is due");
            (pending.claim, pending.due, pending.unseen) = (Some(claim), None, BTreeSet::new());
            let (origin, attempt) = (Origin::Claim(claim), attempts_made + 1);
            let closes = self.closes(pair.1, activation);
            let mut turn = Turn { pair, attempt, trigger, activation, closes, origin, ending: None };
            if closes == Some(ClosedReason::Disabled) {
                turn.activation = self.webhooks[&pair.1].activation;
            }
            self.hand(worker).turns.push(turn);
        }
        self.hand(worker).turns.sort_by_key(|turn| turn.pair);
    }

    /// Closes pending deliveries whose webhook was switched off, disabled or deleted since they began, and lets the worker find
    /// all that are due.
    fn sweep(&mut self, worker: Worker) {
        for pair in self.deliveries.keys().copied().collect::<Vec<_>>() {
            let Some(pending) = &mut self.delivery(pair).pending else { continue };
            pending.unseen.remove(&worker);
            let activation = pending.activation;
            if let Some(reason) = self.closes(pair.1, activation) {
                self.close(pair, reason);
            }
        }
    }

    fn close(&mut self, pair: Pair, reason: ClosedReason) {
        let delivery = self.delivery(pair);
        let attempts_made = delivery.pending.take().expect("it is pending").attempts_made;
        delivery.closed = Some(Closed { reason, attempts_made });
    }

    fn release(&mut self, worker: Worker, pair: Pair) {
        let turns = &mut self.hand(worker).turns;
        let index = turns.iter().position(|turn| turn.pair == pair && turn.can_be_released()).expect("it is in hand");
        let Origin::Claim(claim) = turns.remove(index).origin else { unreachable!("it is a claim") };
        let moment = self.moment;
        if let Some(pending) = &mut self.delivery(pair).pending
            && pending.claim == Some(claim)
        {
            (pending.claim, pending.due, pending.unseen) = (None, Some(moment), BTreeSet::new());
        }
    }

    fn falls_due(&mut self, pair: Pair, moment: i64, unseen: impl IntoIterator<Item = Worker>) {
        let pending = self.delivery(pair).pending.as_mut().expect("it waits");
        (pending.due, pending.unseen) = (Some(moment), unseen.into_iter().collect());
    }

    /// Sets a delivery back to the beginning of its schedule.
    fn pend_again(&mut self, pair: Pair) {
        self.moment += 1;
        let due = Some(self.moment);
        let activation = self.webhooks[&pair.1].activation;
        let (trigger, unseen) = (Trigger::Resend, BTreeSet::new());
        let pending = Pending { attempts_made: 0, trigger, activation, claim: None, due, unseen };
        self.delivery(pair).pending = Some(pending);
    }

    /// A delivery that is closed and also pending keeps its place in its schedule, unless it would be cancelled there.
    fn recover(&mut self, webhook: Webhook) {
        let activation = self.webhooks[&webhook].activation;
        for pair in self.recoverable(webhook).unwrap_or_default() {
            let delivery = self.delivery(pair);
            delivery.closed = None;
            if delivery.pending.as_ref().is_none_or(|pending| pending.activation < activation) {
                self.pend_again(pair);
            }
        }
    }

    /// Deliveries of acked messages that have neither succeeded nor been closed. When no step is left, there must be none.
    pub fn unended(&self) -> Vec<Pair> {
        let success = |delivery: &Delivery| delivery.log.iter().any(|logged| logged.answer == Answer::Ok);
        let ended = |pair: &Pair| {
            let delivery = &self.deliveries[pair];
            delivery.pending.is_none() && (delivery.closed.is_some() || success(delivery))
        };
        self.acked().flat_map(|message| message.owed.clone()).filter(|pair| !ended(pair)).collect()
    }

    fn webhook(&mut self, webhook: Webhook) -> &mut Registration {
        self.webhooks.get_mut(&webhook).expect("all are there")
    }

    fn delivery(&mut self, pair: Pair) -> &mut Delivery {
        self.deliveries.entry(pair).or_default()
    }

    fn hand(&mut self, worker: Worker) -> &mut Hand {
        self.hands.get_mut(&worker).expect("all are there")
    }

    /// The first turn of this delivery for which `may` holds.
    fn turn(&mut self, worker: Worker, pair: Pair, may: fn(&Turn) -> bool) -> &mut Turn {
        let turns = &mut self.hand(worker).turns;
        turns.iter_mut().find(|turn| turn.pair == pair && may(turn)).expect("it is in hand")
    }
}
