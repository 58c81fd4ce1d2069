//! Limits how many expensive questions to the database each account may have at one time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::ids::AccountId;

/// Expensive questions of one account at one time.
const AT_ONCE: usize = 2;

/// The query slots of all accounts.
pub(super) struct QuerySlots {
    at_once: usize,
    accounts: Mutex<HashMap<AccountId, Weak<Semaphore>>>,
}

/// The right to ask one expensive question, until it is dropped.
pub(super) type QuerySlot = OwnedSemaphorePermit;

impl QuerySlots {
    /// Leaves at least one of the pool's connections to other accounts.
    pub(super) fn new(connections: usize) -> Self {
        Self { at_once: AT_ONCE.min(connections.saturating_sub(1)).max(1), accounts: Mutex::default() }
    }

    /// Waits for a slot, first come, first served; `None` if it does not come by the deadline.
    pub(super) async fn wait(&self, account: &AccountId, deadline: Instant) -> Option<QuerySlot> {
        timeout_at(deadline, self.of(account).acquire_owned()).await.ok()?.ok()
    }

    fn of(&self, account: &AccountId) -> Arc<Semaphore> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = accounts.get(account).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Semaphore::new(self.at_once));
        accounts.insert(account.clone(), Arc::downgrade(&new));
        new
    }

    /// Removes accounts that neither have a slot nor wait for one.
    pub(super) fn forget_idle(&self) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|_, slots| slots.strong_count() > 0);
        accounts.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The deadline for a slot that must not come.
    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    /// The deadline for a slot that must come.
    fn late() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn account(name: &str) -> AccountId {
        AccountId::parse(name).unwrap()
    }

    #[tokio::test]
    async fn a_third_question_of_an_account_waits_for_a_slot_and_that_of_another_account_does_not() {
        let (slots, one) = (QuerySlots::new(8), account("one"));
        let first = slots.wait(&one, late()).await.unwrap();
        let _second = slots.wait(&one, late()).await.unwrap();
        assert!(slots.wait(&one, soon()).await.is_none());
        assert!(slots.wait(&account("two"), soon()).await.is_some());
        let (third, ()) = tokio::join!(slots.wait(&one, late()), async { drop(first) });
        assert!(third.is_some());
    }

    #[tokio::test]
    async fn an_account_is_forgotten_with_its_last_slot_and_not_before() {
        let slots = QuerySlots::new(8);
        let first = slots.wait(&account("one"), late()).await;
        drop(slots.wait(&account("two"), late()).await);
        slots.forget_idle();
        assert_eq!(slots.accounts.lock().unwrap().len(), 1);
        let _second = slots.wait(&account("one"), late()).await;
        assert!(slots.wait(&account("one"), soon()).await.is_none());
        drop(first);
        assert!(slots.wait(&account("one"), late()).await.is_some());
    }

    #[test]
    fn one_account_never_has_all_connections_unless_there_is_only_one() {
        assert_eq!([1, 2, 3, 8].map(|connections| QuerySlots::new(connections).at_once), [1, 1, 2, 2]);
    }
}
