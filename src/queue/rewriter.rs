//! Writes dead letters anew, at the end of their queue: the broker counts the returns of the new message from none.
//!
//! A broker that refuses one letter for its size closes the channel, and what else is on its way may be there or not. So
//! the largest letter goes first and alone.

use std::ops::Range;
use std::slice;

use lapin::protocol::AMQPSoftError;
use uuid::Uuid;

use super::dead_letters::{DeadLetter, Headers};
use super::{PublishError, Publisher, QueueError, library_error, says};
use crate::config::{Amqp, Queue};

/// Why a dead letter could not be written anew.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// No letter can be: a right is missing, or the broker takes nothing.
    #[error(transparent)]
    Every(PublishError),
    #[error("the broker takes no message of {bytes} bytes: raise its max_message_size, or discard the letter")]
    TooLarge { bytes: usize },
    #[error("its properties are too large for that: discard the letter")]
    Cut,
}

/// How often the broker lets a letter return to its queue before it drops it.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeliveryLimit {
    /// The queue's delivery limit, with all policies, if somebody could tell.
    pub(super) known: Option<u32>,
    /// What the queue was declared with. A policy may lower it.
    pub(super) declared: u32,
}

impl DeliveryLimit {
    /// What a policy may set that nobody told us of.
    const LOWEST: u32 = 3;
    /// Nobody looks at a letter so often.
    const NEVER_REACHED: u32 = 100_000;

    /// Whether a letter that returned so often is to be written anew: else its next return could be its last but one.
    pub(super) fn asks_to_rewrite(self, returns: i64) -> bool {
        is_near(returns, self.known.unwrap_or(Self::LOWEST).min(self.declared))
    }

    /// Whether one return more brings it to within one of the limit, as far as we know that.
    pub(super) fn is_near(self, returns: i64) -> bool {
        is_near(returns, self.lowest_known())
    }

    /// Whether looks may bring a letter to the limit, as far as we know that.
    pub(super) fn is_in_reach(self) -> bool {
        self.lowest_known() < Self::NEVER_REACHED
    }

    fn lowest_known(self) -> u32 {
        self.known.unwrap_or(self.declared).min(self.declared)
    }
}

fn is_near(returns: i64, limit: u32) -> bool {
    returns.saturating_add(2) >= i64::from(limit)
}

pub(super) struct Rewriter {
    amqp: Amqp,
    queue: Queue,
    /// Marks what this command has written.
    pub(super) run: Uuid,
    publisher: Option<Publisher>,
    /// The smallest body that was refused for its size.
    too_large: Option<usize>,
}

/// Of letters in the order of their sizes, the largest first.
pub(super) struct Rewritten {
    pub(super) confirmed: Range<usize>,
    /// Why the others are not.
    pub(super) error: Option<RewriteError>,
}

impl Rewriter {
    pub(super) fn new(amqp: &Amqp, queue: &Queue) -> Self {
        Self { amqp: amqp.clone(), queue: queue.clone(), run: Uuid::new_v4(), publisher: None, too_large: None }
    }

    /// Whether it has a connection to write on.
    pub(super) fn is_connected(&self) -> bool {
        self.publisher.is_some()
    }

    /// An error if nothing could be written now. Nothing is.
    pub(super) async fn probe(&mut self) -> Result<(), PublishError> {
        self.publisher().await?.probe().await
    }

    /// `letters` must be in the order of their sizes, the largest first.
    pub(super) async fn write(&mut self, letters: &[DeadLetter]) -> Rewritten {
        let too_large = |letter: &DeadLetter| self.too_large.is_some_and(|least| letter.body.len() >= least);
        let mut first = letters.partition_point(too_large);
        let mut error = letters[..first].last().map(too_large_to_rewrite);
        while let Some(letter) = letters.get(first) {
            match self.write_at_once(slice::from_ref(letter)).await {
                Ok(()) => break,
                Err((_, refused)) if is_of_size(&refused) => {
                    // The broker has closed its channel.
                    self.close().await;
                    self.too_large = Some(letter.body.len());
                    error = Some(too_large_to_rewrite(letter));
                    first += 1;
                }
                Err((_, every)) => {
                    return Rewritten { confirmed: first..first, error: Some(RewriteError::Every(every)) };
                }
            }
        }
        if first == letters.len() {
            return Rewritten { confirmed: first..first, error };
        }
        match self.write_at_once(&letters[first + 1..]).await {
            Ok(()) => Rewritten { confirmed: first..letters.len(), error },
            Err((confirmed, every)) => {
                Rewritten { confirmed: first..first + 1 + confirmed, error: Some(RewriteError::Every(every)) }
            }
        }
    }

