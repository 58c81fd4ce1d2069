//! One connection through a proxy, under the proxy's current rules.

use std::future::pending;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{BUFFER_BYTES, Direction, Ending, Flow, Rules, Shared};
use crate::support::ReservedPort;

pub(super) async fn accept(port: ReservedPort, listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut rules = shared.rules.subscribe();
    let mut listener = Some(listener);
    loop {
        let refusing = rules.borrow_and_update().refusing;
        if refusing {
            listener = None;
        } else if listener.is_none() {
            listener = Some(port.listen().await);
        }
        shared.listening.send_replace(!refusing);
        tokio::select! {
            accepted = next(listener.as_ref()) => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connect(client, Live::new(shared.clone())));
                }
            }
            _ = rules.changed() => {}
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => pending().await,
    }
}

/// The client is to be cut off, and the server not told.
#[derive(Debug, thiserror::Error)]
#[error("cut off")]
struct CutOff;

/// Counts a connection as open until dropped.
struct Live {
    /// Connections are counted in the order in which they are opened, from 1.
    number: usize,
    shared: Arc<Shared>,
    endings: watch::Receiver<Ending>,
}

impl Live {
    fn new(shared: Arc<Shared>) -> Self {
        let number = shared.opened.fetch_add(1, Ordering::SeqCst) + 1;
        shared.live.fetch_add(1, Ordering::SeqCst);
        let endings = shared.endings.subscribe();
        Self { number, shared, endings }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.live.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn connect(mut client: TcpStream, mut live: Live) {
    let target = live.shared.target.borrow().clone();
    let Ok(mut server) = TcpStream::connect(target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (number, shared) = (live.number, &live.shared);
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let flowing = async {
        tokio::try_join!(
            pump(from_client, to_server, (number, Direction::ToServer), shared),
            pump(from_server, to_client, (number, Direction::ToClient), shared)
        )
    };
    let ending = tokio::select! {
        result = flowing => match result {
            Ok(_) => Ending::Close,
            Err(error) if error.get_ref().is_some_and(|error| error.is::<CutOff>()) => {
                let _ = client.set_zero_linger();
                drop(client);
                let _ = live.endings.changed().await;
                return;
            }
            Err(_) => Ending::Reset,
        },
        _ = live.endings.changed() => *live.endings.borrow(),
    };
    if ending == Ending::Reset {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    (number, direction): (usize, Direction),
    shared: &Shared,
) -> Result<()> {
    let mut rules = shared.rules.subscribe();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut greeted = false;
    loop {
        let length = from.read(&mut buffer).await?;
        let mut rest = &buffer[..length];
        match direction {
            Direction::ToServer if shared.is_cut_off_by(rest) => return Err(Error::other(CutOff)),
            Direction::ToClient if !greeted => {
                let delay = rules.borrow().greeting_delay;
                tokio::time::sleep(delay).await;
                greeted = true;
            }
            _ => {}
        }
        while !rest.is_empty() {
            let flow = released(&mut rules, number, direction).await;
            let (piece, later) = rest.split_at(flow.piece_bytes.min(rest.len()));
            tokio::time::sleep(flow.delay).await;
            // The proxy may have been told to hold the flow meanwhile.
            released(&mut rules, number, direction).await;
            to.write_all(piece).await?;
            shared.bytes(direction).fetch_add(piece.len() as u64, Ordering::SeqCst);
            rest = later;
        }
        if length == 0 {
            released(&mut rules, number, direction).await;
            return to.shutdown().await;
        }
    }
}

impl Shared {
    /// Whether the client that sends this is to be cut off; only the first one is.
    fn is_cut_off_by(&self, sent: &[u8]) -> bool {
        let contains = |text: &str| sent.windows(text.len()).any(|part| part == text.as_bytes());
        self.rules.send_if_modified(|rules| rules.cut_off_before.take_if(|text| contains(text)).is_some())
    }
}

/// Waits until a direction of a connection is not held, and returns how data flows in it.
async fn released(rules: &mut watch::Receiver<Rules>, number: usize, direction: Direction) -> Flow {
    let flows = |rules: &Rules| number > rules.mute && !rules.flow(direction).held;
    let rules = rules.wait_for(|rules| flows(rules)).await.expect("the proxy keeps the sender");
    rules.flow(direction)
}
