//! How often a dead letter may go back to its queue before the broker drops it, and when we must act before that. Pure.

/// The dead queue's delivery limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeliveryLimit {
    /// The limit in force, policies included. `None` if the management plugin does not tell.
    pub(super) known: Option<u32>,
    /// The limit with which the queue is declared. A policy may lower it.
    pub(super) declared: u32,
}

impl DeliveryLimit {
    /// The lowest limit that we expect of a policy, where the management plugin does not tell.
    const LOWEST: u32 = 3;
    /// No letter is read as often as that.
    const NEVER_REACHED: u32 = 100_000;

    /// Whether to rewrite a letter that returned so often, because its next return could be the last but one that the broker
    /// allows.
    pub(super) fn asks_to_rewrite(self, returns: i64) -> bool {
        is_near(returns, self.known.unwrap_or(Self::LOWEST).min(self.declared))
    }

    /// Whether one more return brings a letter to the limit or to one below it, as far as we know the limit.
    pub(super) fn is_near(self, returns: i64) -> bool {
        is_near(returns, self.lowest_known())
    }

    /// Whether reading letters may bring one to the limit, as far as we know the limit.
    pub(super) fn is_in_reach(self) -> bool {
        self.lowest_known() < Self::NEVER_REACHED
    }

    fn lowest_known(self) -> u32 {
        self.known.unwrap_or(self.declared).min(self.declared)
    }
}

fn is_near(returns: i64, limit: u32) -> bool {
    returns.saturating_add(2) >= i64::from(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_limit_that_looks_may_reach_is_in_reach() {
        let limit = |known, declared| DeliveryLimit { known, declared }.is_in_reach();
        assert_eq!([limit(None, 1_000_000), limit(Some(1_000_000), 1_000_000)], [false; 2]);
        assert_eq!([limit(Some(5), 1_000_000), limit(None, 5)], [true; 2]);
    }

    proptest! {
        /// The broker drops a letter when its count exceeds the limit. A crash of ours counts, too.
        #[test]
        fn a_letter_that_can_be_rewritten_survives_any_number_of_looks(limit in 2..40_u32, known: bool, looks in 1..200_u32) {
            let delivery_limit = DeliveryLimit { known: known.then_some(limit), declared: 1_000_000 };
            let mut returns = 0;
            for _ in 0..looks {
                returns = if delivery_limit.asks_to_rewrite(returns) { 0 } else { returns + 1 };
                let after_a_crash = returns + 1;
                prop_assert!(after_a_crash <= i64::from(limit));
            }
        }

        #[test]
        fn reading_stops_before_the_lowest_known_limit(limit in 3..1000_u32, known: bool, looks in 1..2000_u32) {
            let (known, declared) = if known { (Some(limit), u32::MAX) } else { (None, limit) };
            let limit_of_queue = DeliveryLimit { known, declared };
            let returns = (0..looks).fold(0, |returns, _| if limit_of_queue.is_near(returns) { returns } else { returns + 1 });
            prop_assert!(returns <= i64::from(limit) - 2);
            prop_assert!(limit_of_queue.asks_to_rewrite(returns) || !limit_of_queue.is_near(returns));
        }
    }
}