    /// Or how many of them were confirmed before the error.
    async fn write_at_once(&mut self, letters: &[DeadLetter]) -> Result<(), (usize, PublishError)> {
        let headers = Headers::All { run: self.run };
        let queue = self.queue.dead_queue.clone();
        let publisher = self.publisher().await.map_err(|error| (0, error))?;
        let (mut unconfirmed, mut failed) = (Vec::new(), None);
        for letter in letters {
            match publisher.send_again(&queue, letter, headers).await {
                Ok(sent) => unconfirmed.push(sent),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let sent = unconfirmed.len();
        for (confirmed, one) in unconfirmed.into_iter().enumerate() {
            one.confirmed().await.map_err(|error| (confirmed, error))?;
        }
        failed.map_or(Ok(()), |error| Err((sent, error)))
    }

    async fn publisher(&mut self) -> Result<&Publisher, PublishError> {
        if self.publisher.is_none() {
            self.publisher = Some(Publisher::connect(&self.amqp, &self.queue).await?);
        }
        Ok(self.publisher.as_ref().expect("it was made just now"))
    }

    pub(super) async fn close(&mut self) {
        if let Some(publisher) = self.publisher.take() {
            publisher.close().await;
        }
    }
}

fn too_large_to_rewrite(letter: &DeadLetter) -> RewriteError {
    RewriteError::TooLarge { bytes: letter.body.len() }
}

/// Of a message that was alone on its way. The broker took it once, so nothing else about it can be wrong.
fn is_of_size(error: &PublishError) -> bool {
    match error {
        PublishError::Queue(QueueError::Unavailable(cause)) => {
            library_error(cause).is_some_and(|error| says(error, AMQPSoftError::PRECONDITIONFAILED))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_limit_that_looks_may_reach_is_in_reach() {
        let limit = |known, declared| DeliveryLimit { known, declared }.is_in_reach();
        assert_eq!([limit(None, 1_000_000), limit(Some(1_000_000), 1_000_000)], [false; 2]);
        assert_eq!([limit(Some(5), 1_000_000), limit(None, 5)], [true; 2]);
    }

    proptest! {
        /// The broker drops a letter when its count exceeds the limit. `crashes` of ours count, too.
        #[test]
        fn a_letter_that_can_be_written_anew_outlives_any_number_of_looks(limit in 2..40_u32, known: bool, looks in 1..200_u32) {
            let delivery_limit = DeliveryLimit { known: known.then_some(limit), declared: 1_000_000 };
            let mut returns = 0;
            for _ in 0..looks {
                returns = if delivery_limit.asks_to_rewrite(returns) { 0 } else { returns + 1 };
                let after_a_crash = returns + 1;
                prop_assert!(after_a_crash <= i64::from(limit));
            }
        }

        #[test]
        fn reading_stops_before_the_lowest_known_limit(limit in 3..1000_u32, known: bool, looks in 1..2000_u32) {
            let (known, declared) = if known { (Some(limit), u32::MAX) } else { (None, limit) };
            let limit_of_queue = DeliveryLimit { known, declared };
            let returns = (0..looks).fold(0, |returns, _| if limit_of_queue.is_near(returns) { returns } else { returns + 1 });
            prop_assert!(returns <= i64::from(limit) - 2);
            prop_assert!(limit_of_queue.asks_to_rewrite(returns) || !limit_of_queue.is_near(returns));
        }
    }
}
