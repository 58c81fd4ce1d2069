//! Limits each account: its requests per second, its test sends per minute, and its expensive questions at one time.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{NotUntil, Quota, RateLimiter};
use tokio::time::Instant;

use super::problem::Problem;
use super::query::Query;
use super::query_slots::{QuerySlot, QuerySlots, TakenBy};
use crate::config::ApiLimits;
use crate::ids::AccountId;

type PerAccount = RateLimiter<AccountId, HashMapStateStore<AccountId>, DefaultClock>;

/// Idle accounts are removed from memory every so many requests.
const FORGET_EVERY: u32 = 4096;
/// Test sends that may follow each other without a pause.
const TESTS_AT_ONCE: u32 = 5;
/// A request counts as so many if the database may have to read thousands of rows for it. The page reads up to 21 pages of
/// a filtered log in a row, for which the default `requests_burst` is enough.
const EXPENSIVE_WEIGHT: NonZeroU32 = NonZeroU32::new(4).expect("not zero");

/// The limits of all accounts.
pub(super) struct RateLimits {
    requests: PerAccount,
    burst: NonZeroU32,
    tests: PerAccount,
    slots: QuerySlots,
    /// Requests since the start, to know when to remove idle accounts.
    seen: AtomicU32,
}

impl RateLimits {
    pub(super) fn new(settings: &ApiLimits, connections: usize) -> Self {
        let at_once = settings.tests_per_minute.min(TESTS_AT_ONCE.try_into().expect("not zero"));
        let requests = Quota::per_second(settings.requests_per_second).allow_burst(settings.requests_burst);
        Self {
            requests: RateLimiter::hashmap(requests),
            burst: settings.requests_burst,
            tests: RateLimiter::hashmap(Quota::per_minute(settings.tests_per_minute).allow_burst(at_once)),
            slots: QuerySlots::new(connections),
            seen: AtomicU32::new(0),
        }
    }

    /// Counts a request of an account. One that weighs more than the burst counts as the whole burst.
    ///
    /// # Errors
    ///
    /// 429, which says when to try again, if the account has used up its rate.
    pub(super) fn request(&self, account: &AccountId, weight: NonZeroU32) -> Result<(), Problem> {
        if self.seen.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            for limiter in [&self.requests, &self.tests] {
                limiter.retain_recent();
                limiter.shrink_to_fit();
            }
            self.slots.forget_idle();
        }
        let counted = self.requests.check_key_n(account, weight.min(self.burst)).expect("no more than the burst");
        counted.map_err(|not_until| too_often(&self.requests, &not_until))
    }

    /// Counts a test send of an account.
    ///
    /// # Errors
    ///
    /// 429, as for requests.
    pub(super) fn test(&self, account: &AccountId) -> Result<(), Problem> {
        self.tests.check_key(account).map_err(|not_until| too_often(&self.tests, &not_until))
    }

    /// Waits for a slot for an expensive question of the account.
    ///
    /// # Errors
    ///
    /// None was free by the deadline.
    pub(super) async fn query_slot(&self, account: &AccountId, deadline: Instant) -> Result<QuerySlot, TakenBy> {
        self.slots.wait(account, deadline).await
    }
}

fn too_often(limiter: &PerAccount, not_until: &NotUntil<<DefaultClock as Clock>::Instant>) -> Problem {
    Problem::rate_limited(not_until.wait_time_from(limiter.clock().now()))
}

const ONE_WEBHOOK: &str = "/v1/webhooks/{id}";
const LOG: &str = "/v1/webhooks/{id}/deliveries";
const RECOVER: &str = "/v1/webhooks/{id}/recover";
const STATS: &str = "/v1/webhooks/{id}/stats";

/// The routes that may have the database read thousands of rows for one request.
#[cfg(test)]
pub(super) const EXPENSIVE: [&str; 4] = [ONE_WEBHOOK, LOG, RECOVER, STATS];

/// How many requests this one counts as in its account's rate.
pub(super) fn weight(route: &str, query: &Query) -> NonZeroU32 {
    let is_expensive = match route {
        LOG => searches_log(query),
        // What waits is counted far.
        ONE_WEBHOOK => query.text("include").is_some(),
        RECOVER | STATS => true,
        _ => false,
    };
    if is_expensive { EXPENSIVE_WEIGHT } else { NonZeroU32::MIN }
}

/// Whether the log may have to be searched for what the query wants. Failures and one delivery's attempts have indexes of their
/// own.
fn searches_log(query: &Query) -> bool {
    let is_filtered = query.text("event_type").is_some()
        || query.text("http_status").is_some()
        || query.text("status") == Some("success")
        || query.text("view") == Some("deliveries");
    is_filtered && query.text("delivery_id").is_none() && query.text("event_id").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(burst: u32) -> ApiLimits {
        let default = crate::config::Settings::load(None, [], |_| unreachable!("no file is named"));
        let limits = default.expect("the defaults are valid").api.limits;
        ApiLimits { requests_burst: NonZeroU32::new(burst).unwrap(), ..limits }
    }

    fn weight_of(route: &str, query: &str) -> u32 {
        let known = [
            "limit",
            "status",
            "event_type",
            "delivery_id",
            "event_id",
            "http_status",
            "view",
            "state",
            "from",
            "cursor",
            "window",
            "include",
        ]
        .map(str::to_owned);
        weight(route, &Query::read(query, &known).unwrap()).get()
    }

    #[test]
    fn what_reads_thousands_of_rows_counts_for_more() {
        let one =
            ["limit=100&delivery_id=x&status=success", "view=deliveries&event_id=x", "http_status=500&event_id=x"];
        for query in ["", "limit=100", "limit=1&status=failed", "from=x", "cursor=x", one[0], one[1], one[2]] {
            assert_eq!(weight_of(LOG, query), 1, "{query}");
        }
        let deliveries = ["view=deliveries", "view=deliveries&state=pending", "http_status=500"];
        for query in ["status=success", "event_type=a.b", "status=failed&event_type=a.b"].iter().chain(&deliveries) {
            assert_eq!(weight_of(LOG, query), 4, "{query}");
        }
        assert_eq!(["", "include=activity"].map(|query| weight_of(ONE_WEBHOOK, query)), [1, 4]);
        assert_eq!([STATS, RECOVER].map(|route| weight_of(route, "")), [4, 4]);
        assert_eq!(weight_of("/v1/webhooks", "limit=100"), 1);
    }

    #[test]
    fn expensive_requests_use_up_the_burst_sooner_and_one_is_always_possible() {
        let account = AccountId::parse("one").unwrap();
        for (burst, expensive) in [(1, 1), (3, 1), (8, 2), (100, 25)] {
            let limits = RateLimits::new(&settings(burst), 8);
            let granted = (0..30).filter(|_| limits.request(&account, EXPENSIVE_WEIGHT).is_ok()).count();
            // Time goes on meanwhile.
            assert!((expensive..=expensive + 1).contains(&granted), "{granted} of {burst}");
        }
    }
}
