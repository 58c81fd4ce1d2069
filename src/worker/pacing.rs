//! Which webhooks have a pace, and when this worker asks again for grants of their requests.
//!
//! A turn of a webhook with a pace needs a grant: PostgreSQL grants so many requests in a second to all workers together. A
//! grant holds for a moment only. So requests in any window of 10 s were granted in a window that is hardly longer, however
//! long turns wait in their lanes. Pure.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::ids::WebhookId;
use crate::store::{Granted, Pace};

/// How long after it was asked for a grant may be used. 11 seconds' worth of requests in any 10 s are promised: those of
/// 10.75 s and a quarter of a second's worth that was kept.
pub(super) const GRANT_LASTS: Duration = Duration::from_millis(750);
/// When to ask again after no answer.
const AFTER_NO_ANSWER: Duration = Duration::from_millis(250);
/// For how long a webhook is taken to have deliveries that wait for grants after they were last seen.
const SEEN_WAITING: Duration = Duration::from_secs(2);
/// For how long a webhook's pace is remembered after its last use.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What this worker knows of the webhooks that have a pace.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Holds for every webhook.
    ceiling: Option<NonZeroU32>,
    webhooks: HashMap<WebhookId, Paced>,
}

#[derive(Debug)]
struct Paced {
    rate: NonZeroU32,
    /// Nothing is granted before.
    ask_at: Option<Instant>,
    /// When deliveries were last seen that waited for grants.
    seen_waiting: Option<Instant>,
    /// PostgreSQL did not answer when it was last asked.
    unanswered: bool,
    used: Instant,
}

/// What may be claimed of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MayClaim {
    Unpaced,
    /// So many at most, if they are granted.
    WithGrant(usize),
    /// Nothing before.
    From(Instant),
}

impl Pacing {
    pub(super) fn new(ceiling: Option<NonZeroU32>) -> Self {
        Self { ceiling, webhooks: HashMap::new() }
    }

    pub(super) fn may_claim(&mut self, webhook: WebhookId, now: Instant) -> MayClaim {
        let Some(paced) = self.webhooks.get_mut(&webhook) else {
            return self.ceiling.map_or(MayClaim::Unpaced, |ceiling| MayClaim::WithGrant(burst(ceiling)));
        };
        paced.used = now;
        match paced.ask_at {
            Some(at) if now < at => {
                paced.seen_waiting = Some(now);
                MayClaim::From(at)
            }
            _ => MayClaim::WithGrant(burst(paced.rate)),
        }
    }

    /// Deliveries of the webhook need grants.
    pub(super) fn found(&mut self, webhook: WebhookId, rate: NonZeroU32, now: Instant) {
        self.paced(webhook, rate, now);
    }

    /// Fresh deliveries of a webhook are parked for want of a grant.
    pub(super) fn parked(&mut self, webhook: WebhookId, rate: NonZeroU32, now: Instant) {
        self.paced(webhook, rate, now).seen_waiting = Some(now);
    }

    /// PostgreSQL has answered.
    pub(super) fn answered(&mut self, webhook: WebhookId, pace: Pace, now: Instant) {
        let Pace::Paced(Granted { rate, wanted, granted, again_in, .. }) = pace else {
            self.webhooks.remove(&webhook);
            return;
        };
        let paced = self.paced(webhook, rate, now);
        let waits = granted < wanted;
        paced.ask_at = waits.then(|| now + again_in);
        if waits {
            paced.seen_waiting = Some(now);
        }
        paced.unanswered = false;
    }

    /// Nothing waits for the webhook's grants any more.
    pub(super) fn nothing_waits(&mut self, webhook: WebhookId) {
        if let Some(paced) = self.webhooks.get_mut(&webhook) {
            (paced.ask_at, paced.seen_waiting) = (None, None);
        }
    }

    /// Whether due deliveries of the webhook wait for grants: fresh ones must not go before them.
    pub(super) fn waits(&self, webhook: WebhookId, now: Instant) -> bool {
        let seen = self.webhooks.get(&webhook).and_then(|paced| paced.seen_waiting);
        seen.is_some_and(|seen| now.saturating_duration_since(seen) < SEEN_WAITING)
    }

