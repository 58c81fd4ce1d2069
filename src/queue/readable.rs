//! Makes every message readable for the AMQP library, on connections that ask for it.
//!
//! The library ends a connection on which it cannot read a message's properties, and with it everything that connection
//! holds. So what the broker sends is looked at first, frame by frame. Properties that the library cannot read are replaced
//! by a header that holds their bytes: the message arrives with its body and can be settled like any other.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::protocol::{basic, parse_class};
use lapin::tcp::AsyncTcpStream;

use super::MAX_FRAME_BYTES;
use super::shallow::Shallow;

/// The header that holds the bytes of properties that could not be read.
pub(super) const UNREADABLE: &str = "x-unreadable-properties";
/// Stands beside it if they did not fit.
pub(super) const CUT: &str = "x-unreadable-cut";
/// Leaves room for what else a message has in its frame when it is sent again.
const MAX_KEPT_BYTES: usize = MAX_FRAME_BYTES as usize - 2048;

pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Type, channel and size before a frame's payload, and the mark behind it.
pub(super) const BEFORE: usize = 7;
const FRAME_END: u8 = 0xCE;
/// No broker sends a larger one: we agreed on `MAX_FRAME_BYTES`, which only headers that the broker adds may exceed.
const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

const GET_OK: [u8; 4] = [0, 60, 0, 71];
/// Class, weight and size of the body before the properties.
pub(super) const BEFORE_PROPERTIES: usize = 12;
/// The property flag of headers.
pub(super) const HAS_HEADERS: u16 = 1 << 13;

/// Splits what the broker sends into frames and replaces those that the library cannot read.
#[derive(Debug, Default)]
struct Mender {
    incomplete: Vec<u8>,
    /// Channels on which the content header to come belongs to a `get-ok` that could not be read.
    spoilt: HashSet<[u8; 2]>,
    /// What came is no AMQP: the library shall say so.
    gave_up: bool,
}

impl Mender {
    /// Takes what came and appends to `mended` all frames that are complete.
    fn mend(&mut self, came: &[u8], mended: &mut Vec<u8>) {
        self.incomplete.extend_from_slice(came);
        let mut rest = std::mem::take(&mut self.incomplete);
        let mut done = 0;
        while !self.gave_up {
            let Some(before) = rest[done..].first_chunk::<BEFORE>() else { break };
            let [kind, a, b, size @ ..] = *before;
            let size = u32::from_be_bytes(size) as usize;
            if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) || size > MAX_PAYLOAD_BYTES {
                self.gave_up = true;
                break;
            }
            let Some(frame) = rest[done..].get(..BEFORE + size + 1) else { break };
            match self.replacement(kind, [a, b], &frame[BEFORE..BEFORE + size]) {
                Some(payload) => write_frame(kind, [a, b], &payload, mended),
                None => mended.extend_from_slice(frame),
            }
            done += frame.len();
        }
        if self.gave_up {
            mended.extend_from_slice(&rest[done..]);
            return;
        }
        rest.drain(..done);
        self.incomplete = rest;
    }

    /// Of a frame that the library cannot read.
    fn replacement(&mut self, kind: u8, channel: [u8; 2], payload: &[u8]) -> Option<Vec<u8>> {
        match kind {
            METHOD if payload.starts_with(&GET_OK) && !is_whole(parse_class(payload)) => {
                let legible = legible_get_ok(payload)?;
                self.spoilt.insert(channel);
                Some(legible)
            }
            HEADER => {
                let (before, properties) = payload.split_at_checked(BEFORE_PROPERTIES)?;
                let fits = BEFORE + payload.len() < MAX_FRAME_BYTES as usize;
                let spoilt = self.spoilt.remove(&channel);
                let readable = !spoilt && fits && is_whole(basic::parse_properties(properties));
                (!readable).then(|| [before, &stand_in(properties)].concat())
            }
            _ => None,
        }
    }
}

/// Whether all of it was read.
fn is_whole<T, E>(parsed: Result<(&[u8], T), E>) -> bool {
    parsed.is_ok_and(|(rest, _)| rest.is_empty())
}

