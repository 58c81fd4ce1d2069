//! One connection to a receiver, from its first byte to the end that the script prescribes.

use std::io::Result;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use super::super::hidden_value::{self, HiddenValue};
use super::super::http::Head;
use super::super::reply::{Reply, Then};
use super::super::request::Request;
use super::super::search;
use super::Shared;

/// Accepts and serves connections; all of them end with this task.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let _ = stream.set_nodelay(true);
        let number = shared.count(|counts| {
            counts.connections += 1;
            counts.connections
        });
        connections.spawn(serve(stream, number, shared.clone()));
    }
}

async fn serve(stream: TcpStream, number: usize, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    tokio::select! {
        () = greet(stream, number, &shared) => {}
        _ = cuts.changed() => {}
    }
}

async fn greet(stream: TcpStream, number: usize, shared: &Shared) {
    let Some(acceptor) = &shared.tls else {
        return converse(stream, number, shared).await;
    };
    match acceptor.accept(stream).await {
        Ok(stream) => converse(stream, number, shared).await,
        Err(_) => shared.count(|counts| counts.failed_handshakes += 1),
    }
}

async fn converse(stream: impl Wire, number: usize, shared: &Shared) {
    let mut stream = BufReader::new(stream);
    match take_requests(&mut stream, number, shared).await {
        Ok(Then::KeepAlive | Then::Close) => drop(stream.shutdown().await),
        Ok(Then::Reset) => drop(stream.get_ref().tcp().set_zero_linger()),
        Ok(Then::Hang) => std::future::pending().await,
        Err(_) => {}
    }
}

/// A connection, encrypted or not.
trait Wire: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Takes requests and answers them until the client leaves or a reply ends it.
async fn take_requests(
    stream: &mut BufReader<impl AsyncRead + AsyncWrite + Unpin>,
    number: usize,
    shared: &Shared,
) -> Result<Then> {
    while !stream.fill_buf().await?.is_empty() {
        let begun = Begun::note(shared);
        shared.reading.pass().await;
        let reply = read_request(stream, number, shared).await?;
        begun.finish();
        reply.say(stream).await?;
        if reply.then != Then::KeepAlive {
            return Ok(reply.then);
        }
    }
    Ok(Then::Close)
}

async fn read_request(stream: &mut BufReader<impl AsyncRead + Unpin>, number: usize, shared: &Shared) -> Result<Reply> {
    let head = Head::read(stream).await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    if let Some(reply) = shared.early.lock().unwrap().clone() {
        return Ok(reply);
    }
    let body = head.read_body(stream).await?;
    if head.header(hidden_value::NAME).is_some_and(|value| HiddenValue::of_run().is_in(value.as_bytes())) {
        search::count("requests", 1);
    }
    let request = Arc::new(Request::new(head, body, number, &shared.origin));
    let scripted = shared.script.lock().unwrap().pop_front();
    let reply = scripted.unwrap_or_else(|| {
        let answer = shared.answer.lock().unwrap().clone();
        answer(&request)
    });
    shared.requests.lock().unwrap().push(request);
    shared.count(|counts| counts.requests += 1);
    Ok(reply)
}

/// A request of which some bytes have come. If dropped before the request is complete, it counts as unfinished.
struct Begun<'a>(&'a Shared);

impl<'a> Begun<'a> {
    fn note(shared: &'a Shared) -> Self {
        shared.count(|counts| counts.begun += 1);
        Self(shared)
    }

    fn finish(self) {
        std::mem::forget(self);
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.count(|counts| counts.unfinished += 1);
    }
}
