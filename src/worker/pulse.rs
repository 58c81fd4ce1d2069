//! Measures how long something waits for a processor: a timer that fires late has. Whether that is our own doing is told by
//! the threads of the runtime, which then work much of the time. Beside a busy neighbour timers are late as well, but our
//! threads mostly wait: then fewer requests in flight would make nothing faster.
//!
//! Each beat also starts or parks what waits for a time, and not for the end of a request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use crate::lanes::Delay;

const BEAT: Duration = Duration::from_millis(10);
/// Timers are exact to a millisecond; what waits longer than that has waited for a processor.
const LATE: Duration = Duration::from_millis(3);
/// Beats looked back on: a single late one says nothing.
const BEATS: usize = 7;
/// Of the time of all threads: if they work less, others are the cause. On a machine that the servers share with us they
/// work half of it when nothing more is possible.
const OWN_PERCENT: u32 = 25;

pub(super) async fn run(attempts: Arc<Attempts>, stop: CancellationToken) {
    let mut beats = Beats::default();
    loop {
        let expected = Instant::now() + BEAT;
        if stop.run_until_cancelled(tokio::time::sleep(BEAT)).await.is_none() {
            return;
        }
        let now = Instant::now();
        let (worked, threads) = worked();
        let delay = beats.note(Beat { at: now, late: now - expected, worked }, threads);
        if stop.run_until_cancelled(attempts.beat(delay)).await.is_none() {
            return;
        }
    }
}

/// How long the threads of this runtime have worked, all together since their start, and how many there are.
fn worked() -> (Duration, u32) {
    let metrics = Handle::current().metrics();
    let threads = metrics.num_workers();
    let worked = (0..threads).map(|thread| metrics.worker_total_busy_duration(thread)).sum();
    (worked, u32::try_from(threads).unwrap_or(u32::MAX))
}

#[derive(Debug, Clone, Copy)]
struct Beat {
    at: Instant,
    late: Duration,
    /// What all threads have worked until then.
    worked: Duration,
}

/// The last few beats. Pure.
#[derive(Debug, Default)]
struct Beats(VecDeque<Beat>);

impl Beats {
    /// How long something usually waits for a processor; a single beat does not count.
    fn note(&mut self, beat: Beat, threads: u32) -> Delay {
        self.0.push_back(beat);
        if self.0.len() <= BEATS {
            return Delay::default();
        }
        let Some(first) = self.0.pop_front() else { return Delay::default() };
        let time = (beat.at - first.at) * threads;
        let is_own = beat.worked.saturating_sub(first.worked) * 100 >= time * OWN_PERCENT;
        let mut late: Vec<_> = self.0.iter().map(|beat| beat.late).collect();
        late.sort();
        let all = if late[BEATS / 2] > LATE { late[BEATS / 2] } else { Duration::ZERO };
        Delay { all, own: if is_own { all } else { Duration::ZERO } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the last of these beats says, each of a thread that has worked for so much of it.
    fn last(late: &[u64], worked_percent: u32) -> Delay {
        let (mut beats, mut at, mut worked) = (Beats::default(), Instant::now(), Duration::ZERO);
        let mut delay = Delay::default();
        for late in late.iter().map(|late| Duration::from_millis(*late)) {
            at += BEAT + late;
            worked += (BEAT + late) * worked_percent / 100;
            delay = beats.note(Beat { at, late, worked }, 1);
        }
        delay
    }

    #[test]
    fn beats_that_are_late_for_our_own_work_say_how_late() {
        let late = Duration::from_millis(6);
        assert_eq!(last(&[6; 20], 90), Delay { all: late, own: late });
        assert_eq!(last(&[1; 20], 90), Delay::default(), "timers are in time");
        assert_eq!(last(&[6; 20], 10), Delay { all: late, own: Duration::ZERO }, "a neighbour is the cause");
    }

    proptest! {
        #[test]
        fn a_few_late_beats_count_for_nothing_and_others_work_is_not_ours(
            late in proptest::collection::vec(0..100_u64, 8..40),
            few in proptest::collection::vec(any::<prop::sample::Index>(), 3),
        ) {
            prop_assert_eq!(last(&late, OWN_PERCENT - 1).own, Duration::ZERO);
            let mut mostly_in_time = vec![1; late.len()];
            few.iter().for_each(|index| mostly_in_time[index.index(late.len())] = 100);
            prop_assert_eq!(last(&mostly_in_time, 100), Delay::default());
        }
    }
}
