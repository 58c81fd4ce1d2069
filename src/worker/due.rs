//! Claims deliveries whose time has come, of each webhook about as many as its lane has room for.
//!
//! 1. `read` asks Postgres which webhooks have deliveries that fell due since the last time, and notes them on the agenda.
//! 2. `sweep` looks through the table of pending deliveries, a few pages at a time. It finds what `read` missed, and closes
//!    deliveries to webhooks that have been switched off or deleted.
//! 3. `claim` claims deliveries of the webhooks on the agenda that have room, and puts them into their lanes. A webhook
//!    leaves the agenda when nothing due is left of it. Of a webhook with a pace it claims what is granted: see `pacing`.
//!
//! No statement reads much, however many deliveries wait, are due without room, or are dead rows.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use super::grants::Grants;
use super::pacing::MayClaim;
use super::portion::Portion;
use super::turn::{Grant, Origin, Turn};
use crate::config::Worker;
use crate::delivery::ClosedReason;
use crate::error_chain;
use crate::ids::WebhookId;
use crate::store::{Claimed, Claims, Ended, Owed, Pages, ReadUntil, Room, StoreError};

mod agenda;
mod asking;
mod sweep;

use agenda::{Agenda, Look};
use asking::Asking;
use sweep::Sweep;

/// The wait before the next step while there is more to do: the turns just claimed begin meanwhile.
const MORE: Duration = Duration::from_millis(5);
/// `read` begins this long before the end of the last time: a delivery may be committed later than it falls due.
const OVERLAP: Duration = Duration::from_secs(1);
/// The same every [`DEEP_EVERY`]: as long as a transaction of a worker may take.
const DEEP_OVERLAP: Duration = Duration::from_secs(15);
const DEEP_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Due {
    pub(super) attempts: Arc<Attempts>,
    pub(super) worker: Worker,
    pub(super) stop: CancellationToken,
}

/// Where the search for due deliveries stands.
struct Search {
    agenda: Agenda,
    read_until: ReadUntil,
    /// When `read` is next to be done, and when next with the larger overlap.
    read_next: Instant,
    read_deep: Instant,
    sweep: Sweep,
    /// Deliveries claimed by one statement: fewer after one ran out of time.
    portion: Portion,
    asking: Asking,
    /// Between reads: longer each time while they find nothing.
    idle: Duration,
    /// Webhooks that were off when they were last seen. What is owed to them is closed and not late, however long it takes.
    off: HashSet<WebhookId>,
    /// When the first pause of a webhook on the agenda is over, or the first one may be granted requests again.
    wake: Option<Instant>,
}

/// What to claim of the webhooks without a pace, and of those with one.
struct Rooms {
    unpaced: Vec<Room>,
    paced: Vec<Room>,
}

impl Search {
    /// Waits for the next step. What is granted is claimed at once.
    async fn wait(&mut self, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.asking.answered() => {}
        }
    }
}

impl Due {
    pub(super) async fn run(self) {
        let (asking, asked) = Asking::new();
        tokio::select! {
            () = self.search(asking) => {}
            // It ends only if the search does.
            () = asked.answer_all(&self.attempts) => {}
        }
    }

    async fn search(&self, asking: Asking) {
        let now = Instant::now();
        let mut search = Search {
            agenda: Agenda::default(),
            read_until: ReadUntil::default(),
            read_next: now,
            read_deep: now,
            sweep: Sweep::new(now),
            portion: Portion::of(self.worker.batch),
            asking,
            idle: self.worker.poll_interval,
            off: HashSet::new(),
            wake: None,
        };
        let (mut wait, mut stall) = (Duration::ZERO, self.attempts.stalls.wait());
        while self.stop.run_until_cancelled(search.wait(wait)).await.is_some() {
            // A stop does not interrupt a step: what was claimed must be started or given back.
            wait = match self.step(&mut search).await {
                Ok(wait) => wait,
                Err(error) => {
                    let waited = stall.after("cannot ask for due deliveries", &error);
                    self.stop.run_until_cancelled(waited).await;
                    continue;
                }
            };
            stall.over();
        }
    }

    /// Reads, sweeps and claims, each if it is time to. Returns the wait before the next step.
    ///
    /// # Errors
    ///
    /// When the database did not answer what was read or claimed. The next step repeats it.
    async fn step(&self, search: &mut Search) -> Result<Duration, StoreError> {
        let mut more = false;
        if Instant::now() >= search.read_next {
            more |= self.read(search).await?;
        }
        if Instant::now() >= search.sweep.next {
            more |= self.sweep(search).await;
        }
        let claimed = self.claim(search).await?;
        if more || claimed {
            search.idle = self.worker.poll_interval;
            return Ok(MORE);
        }
        // A lane may have room again before the next read.
        let wait = if search.agenda.is_long() { search.idle } else { self.worker.poll_interval };
        // A pause may end earlier: a receiver that allows a few requests a second would lose some of them to a late probe.
        let wake = search.wake.map(|wake| wake.saturating_duration_since(Instant::now()).max(MORE));
        Ok(wake.map_or(wait, |wake| wake.min(wait)))
    }

