//! Reads the broker's version from its greeting, which a broker sends before anybody logs in. The AMQP library does not show
//! the greeting to its users.

use std::io::{Error, Result};

use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use lapin::protocol::connection::AMQPMethod;
use lapin::protocol::{AMQPClass, parse_class};
use lapin::tcp::AsyncTcpStream;
use lapin::types::AMQPValue;

use super::frames::{FRAME_HEADER_BYTES, MAX_FRAME_BYTES};
use super::nesting::NestingLimit;
use super::nodes::Peer;

/// The client's first bytes: AMQP 0-9-1, section 4.2.2.
const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// The broker's version, such as `3.10.8`. The caller bounds the wait.
///
/// # Errors
///
/// The peer cannot be reached, or does not greet as a broker does.
pub(in crate::queue) async fn version(peer: &Peer) -> Result<String> {
    let runtime = lapin::runtime::default_runtime().map_err(Error::other)?;
    let mut stream = peer.encrypted(AsyncTcpStream::connect(&runtime, peer.ip).await?).await?;
    stream.write_all(&PROTOCOL_HEADER).await?;
    stream.flush().await?;
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let [_, _, _, size @ ..] = header;
    let size = u32::from_be_bytes(size).min(MAX_FRAME_BYTES);
    let mut frame = header.to_vec();
    stream.take(size.into()).read_to_end(&mut frame).await?;
    NestingLimit::default().apply(&mut frame);
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
