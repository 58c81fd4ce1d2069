//! Ties a broker message to all the deliveries it asked for: it is done when every one of them is recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{UnboundedSender, WeakUnboundedSender};

use crate::queue::{Receipt, Settled, Settlement};

/// One delivery's part in a broker message. Dropped unrecorded, it has the message returned to the broker.
#[derive(Debug)]
pub(super) struct Share<R = Receipt>(Option<Arc<Message<R>>>);

#[derive(Debug)]
struct Message<R> {
    receipt: R,
    /// At least one delivery was not recorded.
    incomplete: AtomicBool,
    /// Never full: a message that could not be returned would stay unsettled as long as its channel is open. There are
    /// no more of them than the broker hands out.
    returns: WeakUnboundedSender<Settled<R>>,
}

impl<R> Share<R> {
    /// The first share of a message; the others are its [`Share::another`]. It goes to `returns` unless all of them are
    /// recorded.
    pub(super) fn of(receipt: R, returns: &UnboundedSender<Settled<R>>) -> Self {
        Self(Some(Arc::new(Message { receipt, incomplete: AtomicBool::new(false), returns: returns.downgrade() })))
    }

    pub(super) fn another(&self) -> Self {
        Self(self.0.clone())
    }

    /// After its delivery is recorded. The last share tells what becomes of the message.
    pub(super) fn recorded(mut self) -> Option<Settled<R>> {
        Arc::into_inner(self.0.take()?).map(Message::settled)
    }

    /// When its delivery can never be recorded: the broker hands the message out again, and gives it up in the end.
    pub(super) fn unrecorded(mut self) -> Option<Settled<R>> {
        self.0.take().and_then(incomplete)
    }
}

impl Share {
    /// Whether the message is still ours to work on.
    pub(super) fn is_usable(&self) -> bool {
        self.0.as_ref().is_some_and(|message| message.receipt.is_usable())
    }
}

fn incomplete<R>(message: Arc<Message<R>>) -> Option<Settled<R>> {
    message.incomplete.store(true, Ordering::Relaxed);
    Arc::into_inner(message).map(Message::settled)
}

impl<R> Message<R> {
    fn settled(self) -> Settled<R> {
        let settlement = if self.incomplete.into_inner() { Settlement::Returned } else { Settlement::Done };
        Settled { receipt: self.receipt, settlement }
    }
}

impl<R> Drop for Share<R> {
    fn drop(&mut self) {
        let Some(message) = self.0.take() else { return };
        let returns = message.returns.upgrade();
        if let (Some(returned), Some(returns)) = (incomplete(message), returns) {
            // After the recorder's end the message comes back when its channel closes.
            let _ = returns.send(returned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    #[test]
    fn every_message_with_a_dropped_share_is_returned_though_nobody_takes_them_yet() {
        let (returns, mut returned) = unbounded_channel();
        let shares: Vec<_> = (0..10_000).map(|tag| Share::of(tag, &returns)).collect();
        drop(shares);
        for receipt in 0..10_000 {
            assert_eq!(returned.try_recv(), Ok(Settled { receipt, settlement: Settlement::Returned }));
        }
    }

    #[test]
    fn a_message_is_done_once_all_its_shares_are_recorded_and_returned_unless_all_are() {
        let (returns, mut returned) = unbounded_channel();
        let first = Share::of("done", &returns);
        let second = first.another();
        assert_eq!(first.recorded(), None);
        assert_eq!(second.recorded(), Some(Settled { receipt: "done", settlement: Settlement::Done }));
        let first = Share::of("half", &returns);
        let (second, third) = (first.another(), first.another());
        drop(first);
        assert_eq!(second.recorded(), None);
        assert!(returned.try_recv().is_err());
        assert_eq!(third.recorded(), Some(Settled { receipt: "half", settlement: Settlement::Returned }));
        assert!(returned.try_recv().is_err());
    }
}
