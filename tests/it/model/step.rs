//! The steps that make up a case, and their text in the message of a failure.

use std::fmt;

/// One of the account's webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Webhook(pub u8);

/// One of the events that may be published, once or several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event(pub u8);

/// A delivery: an event for a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair(pub Event, pub Webhook);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worker {
    A,
    B,
}

pub const WEBHOOKS: [Webhook; 2] = [Webhook(1), Webhook(2)];
pub const EVENTS: [Event; 3] = [Event(1), Event(2), Event(3)];
pub const WORKERS: [Worker; 2] = [Worker::A, Worker::B];

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Ok,
    Error,
    Gone,
    /// Our own failure.
    Internal,
}

/// What a worker learns of a batch that it records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Answered,
    /// Committed, but the answer is lost.
    Unanswered,
    /// Lost before it was committed.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Publish(Event),
    /// Takes the oldest message of the event that waits.
    Take(Worker, Event),
    Attempt(Worker, Pair, Answer),
    /// The delivery becomes a pending row without an attempt, due at once.
    Park(Worker, Pair),
    /// The webhook is off for this delivery: it ends without an attempt.
    Close(Worker, Pair),
    /// Reads the webhook again before the attempt.
    LookAgain(Worker, Pair),
    Record(Worker, Fate),
    /// Asks whether the batch whose answer was lost is recorded, and records it if not.
    Ask(Worker),
    /// Reads what fell due, and claims at most so many of each webhook.
    Claim(Worker, usize),
    /// Reads the whole table of pending deliveries, and closes those whose webhook is off or gone.
    Sweep(Worker),
    /// Gives a claimed delivery back without an attempt.
    Release(Worker, Pair),
    /// The wait for a retry, or the lease, ends.
    FallsDue(Pair),
    /// The same, but in a transaction that was committed long after: workers, who read by due time, have passed it by.
    FallsDueUnseen(Pair),
    Crash(Worker),
    /// The worker's channel is gone: the broker hands its messages to others.
    LoseChannel(Worker),
    SwitchOff(Webhook),
    SwitchOn(Webhook),
    Delete(Webhook),
    Resend(Pair),
    Recover(Webhook),
    /// Somebody deletes the stored event.
    Erase(Event),
    /// The event's day is over, with all that is kept of it but the log.
    Retention(Event),
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "webhook {}", self.0)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {}", self.0)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.0, self.1)
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {self:?}")
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "200",
            Self::Error => "500",
            Self::Gone => "410",
            Self::Internal => "internal",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(event) => write!(f, "{event} is published"),
            Self::Take(worker, event) => write!(f, "{worker} takes {event} from the broker"),
            Self::Attempt(worker, pair, answer) => write!(f, "{worker} attempts {pair}: {answer}"),
            Self::Park(worker, pair) => write!(f, "{worker} parks {pair}"),
            Self::Close(worker, pair) => write!(f, "{worker} ends {pair} without an attempt"),
            Self::LookAgain(worker, pair) => write!(f, "{worker} looks up the webhook of {pair} again"),
            Self::Record(worker, Fate::Answered) => write!(f, "{worker} records"),
            Self::Record(worker, Fate::Unanswered) => write!(f, "{worker} records, the answer is lost"),
            Self::Record(worker, Fate::Lost) => write!(f, "{worker} records, which is lost"),
            Self::Ask(worker) => write!(f, "{worker} asks what was recorded, and records the rest"),
            Self::Claim(worker, room) => write!(f, "{worker} claims, {room} of each webhook at most"),
            Self::Sweep(worker) => write!(f, "{worker} sweeps"),
            Self::Release(worker, pair) => write!(f, "{worker} gives {pair} back"),
            Self::FallsDue(pair) => write!(f, "{pair} falls due"),
            Self::FallsDueUnseen(pair) => write!(f, "{pair} fell due a while ago, committed only now"),
            Self::Crash(worker) => write!(f, "{worker} crashes and starts again"),
            Self::LoseChannel(worker) => write!(f, "{worker} loses its channel"),
            Self::SwitchOff(webhook) => write!(f, "{webhook} is switched off"),
            Self::SwitchOn(webhook) => write!(f, "{webhook} is switched on"),
            Self::Delete(webhook) => write!(f, "{webhook} is deleted"),
            Self::Resend(pair) => write!(f, "{pair} is resent"),
            Self::Recover(webhook) => write!(f, "{webhook} is recovered"),
            Self::Erase(event) => write!(f, "{event} is erased by hand"),
            Self::Retention(event) => write!(f, "retention ends for {event}"),
        }
    }
}
