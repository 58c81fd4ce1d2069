//! Detects that the machine's processors are saturated: a timer of 10 ms then fires more than 3 ms late. If the threads of
//! this process were busy much of that time, its own work is the cause, and fewer requests in flight make it faster. If they
//! mostly waited, another process is the cause.
//!
//! Each tick of the timer also starts lanes that waited for a time, and parks fresh turns (`Attempts::tick`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use crate::lanes::Delay;

/// Between ticks.
const TICK: Duration = Duration::from_millis(10);
/// Timers are exact to a millisecond. One that fires later than this has waited for a processor.
const LATE: Duration = Duration::from_millis(3);
/// The delay is the median of so many ticks: a single late one says nothing.
const TICKS: usize = 7;
/// If the runtime's threads were busy for less of their time, other processes are the cause. On a machine shared with the
/// servers they are busy half of the time when nothing more is possible.
const OWN_PERCENT: u32 = 25;

pub(super) async fn run(attempts: Arc<Attempts>, stop: CancellationToken) {
    let mut ticks = Ticks::default();
    loop {
        let expected = Instant::now() + TICK;
        if stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_none() {
            return;
        }
        let now = Instant::now();
        let (busy, threads) = busy_time();
        let delay = ticks.note(Tick { at: now, late: now - expected, busy }, threads);
        if stop.run_until_cancelled(attempts.tick(delay)).await.is_none() {
            return;
        }
    }
}

/// For how long the threads of this runtime have been busy, all together since their start, and how many there are.
fn busy_time() -> (Duration, u32) {
    let metrics = Handle::current().metrics();
    let threads = metrics.num_workers();
    let busy = (0..threads).map(|thread| metrics.worker_total_busy_duration(thread)).sum();
    (busy, u32::try_from(threads).unwrap_or(u32::MAX))
}

#[derive(Debug, Clone, Copy)]
struct Tick {
    at: Instant,
    /// How much later than planned the timer fired.
    late: Duration,
    /// For how long all threads have been busy until then.
    busy: Duration,
}

/// The last few ticks. Pure.
#[derive(Debug, Default)]
struct Ticks(VecDeque<Tick>);

impl Ticks {
    /// Adds a tick. Returns how long something waits for a processor now; zero while there are too few ticks.
    fn note(&mut self, tick: Tick, threads: u32) -> Delay {
        self.0.push_back(tick);
        if self.0.len() <= TICKS {
            return Delay::default();
        }
        let Some(first) = self.0.pop_front() else { return Delay::default() };
        let time = (tick.at - first.at) * threads;
        let is_own = tick.busy.saturating_sub(first.busy) * 100 >= time * OWN_PERCENT;
        let mut late: Vec<_> = self.0.iter().map(|tick| tick.late).collect();
        late.sort();
        let all = if late[TICKS / 2] > LATE { late[TICKS / 2] } else { Duration::ZERO };
        Delay { all, own: if is_own { all } else { Duration::ZERO } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The delay after ticks that were so many milliseconds late, of one thread that was busy for this much of the time.
    fn last(late: &[u64], busy_percent: u32) -> Delay {
        let (mut ticks, mut at, mut busy) = (Ticks::default(), Instant::now(), Duration::ZERO);
        let mut delay = Delay::default();
        for late in late.iter().map(|late| Duration::from_millis(*late)) {
            at += TICK + late;
            busy += (TICK + late) * busy_percent / 100;
            delay = ticks.note(Tick { at, late, busy }, 1);
        }
        delay
    }

    #[test]
    fn ticks_that_are_late_for_our_own_work_say_how_late() {
        let late = Duration::from_millis(6);
        assert_eq!(last(&[6; 20], 90), Delay { all: late, own: late });
        assert_eq!(last(&[1; 20], 90), Delay::default(), "timers are in time");
        assert_eq!(last(&[6; 20], 10), Delay { all: late, own: Duration::ZERO }, "a neighbour is the cause");
    }

    proptest! {
        #[test]
        fn a_few_late_ticks_count_for_nothing_and_others_work_is_not_ours(
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