    /// Whether they wait for their pace alone, and so are not late. While PostgreSQL does not answer they wait for it.
    pub(super) fn is_in_time(&self, webhook: WebhookId, now: Instant) -> bool {
        self.waits(webhook, now) && !self.webhooks.get(&webhook).is_some_and(|paced| paced.unanswered)
    }

    /// Forgets webhooks that had nothing to do for long.
    pub(super) fn forget_unused(&mut self, now: Instant) {
        self.webhooks.retain(|_, paced| now.saturating_duration_since(paced.used) < REMEMBERED);
    }

    /// PostgreSQL has not answered. Fresh deliveries are parked meanwhile, without a further statement.
    pub(super) fn no_answer(&mut self, webhook: WebhookId, now: Instant) {
        let known = self.webhooks.get(&webhook).map(|paced| paced.rate);
        let Some(rate) = known.or(self.ceiling) else { return };
        let paced = self.paced(webhook, rate, now);
        (paced.ask_at, paced.seen_waiting, paced.unanswered) = (Some(now + AFTER_NO_ANSWER), Some(now), true);
    }

    fn paced(&mut self, webhook: WebhookId, rate: NonZeroU32, now: Instant) -> &mut Paced {
        let new = Paced { rate, ask_at: None, seen_waiting: None, unanswered: false, used: now };
        let paced = self.webhooks.entry(webhook).or_insert(new);
        (paced.rate, paced.used) = (rate, now);
        paced
    }
}

