//! Holds events that were sent and are not confirmed yet, in the order in which they were sent.
//!
//! The broker returns an event that no queue takes before it confirms it. The AMQP library hands such a return to whichever confirm comes
//! next, so perhaps to that of another event. But that confirm has then come before the event's own. So an event counts as
//! confirmed once its own confirm is there, and all others that were there by then have been looked at for its return.

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::queue::{PublishError, Settling, Unconfirmed};

/// Events that are not confirmed yet, at most.
const MOST: usize = 256;

/// Unconfirmed events, each with what the caller wants to know of it later.
pub(super) struct Window<T> {
    /// Oldest first.
    events: VecDeque<Sent<T>>,
    /// So many of the oldest have been settled, and all others have been looked at since.
    certain: usize,
    /// The message ids of events that were returned.
    returned: HashSet<String>,
}

struct Sent<T> {
    id: String,
    event: T,
    state: State,
}

enum State {
    Waiting(BoxFuture<'static, Settling>),
    Settled(Result<(), PublishError>),
}

/// What the broker said to an event.
pub(super) type Answer<T> = (T, Result<(), PublishError>);

impl<T> Window<T> {
    pub(super) fn new() -> Self {
        Self { events: VecDeque::new(), certain: 0, returned: HashSet::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= MOST
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// `id` is the id of the event's message.
    pub(super) fn push(&mut self, id: String, event: T, sent: Unconfirmed) {
        self.events.push_back(Sent { id, event, state: State::Waiting(sent.settled().boxed()) });
    }

    /// Waits for the broker's answer to the oldest event. `None` if there is none. Nothing is lost if the wait is given up.
    pub(super) async fn next(&mut self) -> Option<Answer<T>> {
        if self.certain == 0 && !self.is_empty() {
            poll_fn(|context| self.look(context)).await;
        }
        let Sent { id, event, state } = self.events.pop_front()?;
        self.certain -= 1;
        let State::Settled(answer) = state else { unreachable!("`look` waits until the oldest is settled") };
        let is_returned = self.returned.remove(&id);
        Some((event, if is_returned { answer.and(Err(PublishError::Unroutable)) } else { answer }))
    }

    /// Looks at all events, the oldest first: a later one that has the return of an earlier one is then looked at after it.
    fn look(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for sent in &mut self.events {
            if let State::Waiting(settling) = &mut sent.state
                && let Poll::Ready(Settling { returned, answer }) = settling.poll_unpin(context)
            {
                self.returned.extend(returned);
                sent.state = State::Settled(answer);
            }
        }
        self.certain = self.events.iter().take_while(|sent| matches!(sent.state, State::Settled(_))).count();
        if self.certain > 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}