fn write_frame(kind: u8, channel: [u8; 2], payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(channel);
    out.extend(size_of(payload));
    out.extend_from_slice(payload);
    out.push(FRAME_END);
}

fn size_of(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("a frame is small").to_be_bytes()
}

/// The same with names of exchange and routing key that are text: tag and flag, the two names, a count.
fn legible_get_ok(payload: &[u8]) -> Option<Vec<u8>> {
    let (before, names) = payload.split_at_checked(GET_OK.len() + 9)?;
    let mut legible = before.to_vec();
    let mut rest = names;
    for _ in 0..2 {
        let (size, after) = rest.split_first()?;
        let (name, after) = after.split_at_checked(usize::from(*size))?;
        legible.push(*size);
        legible.extend(name.iter().map(|byte| if byte.is_ascii() { *byte } else { b'?' }));
        rest = after;
    }
    legible.extend_from_slice(rest);
    Some(legible)
}

/// Properties that hold the bytes of others in a header, and beside it what the broker itself wrote there: how often the
/// message was read.
fn stand_in(properties: &[u8]) -> Vec<u8> {
    let kept = &properties[..properties.len().min(MAX_KEPT_BYTES)];
    let mut table = Vec::new();
    let mut entry = |key: &str, kind: u8, value: &[&[u8]]| {
        table.push(u8::try_from(key.len()).expect("our names are short"));
        table.extend_from_slice(key.as_bytes());
        table.push(kind);
        table.extend(value.concat());
    };
    entry(UNREADABLE, b'S', &[&size_of(kept), kept]);
    if kept.len() < properties.len() {
        entry(CUT, b't', &[&[1]]);
    }
    if let Some(count) = count_of(properties) {
        entry(COUNT, b'l', &[&count.to_be_bytes()]);
    }
    [&HAS_HEADERS.to_be_bytes()[..], &size_of(&table), &table].concat()
}

/// The broker's count that `dead_letters::delivery_count` reads.
pub(super) const COUNT: &str = "x-delivery-count";

/// The broker's count among properties that cannot be read.
fn count_of(properties: &[u8]) -> Option<i64> {
    let (kind, value) = value_after(properties, COUNT)?.split_first()?;
    Some(match kind {
        b'l' | b'L' => i64::from_be_bytes(*value.first_chunk()?),
        b'I' => i64::from(i32::from_be_bytes(*value.first_chunk()?)),
        b's' | b'U' => i64::from(i16::from_be_bytes(*value.first_chunk()?)),
        b'b' => i64::from(i8::from_be_bytes(*value.first_chunk()?)),
        _ => return None,
    })
}

/// When the broker made a dead letter of it, in unix seconds, among properties that cannot be read.
pub(super) fn time_of_death(properties: &[u8]) -> Option<u64> {
    let death = value_after(properties, "x-death")?;
    let (kind, value) = value_after(death, "time")?.split_first()?;
    if *kind == b'T' { value.first_chunk().map(|time| u64::from_be_bytes(*time)) } else { None }
}

/// What stands behind a key of a table.
fn value_after<'a>(bytes: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let size = u8::try_from(key.len()).expect("our names are short");
    let sought = [&[size], key.as_bytes()].concat();
    let at = bytes.windows(sought.len()).position(|window| window == sought)?;
    Some(&bytes[at + sought.len()..])
}

type Whole = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// A connection's bytes, TLS taken off.
pub(super) struct Readable {
    stream: Whole,
    shallow: Shallow,
    /// Unless what cannot be read ends the connection.
    mender: Option<Mender>,
    mended: Vec<u8>,
    /// Of `mended`, what the library has.
    taken: usize,
    chunk: Box<[u8]>,
}

/// What to do about messages that the library cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// They end the connection.
    AsIs,
    /// They are made readable.
    Mended,
}

impl Readable {
    pub(super) fn new(stream: Whole, reading: Reading) -> Self {
        let (mender, chunk) = match reading {
            Reading::AsIs => (None, 0),
            Reading::Mended => (Some(Mender::default()), 64 * 1024),
        };
        let (shallow, chunk) = (Shallow::default(), vec![0; chunk].into());
        Self { stream, shallow, mender, mended: Vec::new(), taken: 0, chunk }
    }
}

