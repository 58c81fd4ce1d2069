//! Carries out the releases of holds. Several workers may work on one, and any goes on where another has ended.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::attempts::Attempts;
use crate::hold::{Held, Hold};
use crate::ids::WebhookId;
use crate::store::{ReleaseStep, StoreError};

/// The wait after steps that all found others at work.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// By hold, what the last step said of the webhook that it spread.
type Spread = HashMap<Uuid, (WebhookId, Timestamp)>;

/// Runs until it is dropped: then a step may be half done, and its transaction is ended or rolled back.
pub(super) async fn run(attempts: &Attempts, rate: u32) {
    let (mut spread, mut stall) = (Spread::new(), attempts.stalls.wait_apart());
    loop {
        attempts.holds.releasing().await;
        match step_all(attempts, rate, &mut spread).await {
            Ok(progress) => {
                stall.over();
                if !progress {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
            Err(error) => stall.after("cannot release what was held", &error).await,
        }
    }
}

/// Makes one step of each release, so that none waits for a long one. Returns whether any got further.
async fn step_all(attempts: &Attempts, rate: u32, spread: &mut Spread) -> Result<bool, StoreError> {
    let holds = attempts.store.holds().await?;
    spread.retain(|id, _| holds.iter().any(|hold| hold.id == *id && hold.release.is_some()));
    let mut progress = false;
    for hold in holds.iter().filter(|hold| hold.release.is_some()) {
        let step = attempts.store.step_release(hold, spread.get(&hold.id).copied(), rate).await?;
        progress |= step != ReleaseStep::Skipped;
        match step {
            ReleaseStep::Spread(webhook, until) => drop(spread.insert(hold.id, (webhook, until))),
            ReleaseStep::Freed(_) => attempts.holds.changed(),
            ReleaseStep::Ended => {
                attempts.holds.changed();
                log_end(hold);
            }
            ReleaseStep::Skipped => {}
        }
    }
    if !progress {
        attempts.holds.changed();
    }
    Ok(progress)
}

fn log_end(hold: &Hold) {
    const ENDED: &str = "a hold has ended; what waited is sent";
    match &hold.held {
        Held::Webhook(webhook) => tracing::info!(webhook_id = %webhook, "{ENDED}"),
        Held::Account(account) => tracing::info!(account_id = account.as_str(), "{ENDED}"),
        Held::All => tracing::info!(everything = true, "{ENDED}"),
    }
}
