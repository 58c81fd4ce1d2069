//! Hold-off: while the worker cannot use the database, the consumer takes no messages and gives back those that it has, so
//! that other workers get them. The same while operators hold everything: then events wait at the broker.

use tokio::sync::watch;

/// Why the consumer must hold off, as the worker says: for any of these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HoldOffReasons {
    /// The worker has not been able to use the database for long.
    pub(crate) database: bool,
    /// Operators hold everything.
    pub(crate) operator: bool,
}

impl HoldOffReasons {
    fn is_on(self) -> bool {
        self.database || self.operator
    }
}

/// Whether the consumer must hold off.
pub(super) struct HoldOff(watch::Receiver<HoldOffReasons>);

impl HoldOff {
    pub(super) fn follow(receiver: &watch::Receiver<HoldOffReasons>) -> Self {
        Self(receiver.clone())
    }

    /// Waits until the consumer must hold off.
    pub(super) async fn begun(&mut self) {
        if self.0.wait_for(|reasons| reasons.is_on()).await.is_err() {
            // The sender is gone, so hold-off never begins.
            std::future::pending().await
        }
    }

    /// Waits until the consumer may take messages. It also may if the sender is gone.
    pub(super) async fn over(&mut self) {
        self.0.wait_for(|reasons| !reasons.is_on()).await.ok();
    }
}