impl AsyncRead for Readable {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, shallow, mender, mended, taken, chunk } = self.get_mut();
        let Some(mender) = mender else {
            let came = ready!(Pin::new(stream).poll_read(cx, buffer))?;
            shallow.pass(&mut buffer[..came]);
            return Poll::Ready(Ok(came));
        };
        while *taken == mended.len() {
            (*taken, *mended) = (0, Vec::new());
            let came = ready!(Pin::new(&mut *stream).poll_read(cx, chunk))?;
            if came == 0 {
                return Poll::Ready(Ok(0));
            }
            shallow.pass(&mut chunk[..came]);
            mender.mend(&chunk[..came], mended);
        }
        let next = &mended[*taken..];
        let fits = next.len().min(buffer.len());
        buffer[..fits].copy_from_slice(&next[..fits]);
        *taken += fits;
        Poll::Ready(Ok(fits))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.mender.is_none() {
            let Self { stream, shallow, .. } = self.get_mut();
            let came = ready!(Pin::new(stream).poll_read_vectored(cx, buffers))?;
            let mut left = came;
            for buffer in buffers {
                let filled = left.min(buffer.len());
                shallow.pass(&mut buffer[..filled]);
                left -= filled;
            }
            return Poll::Ready(Ok(came));
        }
        match buffers.iter_mut().find(|buffer| !buffer.is_empty()) {
            Some(buffer) => self.poll_read(cx, buffer),
            None => Poll::Ready(Ok(0)),
        }
    }
}

impl AsyncWrite for Readable {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

/// The runtime of connections whose bytes are `Readable`: everything but the type of their stream is tokio's.
pub(super) type ReadableRuntime = RuntimeParts<Tokio, OfReadable>;

pub(super) fn runtime() -> Runtime<ReadableRuntime> {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), OfReadable(tokio)))
}

#[derive(Clone)]
pub(super) struct OfReadable(Tokio);

impl fmt::Debug for OfReadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfReadable")
    }
}

