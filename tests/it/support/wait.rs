//! Waiting that always ends: with the answer, or with a panic that says what was awaited.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a test waits for anything before it fails: long, because a loaded machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(20);

/// Asks again and again until the answer is yes.
pub async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    eventually(what, async || condition().await.then_some(())).await;
}

/// Asks again and again until there is an answer, and returns it.
pub async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last_chance = Instant::now() >= deadline;
        if let Some(answer) = within(what, PATIENCE, question()).await {
            return answer;
        }
        assert!(!last_chance, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The future's result, if it comes in time.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    let Ok(result) = tokio::time::timeout(limit, future).await else {
        panic!("waited {limit:?} in vain until {what}");
    };
    result
}
