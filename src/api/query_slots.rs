//! Limits how many expensive questions to the database each account, and all accounts together, may have at one time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::ids::AccountId;

/// Expensive questions of one account at one time.
const AT_ONCE: usize = 2;

/// One of so many of the pool's connections is left to questions that are not expensive; at least one.
const ONE_LEFT_OF: usize = 4;

/// The query slots of all accounts.
pub(super) struct QuerySlots {
    at_once: usize,
    accounts: Mutex<HashMap<AccountId, Weak<Semaphore>>>,
    /// One permit for each expensive question of any account.
    all: Arc<Semaphore>,
}

/// The right to ask one expensive question, until it is dropped.
pub(super) struct QuerySlot {
    /// How long it waited for the account's own questions.
    pub waited_for_account: Duration,
    _of_account: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// Whose questions took the slots until the deadline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TakenBy {
    Account,
    AllAccounts,
}

impl QuerySlots {
    pub(super) fn new(connections: usize) -> Self {
        let left = connections.div_ceil(ONE_LEFT_OF);
        let of_all = connections.saturating_sub(left).max(1);
        Self { at_once: AT_ONCE.min(of_all), accounts: Mutex::default(), all: Arc::new(Semaphore::new(of_all)) }
    }

    /// Waits for a slot, first come, first served.
    ///
    /// # Errors
    ///
    /// It did not come by the deadline.
    pub(super) async fn wait(&self, account: &AccountId, deadline: Instant) -> Result<QuerySlot, TakenBy> {
        let began = Instant::now();
        let of_account = permit(self.of(account), deadline).await.ok_or(TakenBy::Account)?;
        let waited_for_account = began.elapsed();
        // The account's own permit comes first: so no account has more questions than these in the queue of all.
        let of_all = permit(self.all.clone(), deadline).await.ok_or(TakenBy::AllAccounts)?;
        Ok(QuerySlot { waited_for_account, _of_account: of_account, _of_all: of_all })
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

async fn permit(slots: Arc<Semaphore>, deadline: Instant) -> Option<OwnedSemaphorePermit> {
    timeout_at(deadline, slots.acquire_owned()).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
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
        assert_eq!(slots.wait(&one, soon()).await.err(), Some(TakenBy::Account));
        assert!(slots.wait(&account("two"), late()).await.is_ok());
        let (third, ()) = tokio::join!(slots.wait(&one, late()), async { drop(first) });
        assert!(third.is_ok());
    }

    #[tokio::test]
    async fn all_accounts_together_leave_a_quarter_of_the_connections() {
        let slots = QuerySlots::new(8);
        let mut taken = Vec::new();
        for name in ["one", "one", "two", "two", "three", "three"] {
            taken.push(slots.wait(&account(name), late()).await.unwrap());
        }
        assert_eq!(slots.wait(&account("four"), soon()).await.err(), Some(TakenBy::AllAccounts));
        let four = account("four");
        let (fourth, ()) = tokio::join!(slots.wait(&four, late()), async { drop(taken.pop()) });
        assert!(fourth.is_ok());
    }

    #[tokio::test]
    async fn an_account_is_forgotten_with_its_last_slot_and_not_before() {
        let slots = QuerySlots::new(8);
        let first = slots.wait(&account("one"), late()).await;
        drop(slots.wait(&account("two"), late()).await);
        slots.forget_idle();
        assert_eq!(slots.accounts.lock().unwrap().len(), 1);
        let _second = slots.wait(&account("one"), late()).await;
        assert!(slots.wait(&account("one"), soon()).await.is_err());
        drop(first);
        assert!(slots.wait(&account("one"), late()).await.is_ok());
    }

    #[test]
    fn all_together_never_have_all_connections_unless_there_is_only_one() {
        let slots = [1, 2, 3, 4, 8, 20].map(QuerySlots::new);
        assert_eq!(slots.each_ref().map(|slots| slots.all.available_permits()), [1, 1, 2, 3, 6, 15]);
        assert_eq!(slots.map(|slots| slots.at_once), [1, 1, 2, 2, 2, 2]);
    }
}
