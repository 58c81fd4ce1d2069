//! Takes one message from a queue, by `basic.get`.

use futures_util::{Stream, StreamExt as _};
use lapin::message::BasicGetMessage;
use lapin::options::BasicGetOptions;
use lapin::{Channel, Event};

use super::convert::name;

/// The message at the head of a queue; `None` if the queue is empty. The caller bounds the wait.
///
/// # Errors
///
/// The library never answers a get whose message it cannot read. So the error that ends the connection, from its `events`, is
/// returned instead.
pub(super) async fn get(
    channel: &Channel,
    queue: &str,
    events: &mut (impl Stream<Item = Event> + Unpin),
) -> lapin::Result<Option<BasicGetMessage>> {
    tokio::select! {
        biased;
        message = channel.basic_get(name(queue), BasicGetOptions::default()) => message,
        error = first_error(events) => Err(error),
    }
}

async fn first_error(events: &mut (impl Stream<Item = Event> + Unpin)) -> lapin::Error {
    loop {
        match events.next().await {
            Some(Event::Error(error)) => return error,
            Some(_) => {}
            // The connection ended without an error: the caller's bound ends the wait.
            None => std::future::pending().await,
        }
    }
}