/// The most that is granted at once.
fn burst(rate: NonZeroU32) -> usize {
    usize::try_from(rate.get() / 4).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const SECOND: i64 = 1_000_000;
    const AHEAD: i64 = 5 * SECOND;

    /// One row of `paces`, with the arithmetic of `Store::take_pace`, in µs.
    struct Row {
        granted_until: i64,
    }

    impl Row {
        /// Grants requests, and returns the time of each: tests are granted ahead of theirs.
        fn take(&mut self, rate: i64, wanted: i64, now: i64, ahead: i64) -> Vec<i64> {
            let (cost, burst) = ((SECOND + rate - 1) / rate, (rate / 4).max(1));
            let base = self.granted_until.max(now - burst * cost).min(now + AHEAD);
            let granted = wanted.min(((now + ahead - base) / cost).max(0));
            if granted > 0 {
                self.granted_until = base + granted * cost;
            }
            (1..=granted).map(|number| (base + number * cost).max(now)).collect()
        }
    }

    /// Somebody asks.
    #[derive(Debug, Clone)]
    struct Ask {
        after: i64,
        wanted: i64,
        test: bool,
    }

    fn ask() -> impl Strategy<Value = Ask> {
        // Long gaps are rare: what nobody asks for meanwhile is lost, and cannot come too early.
        let after = prop_oneof![999 => 0..40_000i64, 1 => 0..2 * SECOND];
        (after, 0..4000i64, prop::bool::weighted(0.01)).prop_map(|(after, wanted, test)| Ask { after, wanted, test })
    }

    proptest! {
        #[test]
        fn in_any_10_s_at_most_11_seconds_worth_of_requests_begin(
            rate in prop_oneof![1..12i64, 1..=1000i64, Just(10_000i64)],
            asks in prop::collection::vec(ask(), 600..800),
            place in 0..5usize,
        ) {
            let lasts = i64::try_from(GRANT_LASTS.as_micros()).unwrap();
            // Nobody has asked for a second when this one does. What it is granted, and what is granted after it, begins as
            // late as it may, all at once: the most that can come together.
            let mut asks = asks;
            asks[place] = Ask { after: SECOND, wanted: 10_000, test: false };
            let all_begin_at = asks[..=place].iter().map(|ask| ask.after).sum::<i64>() + lasts;
            let (mut row, mut now, mut begun) = (Row { granted_until: i64::MIN / 2 }, 0, Vec::new());
            for Ask { after, wanted, test } in asks {
                now += after;
                let taken = if test { row.take(rate, 1, now, AHEAD) } else { row.take(rate, wanted, now, 0) };
                // A test waits for its time, and for nothing else.
                let begins = |at: i64| if test { at } else { at.max(all_begin_at.min(at + lasts)) };
                begun.extend(taken.into_iter().map(begins));
            }
            begun.sort_unstable();
            let mut end = 0;
            for (first, at) in begun.iter().enumerate() {
                while end < begun.len() && begun[end] < at + 10 * SECOND {
                    end += 1;
                }
                let count = i64::try_from(end - first).unwrap();
                prop_assert!(count <= 11 * rate, "{count} within 10 s at a pace of {rate}");
            }
        }
    }

    fn rate(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    fn granted(granted: usize, wanted: usize) -> Pace {
        let (again_in, wait) = (Duration::from_millis(200), Duration::ZERO);
        Pace::Paced(Granted { rate: rate(20), wanted, granted, again_in, wait })
    }

    #[test]
    fn a_webhook_without_a_pace_is_claimed_without_grants_and_one_with_a_pace_when_the_next_is_due() {
        let (mut pacing, now, webhook) = (Pacing::new(None), Instant::now(), WebhookId(Uuid::from_u128(1)));
        assert_eq!(pacing.may_claim(webhook, now), MayClaim::Unpaced);
        pacing.found(webhook, rate(20), now);
        assert_eq!(pacing.may_claim(webhook, now), MayClaim::WithGrant(5));
        assert!(!pacing.waits(webhook, now));
        pacing.answered(webhook, granted(2, 5), now);
        let again = now + Duration::from_millis(200);
        assert_eq!(pacing.may_claim(webhook, now), MayClaim::From(again));
        assert!(pacing.waits(webhook, now));
        assert_eq!(pacing.may_claim(webhook, again), MayClaim::WithGrant(5));
        pacing.answered(webhook, granted(5, 5), again);
        assert_eq!(pacing.may_claim(webhook, again), MayClaim::WithGrant(5));
        pacing.nothing_waits(webhook);
        assert!(!pacing.waits(webhook, again));
        pacing.answered(webhook, Pace::Unpaced, again);
        assert_eq!(pacing.may_claim(webhook, again), MayClaim::Unpaced);
    }

    #[test]
    fn what_postgresql_does_not_answer_for_is_late_and_fresh_deliveries_do_not_go_before_it() {
        let (mut pacing, now, webhook) = (Pacing::new(Some(rate(20))), Instant::now(), WebhookId::default());
        pacing.no_answer(webhook, now);
        let again = now + AFTER_NO_ANSWER;
        assert_eq!(pacing.may_claim(webhook, now), MayClaim::From(again));
        assert!(pacing.waits(webhook, now) && !pacing.is_in_time(webhook, now));
        pacing.answered(webhook, granted(0, 5), again);
        assert!(pacing.waits(webhook, again) && pacing.is_in_time(webhook, again));
    }

    #[test]
    fn a_ceiling_holds_for_webhooks_that_nobody_has_met() {
        let (mut pacing, now) = (Pacing::new(Some(rate(8))), Instant::now());
        assert_eq!(pacing.may_claim(WebhookId::default(), now), MayClaim::WithGrant(2));
    }

    #[test]
    fn what_was_seen_waiting_is_not_believed_for_long_and_paces_are_forgotten() {
        let (mut pacing, now, webhook) = (Pacing::new(None), Instant::now(), WebhookId::default());
        pacing.parked(webhook, rate(1), now);
        assert!(pacing.waits(webhook, now + SEEN_WAITING / 2));
        assert!(!pacing.waits(webhook, now + SEEN_WAITING));
        pacing.forget_unused(now + REMEMBERED / 2);
        assert_eq!(pacing.may_claim(webhook, now), MayClaim::WithGrant(1));
        pacing.forget_unused(now + REMEMBERED);
        assert_eq!(pacing.may_claim(webhook, now + REMEMBERED), MayClaim::Unpaced);
    }
}
