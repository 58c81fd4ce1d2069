//! The way back from a turn to its broker message: what is reported to the recorder, and when the message is acked.
//!
//! One message may have deliveries to many webhooks. Each of them carries a share of the message, and the message is
//! acked when the results of all of them are recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{UnboundedSender, WeakUnboundedSender};

use crate::ids::DeliveryId;
use crate::queue::{Receipt, Settled, Settlement};
use crate::store::TurnResult;
use crate::telemetry::Span;
use crate::trace_context::TraceContext;

/// What the rest of the worker tells the recorder.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are the largest, and a box would be an allocation for each delivery"
)]
pub(super) enum Report {
    TurnOver(Reported),
    /// A broker message that needs nothing recorded.
    Settled(Settled),
    /// A claim, by its number, is given back.
    Released(DeliveryId, i64),
}

/// A turn that is over.
#[derive(Debug)]
pub(super) struct Reported {
    pub(super) turn_result: TurnResult,
    /// Its share of the broker message it came from; `None` if it was claimed.
    pub(super) share: Option<MessageShare>,
}

impl AsRef<TurnResult> for Reported {
    fn as_ref(&self) -> &TurnResult {
        &self.turn_result
    }
}

/// One delivery's part in a broker message. If it is dropped before its result is recorded, the message goes back to the
/// broker once its other shares have ended, too.
#[derive(Debug)]
pub(super) struct MessageShare<R = Receipt>(Option<Arc<Message<R>>>);

#[derive(Debug)]
struct Message<R> {
    receipt: R,
    /// From when the message was taken until it is settled.
    span: Option<Box<Span>>,
    /// At least one delivery was not recorded.
    incomplete: AtomicBool,
    /// Without a bound, for a message that could not be returned would stay unsettled as long as its channel is open. The
    /// broker bounds the number of messages by the prefetch.
    returns: WeakUnboundedSender<Settled<R>>,
}

impl<R> MessageShare<R> {
    /// The first share of a message; [`another`](Self::another) makes further ones. The message goes to `returns` unless
    /// all of them are recorded.
    pub(super) fn of(receipt: R, span: Option<Box<Span>>, returns: &UnboundedSender<Settled<R>>) -> Self {
        let (incomplete, returns) = (AtomicBool::new(false), returns.downgrade());
        Self(Some(Arc::new(Message { receipt, span, incomplete, returns })))
    }

    pub(super) fn another(&self) -> Self {
        Self(self.0.clone())
    }

    /// The message's span, if anything is sent of its trace.
    pub(super) fn span(&self) -> Option<TraceContext> {
        self.0.as_ref()?.span.as_ref().map(|span| span.context())
    }

    /// The delivery's result is recorded. Returns the message if this was its last share.
    pub(super) fn recorded(mut self) -> Option<Settled<R>> {
        Arc::into_inner(self.0.take()?).map(Message::settled)
    }

    /// The delivery's result can never be recorded: the broker hands the message out again, and makes it a dead letter in
    /// the end. Returns the message if this was its last share.
    pub(super) fn unrecorded(mut self) -> Option<Settled<R>> {
        self.0.take().and_then(incomplete)
    }
}

impl MessageShare {
    /// Whether the message can still be acked: the channel that it came over is open.
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
        if let (Settlement::Returned, Some(mut span)) = (settlement, self.span) {
            span.failed("returned");
        }
        Settled { receipt: self.receipt, settlement }
    }
}

impl<R> Drop for MessageShare<R> {
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
        let shares: Vec<_> = (0..10_000).map(|tag| MessageShare::of(tag, None, &returns)).collect();
        drop(shares);
        for receipt in 0..10_000 {
            assert_eq!(returned.try_recv(), Ok(Settled { receipt, settlement: Settlement::Returned }));
        }
    }

    #[test]
    fn a_message_is_done_once_all_its_shares_are_recorded_and_returned_unless_all_are() {
        let (returns, mut returned) = unbounded_channel();
        let first = MessageShare::of("done", None, &returns);
        let second = first.another();
        assert_eq!(first.recorded(), None);
        assert_eq!(second.recorded(), Some(Settled { receipt: "done", settlement: Settlement::Done }));
        let first = MessageShare::of("half", None, &returns);
        let (second, third) = (first.another(), first.another());
        drop(first);
        assert_eq!(second.recorded(), None);
        assert!(returned.try_recv().is_err());
        assert_eq!(third.recorded(), Some(Settled { receipt: "half", settlement: Settlement::Returned }));
        assert!(returned.try_recv().is_err());
    }
}
