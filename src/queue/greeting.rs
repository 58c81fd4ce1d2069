//! Reads what a broker says of itself before anybody logs in, which the AMQP library keeps to itself.

use std::io::{Error, Result};

use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use lapin::protocol::connection::AMQPMethod;
use lapin::protocol::{AMQPClass, parse_class};
use lapin::tcp::AsyncTcpStream;
use lapin::types::AMQPValue;

use super::MAX_FRAME_BYTES;
use super::nodes::Peer;
use super::shallow::Shallow;

/// AMQP 0-9-1, section 4.2.2.
const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// Section 4.2.3: type, channel and size of the payload.
const FRAME_HEADER_BYTES: usize = 7;

/// The broker's version, such as `3.10.8`. The caller bounds the wait.
pub(super) async fn version(peer: &Peer) -> Result<String> {
    let runtime = lapin::runtime::default_runtime().map_err(Error::other)?;
    let mut stream = peer.secured(AsyncTcpStream::connect(&runtime, peer.ip).await?).await?;
    stream.write_all(&PROTOCOL_HEADER).await?;
    stream.flush().await?;
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let [_, _, _, size @ ..] = header;
    let size = u32::from_be_bytes(size).min(MAX_FRAME_BYTES);
    let mut frame = header.to_vec();
    stream.take(size.into()).read_to_end(&mut frame).await?;
    Shallow::default().pass(&mut frame);
    greeted_version(&frame[FRAME_HEADER_BYTES..])
        .ok_or_else(|| Error::other("the server does not greet as a broker does"))
}

fn greeted_version(payload: &[u8]) -> Option<String> {
    let Ok((_, AMQPClass::Connection(AMQPMethod::Start(start)))) = parse_class(payload) else { return None };
    match start.server_properties.inner().get("version")? {
        AMQPValue::LongString(version) => Some(version.to_string()),
        _ => None,
    }
}
