//! Rewrites dead letters: sends a copy of each to the end of their queue, so that the broker counts its returns from 0.
//!
//! A broker that refuses one message for its size closes the channel, and other messages on the way may be in the queue or
//! not. So the largest letter is sent first and alone.

use std::ops::Range;
use std::slice;

use uuid::Uuid;

use super::LetterQueue;
use super::letter::DeadLetter;
use crate::config::{Amqp, Queue};
use crate::queue::publisher::{PublishError, Publisher};

/// Why a dead letter could not be rewritten.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RewriteError {
    /// No letter can be: a right is missing, or the broker takes nothing.
    #[error(transparent)]
    Every(PublishError),
    /// The broker takes no message of this size.
    #[error("the broker takes no message of {bytes} bytes: raise its max_message_size, or discard the letter")]
    TooLarge { bytes: usize },
    /// Not all of its properties are known, or they do not fit into a frame with what we add.
    #[error("its properties are too large for that: discard the letter")]
    Cut,
}

impl RewriteError {
    fn too_large(letter: &DeadLetter) -> Self {
        Self::TooLarge { bytes: letter.body.len() }
    }
}

pub(super) struct Rewriter {
    amqp: Amqp,
    queue: Queue,
    kept_in: LetterQueue,
    /// Marks the copies that this command has sent.
    pub(super) run: Uuid,
    publisher: Option<Publisher>,
    /// The smallest body, in bytes, that the broker refused for its size.
    refused_bytes: Option<usize>,
}

/// Which letters of a list were rewritten.
pub(super) struct Rewritten {
    /// The indexes of those whose copy the broker has confirmed.
    pub(super) confirmed: Range<usize>,
    /// Why the others were not rewritten.
    pub(super) error: Option<RewriteError>,
}

impl Rewriter {
    pub(super) fn new(amqp: &Amqp, queue: &Queue, kept_in: LetterQueue) -> Self {
        let (amqp, queue) = (amqp.clone(), queue.clone());
        Self { amqp, queue, kept_in, run: Uuid::new_v4(), publisher: None, refused_bytes: None }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.publisher.is_some()
    }

    /// Checks whether letters could be rewritten now.
    ///
    /// # Errors
    ///
    /// Why none could be.
    pub(super) async fn probe(&mut self) -> Result<(), PublishError> {
        self.publisher().await?.probe().await
    }

    /// `letters` must be sorted by the sizes of their bodies, the largest first.
    pub(super) async fn rewrite(&mut self, letters: &[DeadLetter]) -> Rewritten {
        let too_large = |letter: &DeadLetter| self.refused_bytes.is_some_and(|least| letter.body.len() >= least);
        let mut first = letters.partition_point(too_large);
        let mut error = letters[..first].last().map(RewriteError::too_large);
        while let Some(letter) = letters.get(first) {
            match self.send_all(slice::from_ref(letter)).await {
                Ok(()) => break,
                Err((_, refused)) if is_refused_for_size(&refused) => {
                    // The broker has closed the channel.
                    self.close().await;
                    self.refused_bytes = Some(letter.body.len());
                    error = Some(RewriteError::too_large(letter));
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
        match self.send_all(&letters[first + 1..]).await {
            Ok(()) => Rewritten { confirmed: first..letters.len(), error },
            Err((confirmed, every)) => {
                Rewritten { confirmed: first..first + 1 + confirmed, error: Some(RewriteError::Every(every)) }
            }
        }
    }

    /// Sends copies of all, and then waits for their confirms. An error comes with the number of letters that were confirmed
    /// before it.
    async fn send_all(&mut self, letters: &[DeadLetter]) -> Result<(), (usize, PublishError)> {
        let (run, queue) = (self.run, self.kept_in.name(&self.queue).to_owned());
        let publisher = self.publisher().await.map_err(|error| (0, error))?;
        let (mut unconfirmed, mut failed) = (Vec::new(), None);
        for letter in letters {
            match letter.rewrite(publisher, &queue, run).await {
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

/// Whether the broker refused a message, sent alone, for its size. The broker took this message before, so no other
/// precondition can have failed.
fn is_refused_for_size(error: &PublishError) -> bool {
    matches!(error, PublishError::Queue(error) if error.is_precondition_failed())
}
