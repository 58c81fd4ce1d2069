//! Shares the requests in flight between webhooks, so that a slow, failing or busy receiver delays no other. Pure: the
//! caller brings the clock, and measures how long something waits for a processor.
//!
//! # The picture
//!
//! Every webhook with work has a lane. A turn is a delivery that may be attempted now: a fresh one comes straight from
//! its broker message, a due one was claimed from Postgres.
//!
//! ```text
//!                   the lane of one webhook
//!            offer ┌────────────────────────┐ next                    ended
//!  fresh turn ───► │ fresh  [ ][ ][ ][ ][ ] │ ────► slot: one ─────────────► feedback to the lane
//!  due turn   ───► │ due    [ ][ ]          │       request in flight        (window, recovery, probe, pause)
//!      add_claimed └────────────────────────┘
//!        ▲                │ offer, tick or ended
//!        │ claimable      ▼
//!        └──────── parked in Postgres
//!
//!  All requests in flight, as they fill up to `worker.max_in_flight`:
//!  0                            1/2            3/4            all
//!  ├─────────────────────────────┼──────────────┼──────────────┤
//!  │ a lane may take half of     │ a lane may take its equal   │
//!  │ what is unused of this half │ part of one half            │
//!  │                             │              │ no slow, no  │
//!  │                             │              │ failing one  │
//! ```
//!
//! # What limits a lane
//!
//! The first column is the reason that the log (at debug) and the metric `lane_held_back` name.
//!
//! | Held back by | What it allows | Set by | Undone by |
//! |---|---|---|---|
//! | `per_webhook_cap` | `worker.max_in_flight_per_webhook` requests | the setting | the end of one of the lane's requests |
//! | `share` | an equal part of one half of all requests, or half of what is unused of that half if that is more | the number of lanes that had work in this second or the last, and all requests in flight | other lanes that have less work; the end of one of the lane's requests |
//! | `reserve` | none of the last quarter of all requests | a slow receiver: its last attempt took `worker.park_after` (longer on a busy machine), or none has ended for so long. A probe likewise | an attempt that is quick; the end of others' requests |
//! | `full` | `worker.max_in_flight` requests of all lanes | the setting | the end of any request |
//! | `window` | an eighth fewer requests than were in use, 4 at least | each success that this process's own work delayed: it took less than 8 times the delay | time: doubles every 128 ms after it was last shrunk |
//! | `recovery` | 2 requests after failures; half of those in flight when the receiver asked for time after a pause | the probe's success | doubles with each success; after a pause every 2 s |
//! | `probe` | one request at a time: the first `worker.probe_interval` after the failure, then twice as long apart each time, up to `worker.probe_interval_max` | `worker.probe_after` failures in a row, or a secret that cannot be decrypted | a success |
//! | `pause` | nothing until the time that the receiver asked for, then one request | an answer that asks for time, also to another worker | a success after that time; another URL of the webhook |
//!
//! The share follows dynamic thresholds (Choudhury and Hahne, *Dynamic Queue Length Thresholds for Shared-Memory Packet
//! Switches*, 1998): lanes that borrow leave the rest free for those that come. The window resembles TCP's: requests that
//! wait for a processor delay all others, those that wait for their receiver delay nobody.
//!
//! A webhook's pace is no limit of its lane, since it holds for all workers together: turns come into a lane with a grant.
//!
//! # What is parked
//!
//! Fresh turns in hand, waiting or in flight, are limited by [`LaneLimits::in_hand`]: the worker reads no further event
//! while so many are. A lane therefore gives fresh turns up to Postgres:
//! - all of them while its receiver is probed or paused;
//! - those offered beyond the lane's share while its receiver is slow;
//! - those that have waited `worker.park_after` for a slow receiver or, beyond the lane's share, for one whose attempts take
//!   longer than a request waits for processors, once half of what may be in hand is;
//! - once three quarters of what may be in hand have been for 100 ms: every turn offered to a lane that has more than a
//!   quarter of all that may be in hand, and, when nothing more fits, what it has beyond that quarter.

mod activity;
mod delays;
mod held_back;
mod idle;
mod lane;
mod limits;
mod pace;
mod parking;
mod pausing;
mod probe;
mod ready_queue;
mod recovery;
mod room;
mod slot;
#[cfg(test)]
mod tests;
mod turns;
mod window;

pub(crate) use delays::Delay;
pub(crate) use held_back::{HeldBackBy, HeldBackReport};
pub use limits::LaneLimits;
pub(crate) use probe::Pause;
pub(crate) use room::Lanes;
pub(crate) use slot::{Feedback, Offer, Slot, Start};