    /// Notes on the agenda the webhooks with deliveries that fell due since the last time. Returns whether there are more.
    async fn read(&self, search: &mut Search) -> Result<bool, StoreError> {
        let deep = Instant::now() >= search.read_deep;
        let overlap = if deep { DEEP_OVERLAP } else { OVERLAP };
        let found = self.attempts.store.find_due(search.read_until, overlap).await?;
        if deep && !found.more {
            search.read_deep = Instant::now() + DEEP_EVERY;
        }
        search.read_until = found.until;
        search.off.retain(|webhook| search.agenda.has(*webhook));
        let news = found.webhooks.into_iter().filter(|due| search.agenda.note(*due)).count();
        let late = self.oldest(search).map(|since| found.now.duration_since(since).as_secs_f64());
        self.attempts.metrics.due_lag.set(late.unwrap_or_default().max(0.0));
        search.idle = match news {
            0 => (search.idle * 2).min(self.worker.poll_interval_max),
            _ => self.worker.poll_interval,
        };
        search.read_next = Instant::now() + if found.more { Duration::ZERO } else { search.idle };
        Ok(found.more)
    }

    /// Since when the delivery that has waited longest may have been due, apart from those that wait for their pace, are held, or
    /// are of webhooks that are off. Counts the webhooks that wait for their pace.
    fn oldest(&self, search: &mut Search) -> Option<Timestamp> {
        let (mut pacing, now) = (self.attempts.pacing(), Instant::now());
        pacing.forget_unused(now);
        let (mut waiting, held) = (0, self.attempts.holds.now());
        search.agenda.holds_are(held.change());
        let oldest = search.agenda.oldest(|webhook| {
            if search.off.contains(&webhook) || held.seems_to_have(webhook) {
                return true;
            }
            let waits = pacing.is_in_time(webhook, now);
            waiting += i64::from(waits);
            waits
        });
        self.attempts.metrics.pace_waiting.set(waiting);
        oldest
    }

    /// Looks through the next pages of the table. Returns whether to go on at once. Claims do not depend on a sweep: pages
    /// that failed are looked through again, fewer at a time if that took too long.
    async fn sweep(&self, search: &mut Search) -> bool {
        let pages = search.sweep.pages();
        let off = &mut search.off;
        let swept = async {
            let swept = self.attempts.store.sweep(pages).await?;
            // Before they are closed, which may fail.
            off.extend(&swept.off);
            if !swept.ended.is_empty() {
                self.close_ended(pages, &swept.ended).await?;
            }
            Ok::<_, StoreError>(swept)
        };
        match swept.await {
            Ok(swept) => {
                for due in &swept.due {
                    search.agenda.note(*due);
                    search.off.remove(&due.id);
                }
                let held = self.attempts.holds.now();
                let mut owed = Owed::default();
                for (webhook, of_webhook) in &swept.of_webhooks {
                    owed += if held.seems_to_have(*webhook) { of_webhook.held() } else { *of_webhook };
                }
                if let Some(owed) = search.sweep.looked_at(pages, &swept, owed, Instant::now()) {
                    let (number, metrics) = (|count| i64::try_from(count).unwrap_or(i64::MAX), &self.attempts.metrics);
                    metrics.pending.set(number(owed.all));
                    metrics.held.set(number(owed.held));
                    metrics.due.set(number(owed.due));
                    metrics.parked_waiting.set(number(owed.unattempted));
                    self.attempts.unopened.forget_unseen(3 * self.worker.probe_interval_max);
                }
                search.sweep.next <= Instant::now()
            }
            Err(error) => {
                tracing::debug!(error = error_chain(&error), "cannot sweep pending deliveries, trying again");
                search.sweep.failed(pages, &error, Instant::now());
                false
            }
        }
    }

    async fn close_ended(&self, pages: Pages, ended: &[Ended]) -> Result<(), StoreError> {
        for closed in self.attempts.store.close_ended(pages, ended).await? {
            self.attempts.unopened.forget(closed.webhook);
            let reason = closed.reason.as_str();
            self.attempts.metrics.closed.add(reason, closed.deliveries);
            let deliveries = closed.deliveries;
            tracing::info!(
                webhook_id = %closed.webhook,
                deliveries,
                reason,
                "closed deliveries of a webhook that is off or gone"
            );
        }
        Ok(())
    }

