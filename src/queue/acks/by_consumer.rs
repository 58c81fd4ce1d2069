//! One acknowledger for each consumer of a worker: a connection that takes no frames holds up the acks of its own queue only.

use std::time::Instant;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::{Acknowledger, Recorded, Settled};
use crate::metrics::Metrics;

/// Batches that may wait for one acknowledger. Never as many wait: each has a message that is not settled at the broker, and one
/// consumer has at most so many of those.
const BATCHES: usize = u16::MAX as usize;

/// Settles the messages of `settled` and `returned` on the channels that they came from, until all senders of `settled` are
/// dropped and every frame is sent.
pub(crate) async fn acknowledge(
    consumers: usize,
    settled: mpsc::Receiver<Recorded>,
    returned: &mut mpsc::UnboundedReceiver<Settled>,
    metrics: &Metrics,
) {
    if consumers == 1 {
        return Acknowledger::new(metrics.clone()).run(settled, returned).await;
    }
    let (outlets, inlets): (Vec<_>, Vec<_>) = (0..consumers).map(|_| mpsc::channel(BATCHES)).unzip();
    let acknowledgers = inlets.into_iter().map(|settled| async {
        let (_, mut none) = mpsc::unbounded_channel();
        Acknowledger::new(metrics.clone()).run(settled, &mut none).await;
    });
    tokio::join!(divide(outlets, settled, returned), join_all(acknowledgers));
}

/// Passes each message on to the acknowledger of its consumer.
async fn divide(
    outlets: Vec<mpsc::Sender<Recorded>>,
    mut settled: mpsc::Receiver<Recorded>,
    returned: &mut mpsc::UnboundedReceiver<Settled>,
) {
    let mut ended = false;
    while !ended || !returned.is_empty() {
        let batch = tokio::select! {
            batch = settled.recv(), if !ended => batch,
            Some(one) = returned.recv() => Some(Recorded { at: Instant::now(), messages: vec![one] }),
        };
        let Some(Recorded { at, messages }) = batch else {
            ended = true;
            continue;
        };
        let mut divided: Vec<Vec<Settled>> = outlets.iter().map(|_| Vec::new()).collect();
        for one in messages {
            divided[one.receipt.attachment.consumer].push(one);
        }
        for (outlet, part) in outlets.iter().zip(divided).filter(|(_, part)| !part.is_empty()) {
            // An acknowledger ends after this task.
            let _ = outlet.send(Recorded { at, messages: part }).await;
        }
    }
}
