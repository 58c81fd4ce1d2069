//! Keeps one account from using what others need: so many requests at once, and so many over time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::problem::Problem;
use crate::config::ApiLimits;
use crate::event::AccountId;

type PerAccount = RateLimiter<AccountId, HashMapStateStore<AccountId>, DefaultClock>;

/// Accounts that were quiet long enough are forgotten every so many requests.
const FORGET_EVERY: u32 = 4096;
/// Tests that may follow each other at once.
const TESTS_AT_ONCE: u32 = 5;

pub(super) struct Limits {
    requests: PerAccount,
    tests: PerAccount,
    seen: AtomicU32,
}

impl Limits {
    pub(super) fn new(settings: &ApiLimits) -> Self {
        let at_once = settings.tests_per_minute.min(TESTS_AT_ONCE.try_into().expect("not zero"));
        let requests = Quota::per_second(settings.requests_per_second).allow_burst(settings.requests_burst);
        Self {
            requests: RateLimiter::hashmap(requests),
            tests: RateLimiter::hashmap(Quota::per_minute(settings.tests_per_minute).allow_burst(at_once)),
            seen: AtomicU32::new(0),
        }
    }

    /// Counts a request of an account, or says when it may come.
    pub(super) fn request(&self, account: &AccountId) -> Result<(), Problem> {
        if self.seen.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            for limiter in [&self.requests, &self.tests] {
                limiter.retain_recent();
                limiter.shrink_to_fit();
            }
        }
        check(&self.requests, account)
    }

    /// Counts a test of an account, likewise.
    pub(super) fn test(&self, account: &AccountId) -> Result<(), Problem> {
        check(&self.tests, account)
    }
}

fn check(limiter: &PerAccount, account: &AccountId) -> Result<(), Problem> {
    limiter.check_key(account).map_err(|not_until| {
        let wait: Duration = not_until.wait_time_from(limiter.clock().now());
        Problem::rate_limited(wait)
    })
}
