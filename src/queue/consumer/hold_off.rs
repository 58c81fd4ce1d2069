//! Hold-off: while the worker cannot use the database, the consumer takes no messages and gives back those that it has, so
//! that other workers get them.

use tokio::sync::watch;

/// Whether the consumer must hold off, as the worker says.
pub(super) struct HoldOff(watch::Receiver<bool>);

impl HoldOff {
    pub(super) fn follow(receiver: &watch::Receiver<bool>) -> Self {
        Self(receiver.clone())
    }

    /// Waits until the consumer must hold off.
    pub(super) async fn begun(&mut self) {
        if self.0.wait_for(|on| *on).await.is_err() {
            // The sender is gone, so hold-off never begins.
            std::future::pending().await
        }
    }

    /// Waits until the consumer may take messages. It also may if the sender is gone.
    pub(super) async fn over(&mut self) {
        self.0.wait_for(|on| !on).await.ok();
    }
}