    /// Claims deliveries of the webhooks on the agenda that have room. Returns whether there were any.
    async fn claim(&self, search: &mut Search) -> Result<bool, StoreError> {
        let answer = search.asking.take_answer();
        if self.attempts.holds.has_every_webhook() || !self.attempts.outage.permits_claims() {
            search.wake = None;
            return Ok(false);
        }
        let granted = answer.as_ref().map(|(rooms, grants)| self.granted(search, rooms, grants)).unwrap_or_default();
        let Rooms { unpaced: mut rooms, paced } = self.rooms(search, &granted);
        if !paced.is_empty() {
            search.asking.ask(paced);
        }
        rooms.extend(granted);
        if rooms.is_empty() {
            return Ok(false);
        }
        let looked_up = Instant::now();
        let claims = match self.attempts.store.claim_due(&self.attempts.keyring, &rooms, self.worker.lease).await {
            Ok(claims) => claims,
            Err(error) => {
                if error.ran_out_of_time() {
                    search.portion.ran_out_of_time(rooms.iter().map(|room| room.most).sum());
                }
                return Err(error);
            }
        };
        search.portion.ended();
        for Claimed { delivery, .. } in &claims.deliveries {
            if ClosedReason::of(delivery.webhook.state.standing()).is_none() {
                search.off.remove(&delivery.webhook.id);
            }
        }
        for room in &rooms {
            // A webhook that is paused, or that needs grants, stays on the agenda.
            if let Some(webhook) = claims.paused.get(&room.webhook) {
                self.attempts.pause_lane(webhook).await;
            } else if let Some(pace) = claims.ungranted.get(&room.webhook) {
                self.attempts.pacing().found(room.webhook, *pace, Instant::now());
            } else {
                let taken = claims.taken.get(&room.webhook);
                search.agenda.claimed(room, taken);
                if room.granted && taken.is_none_or(|taken| taken.count < room.most) {
                    self.attempts.pacing().nothing_waits(room.webhook);
                }
            }
        }
        self.log_without_event(&claims);
        let found = !claims.taken.is_empty() || !claims.ungranted.is_empty();
        let turn = |Claimed { delivery, claim: number, waited }| {
            let origin = Origin::Claim(number);
            let received = waited.and_then(|waited| looked_up.checked_sub(waited));
            let grant = answer.as_ref().map_or(Grant::None, |(_, grants)| grants.grant(delivery.webhook.id));
            Turn { delivery, origin, looked_up, grant, received }
        };
        self.attempts.admit_claimed(claims.deliveries.into_iter().map(turn));
        Ok(found)
    }

    /// The rooms of which something may be claimed, of those that grants were asked for.
    fn granted(&self, search: &mut Search, asked: &[Room], grants: &Grants) -> Vec<Room> {
        let mut rooms = Vec::new();
        for room in asked {
            if grants.has_nothing_due(room.webhook) {
                search.agenda.claimed(room, None);
                self.attempts.pacing().nothing_waits(room.webhook);
            }
            if !self.attempts.holds.now().seems_to_have(room.webhook) {
                rooms.extend(grants.granted(*room));
            }
        }
        rooms
    }

    /// How many deliveries to claim of which other webhooks than those of the rooms that are `granted`. Notes when the first
    /// of their pauses, or of their waits for a grant, is over.
    fn rooms(&self, search: &mut Search, granted: &[Room]) -> Rooms {
        let most = if self.attempts.outage.is_out() { 1 } else { search.portion.size() };
        let most = most.saturating_sub(granted.iter().map(|room| room.most).sum());
        let is_granted: HashSet<WebhookId> = granted.iter().map(|room| room.webhook).collect();
        let (mut wake, mut asking): (Option<Instant>, _) = (None, HashSet::new());
        let may_ask = !search.asking.is_under_way();
        let (mut pacing, lanes, now) = (self.attempts.pacing(), self.attempts.lanes(), Instant::now());
        let held = self.attempts.holds.now();
        search.agenda.holds_are(held.change());
        let rooms = search.agenda.rooms(most, |webhook| {
            if held.seems_to_have(webhook) {
                return Look::Held;
            }
            if is_granted.contains(&webhook) {
                return Look::Room(0);
            }
            let paused_until = lanes.paused_until(webhook, now);
            let (room, granted_from) = match pacing.may_claim(webhook, now) {
                MayClaim::Unpaced => (lanes.claimable(webhook, now), None),
                MayClaim::WithGrant(most) if may_ask => {
                    asking.insert(webhook);
                    (lanes.claimable_to_start(webhook, now).min(most), None)
                }
                MayClaim::WithGrant(_) => (0, None),
                MayClaim::From(at) => (0, Some(at)),
            };
            wake = wake.into_iter().chain(paused_until).chain(granted_from).min();
            Look::Room(room)
        });
        search.wake = wake;
        let (paced, unpaced) = rooms.into_iter().partition(|room| asking.contains(&room.webhook));
        Rooms { unpaced, paced }
    }

    /// Counts and logs deliveries that were closed because their event is not stored any more.
    fn log_without_event(&self, claims: &Claims) {
        let reason = ClosedReason::Cancelled.as_str();
        let mut webhooks: BTreeMap<WebhookId, u64> = BTreeMap::new();
        for (webhook, delivery) in &claims.without_event {
            *webhooks.entry(*webhook).or_default() += 1;
            tracing::debug!(webhook_id = %webhook, delivery_id = %delivery.0, "the event of a delivery is gone");
        }
        for (webhook, deliveries) in webhooks {
            self.attempts.metrics.closed.add(reason, deliveries);
            tracing::warn!(webhook_id = %webhook, deliveries, reason, "closed deliveries whose events are gone");
        }
    }
}
