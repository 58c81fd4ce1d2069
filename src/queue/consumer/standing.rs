//! How the consumers of one worker stand, as its metrics show it: the worker is attached if all of them are, and lacks what one of
//! them lacks.

use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::Metrics;

/// How one consumer stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    queue: String,
    pub(super) attached: bool,
    pub(super) without_quorum: bool,
    pub(super) isolated: bool,
    pub(super) rights_missing: bool,
}

/// The consumers of one worker.
#[derive(Debug)]
struct All {
    standings: Mutex<Vec<Standing>>,
    metrics: Metrics,
}

/// Where one consumer reports how it stands.
#[derive(Debug)]
pub(crate) struct StandingReport {
    all: Arc<All>,
    index: usize,
}

impl StandingReport {
    /// One for each queue, in their order.
    pub(crate) fn of_each(queues: impl IntoIterator<Item = String>, metrics: &Metrics) -> Vec<Self> {
        let standings: Vec<_> = queues.into_iter().map(|queue| Standing { queue, ..Standing::default() }).collect();
        let count = standings.len();
        let all = Arc::new(All { standings: Mutex::new(standings), metrics: metrics.clone() });
        all.show(&all.standings.lock().unwrap_or_else(PoisonError::into_inner));
        (0..count).map(|index| Self { all: all.clone(), index }).collect()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Standing)) {
        let mut standings = self.all.standings.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut standings[self.index]);
        self.all.show(&standings);
    }
}

impl All {
    fn show(&self, standings: &[Standing]) {
        let any = |is: fn(&Standing) -> bool| i64::from(standings.iter().any(is));
        let Metrics { consumer_attached, queue_without_quorum, isolated, rights_missing, .. } = &self.metrics;
        consumer_attached.set(1 - any(|standing| !standing.attached));
        queue_without_quorum.set(any(|standing| standing.without_quorum));
        isolated.set(any(|standing| standing.isolated));
        rights_missing.set(any(|standing| standing.rights_missing));
        // Of a single queue, `consumer_attached` says the same.
        let several = standings.len() > 1;
        let away = standings.iter().filter(|standing| several && !standing.attached);
        let away = away.map(|standing| standing.queue.clone());
        *self.metrics.queues_away.lock().unwrap_or_else(PoisonError::into_inner) = away.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_attached_once_all_its_consumers_are_and_lacks_what_one_of_them_lacks() {
        let metrics = Metrics::default();
        let reports = StandingReport::of_each(["a".to_owned(), "b".to_owned()], &metrics);
        let away = || metrics.queues_away.lock().unwrap().join(" ");
        assert_eq!(away(), "a b");
        reports[0].change(|standing| standing.attached = true);
        assert_eq!((metrics.consumer_attached.get(), away()), (0, "b".to_owned()));
        reports[1].change(|standing| standing.attached = true);
        assert_eq!((metrics.consumer_attached.get(), away()), (1, String::new()));
        reports[1].change(|standing| standing.isolated = true);
        reports[0].change(|standing| standing.isolated = false);
        assert_eq!((metrics.isolated.get(), metrics.rights_missing.get()), (1, 0));
    }
}
