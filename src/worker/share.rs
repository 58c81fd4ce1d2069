//! Ties a broker message to all the deliveries it asked for: it is done when every one of them is recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{Sender, WeakSender};

use super::recorder::Report;
use crate::queue::{Receipt, Settled, Verdict};

/// One delivery's part in a broker message. Dropped unrecorded, it has the message returned to the broker.
#[derive(Debug)]
pub(super) struct Share(Option<Arc<Message>>);

#[derive(Debug)]
struct Message {
    receipt: Receipt,
    /// At least one delivery was not recorded.
    incomplete: AtomicBool,
    reports: WeakSender<Report>,
}

impl Share {
    /// The first share of a message; the others are its [`Share::another`].
    pub(super) fn of(receipt: Receipt, reports: &Sender<Report>) -> Self {
        Self(Some(Arc::new(Message { receipt, incomplete: AtomicBool::new(false), reports: reports.downgrade() })))
    }

    pub(super) fn another(&self) -> Self {
        Self(self.0.clone())
    }

    /// Whether the message is still ours to work on.
    pub(super) fn is_usable(&self) -> bool {
        self.0.as_ref().is_some_and(|message| message.receipt.is_usable())
    }

    /// After its delivery is recorded. The last share tells what becomes of the message.
    pub(super) fn recorded(mut self) -> Option<Settled> {
        Arc::into_inner(self.0.take()?).map(Message::settled)
    }
}

impl Share {
    /// When its delivery can never be recorded: the broker hands the message out again, and gives it up in the end.
    pub(super) fn unrecorded(mut self) -> Option<Settled> {
        self.0.take().and_then(incomplete)
    }
}

fn incomplete(message: Arc<Message>) -> Option<Settled> {
    message.incomplete.store(true, Ordering::Relaxed);
    Arc::into_inner(message).map(Message::settled)
}

impl Message {
    fn settled(self) -> Settled {
        let verdict = if self.incomplete.into_inner() { Verdict::Returned } else { Verdict::Done };
        Settled { receipt: self.receipt, verdict }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(message) = self.0.take() else { return };
        let reports = message.reports.upgrade();
        if let (Some(returned), Some(reports)) = (incomplete(message), reports) {
            // Without room the message comes back all the same, when its channel closes.
            let _ = reports.try_send(Report::Settled(returned));
        }
    }
}