impl Reactor for OfReadable {
    type TcpStream = Readable;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async { Ok(Readable::new(AsyncTcpStream::Plain(connecting.await?), Reading::AsIs)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::{AMQPValue, FieldTable};
    use proptest::prelude::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write_frame(kind, [0, 1], payload, &mut frame);
        frame
    }

    fn header(properties: &[u8]) -> Vec<u8> {
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..], properties].concat()
    }

    fn mended(came: &[u8]) -> Vec<u8> {
        let mut mended = Vec::new();
        Mender::default().mend(came, &mut mended);
        mended
    }

    /// The headers of what stands in for a content header.
    fn headers_of(frame: &[u8]) -> FieldTable {
        let payload = &frame[BEFORE..frame.len() - 1];
        assert_eq!((frame[0], payload.len()), (HEADER, u32::from_be_bytes(frame[3..7].try_into().unwrap()) as usize));
        let (rest, properties) = basic::parse_properties(&payload[BEFORE_PROPERTIES..]).unwrap();
        assert!(rest.is_empty());
        properties.headers().clone().unwrap()
    }

    fn kept(headers: &FieldTable) -> &[u8] {
        match headers.inner().get(UNREADABLE) {
            Some(AMQPValue::LongString(kept)) => kept.as_bytes(),
            other => panic!("{other:?}"),
        }
    }

    /// A message id that is no text, with the broker's count and account of its death before it.
    fn unreadable() -> Vec<u8> {
        let mut table = Vec::new();
        for (key, kind, value) in [
            ("x-delivery-count", b'l', &7_i64.to_be_bytes()[..]),
            ("x-death", b'A', b"\0\0\0\x18F\0\0\0\x0e\x04timeT\0\0\0\0\0\0\0\x2a"),
        ] {
            table.push(u8::try_from(key.len()).unwrap());
            table.extend(key.bytes().chain([kind]).chain(value.iter().copied()));
        }
        let flags = HAS_HEADERS | 1 << 7;
        [&flags.to_be_bytes()[..], &size_of(&table), &table, b"\x04evt\xff"].concat()
    }

    #[test]
    fn properties_that_cannot_be_read_arrive_as_bytes_with_the_brokers_count() {
        let properties = unreadable();
        let mended = mended(&frame(HEADER, &header(&properties)));
        let headers = headers_of(&mended);
        assert_eq!(kept(&headers), properties);
        assert_eq!(headers.inner().get(COUNT), Some(&AMQPValue::LongLongInt(7)));
        assert!(!headers.contains_key(CUT));
        assert_eq!(time_of_death(kept(&headers)), Some(42));
        assert_eq!(mended[BEFORE..BEFORE + BEFORE_PROPERTIES], header(b"")[..]);
    }

    #[test]
    fn a_routing_key_that_is_no_text_becomes_one_and_its_properties_are_kept_as_bytes() {
        let get_ok = |key: &[u8]| [&GET_OK[..], b"\0\0\0\0\0\0\0\x01\0", b"\x01e\x02", key, b"\0\0\0\x09"].concat();
        let properties = [0, 0];
        let came =
            [frame(METHOD, &get_ok(b"k\xff")), frame(HEADER, &header(&properties)), frame(BODY, b"hello")].concat();
        let mended = mended(&came);
        let (method, rest) = mended.split_at(frame(METHOD, &get_ok(b"k?")).len());
        assert_eq!(method, frame(METHOD, &get_ok(b"k?")));
        assert!(is_whole(parse_class(&method[BEFORE..method.len() - 1])));
        let (headers, body) = rest.split_at(rest.len() - frame(BODY, b"hello").len());
        assert_eq!(kept(&headers_of(headers)), properties);
        assert_eq!(body, frame(BODY, b"hello"));
    }

    #[test]
    fn headers_too_large_for_a_frame_are_cut_and_say_so() {
        let table = [b"\x05largeS", &size_of(&[b'x'; 131_072])[..], &[b'x'; 131_072]].concat();
        let properties = [&HAS_HEADERS.to_be_bytes(), &size_of(&table)[..], &table].concat();
        let mended = mended(&frame(HEADER, &header(&properties)));
        assert!(mended.len() <= MAX_FRAME_BYTES as usize);
        let headers = headers_of(&mended);
        assert_eq!((kept(&headers), headers.contains_key(CUT)), (&properties[..MAX_KEPT_BYTES], true));
    }

    proptest! {
        #[test]
        fn whatever_the_library_reads_passes_as_it_is(
            id in "[ -~é]{0,40}", bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..4),
        ) {
            let id = [&[u8::try_from(id.len()).unwrap()], id.as_bytes()].concat();
            let properties = [&(1_u16 << 7).to_be_bytes()[..], &id].concat();
            let mut came = frame(HEADER, &header(&properties));
            bodies.iter().for_each(|body| came.extend(frame(BODY, body)));
            came.extend(frame(HEARTBEAT, b""));
            prop_assert_eq!(mended(&came), came);
        }

        #[test]
        fn it_matters_nothing_how_the_bytes_come(pieces in proptest::collection::vec(1..60_usize, 1..40)) {
            let came = [frame(BODY, b"a"), frame(HEADER, &header(&unreadable())), frame(BODY, &[7; 200])].concat();
            let (mut mender, mut at_once, mut left) = (Mender::default(), Vec::new(), &came[..]);
            for piece in pieces.into_iter().cycle() {
                let (now, later) = left.split_at(piece.min(left.len()));
                mender.mend(now, &mut at_once);
                left = later;
                if left.is_empty() { break; }
            }
            prop_assert_eq!(at_once, mended(&came));
        }

        /// And what is no AMQP at all passes for the library to complain about.
        #[test]
        fn any_bytes_panic_nowhere_and_any_properties_become_readable(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            mended(&bytes);
            mended(&frame(METHOD, &[&GET_OK[..], &bytes].concat()));
            let mended = mended(&frame(HEADER, &header(&bytes)));
            prop_assert!(is_whole(basic::parse_properties(&mended[BEFORE + BEFORE_PROPERTIES..mended.len() - 1])));
        }
    }
}
