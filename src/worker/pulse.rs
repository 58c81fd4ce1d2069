//! Feels whether this machine is what limits: then a timer is late. What waits must not wait for somebody else's end, so
//! every beat looks for what may be started or parked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;

const BEAT: Duration = Duration::from_millis(10);
/// Timers are exact to a millisecond; what waits longer than that has waited for a processor.
const LATE: Duration = Duration::from_millis(3);

pub(super) async fn run(attempts: Arc<Attempts>, stop: CancellationToken) {
    loop {
        let expected = Instant::now() + BEAT;
        if stop.run_until_cancelled(tokio::time::sleep(BEAT)).await.is_none() {
            return;
        }
        let busy = Instant::now() - expected > LATE;
        if stop.run_until_cancelled(attempts.beat(busy)).await.is_none() {
            return;
        }
    }
}
