//! A message to publish, down to its bytes, and what is read of a dead letter.

use super::frame::{Reader, Writer};
use crate::support::amqp::Message;

/// Property flags in the order of the specification (4.2.6.1 and the `basic` class).
const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;

/// A message of any bytes, to publish. Mandatory.
#[derive(Debug, Clone)]
pub struct RawMessage {
    pub exchange: String,
    pub routing_key: Vec<u8>,
    pub body: Vec<u8>,
    pub content_type: Option<Vec<u8>>,
    pub content_encoding: Option<Vec<u8>>,
    pub headers: Option<Table>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<Vec<u8>>,
    pub reply_to: Option<Vec<u8>>,
    pub expiration: Option<Vec<u8>>,
    pub message_id: Option<Vec<u8>>,
    pub timestamp: Option<u64>,
}

impl From<Message> for RawMessage {
    /// A persistent message without other properties, to be spoilt: `RawMessage { message_id, ..message.into() }`.
    fn from(message: Message) -> Self {
        let plain = Message::to("", "", "").properties;
        assert_eq!(message.properties, plain, "properties of an ordinary message would be lost");
        Self {
            exchange: message.exchange,
            routing_key: message.routing_key.into_bytes(),
            body: message.body,
            content_type: None,
            content_encoding: None,
            headers: None,
            delivery_mode: *plain.delivery_mode(),
            priority: None,
            correlation_id: None,
            reply_to: None,
            expiration: None,
            message_id: None,
            timestamp: None,
        }
    }
}

impl RawMessage {
    pub(super) fn content_header(&self) -> Vec<u8> {
        let mut flags = 0;
        let mut values = Writer::default();
        let short = |flag, value: &Option<Vec<u8>>, flags: &mut u16, values: Writer| match value {
            Some(value) => {
                *flags |= flag;
                values.short(value)
            }
            None => values,
        };
        let byte = |flag, value: Option<u8>, flags: &mut u16, values: Writer| match value {
            Some(value) => {
                *flags |= flag;
                values.byte(value)
            }
            None => values,
        };
        values = short(CONTENT_TYPE, &self.content_type, &mut flags, values);
        values = short(CONTENT_ENCODING, &self.content_encoding, &mut flags, values);
        if let Some(Table(table)) = &self.headers {
            flags |= HEADERS;
            values = values.long(table);
        }
        values = byte(DELIVERY_MODE, self.delivery_mode, &mut flags, values);
        values = byte(PRIORITY, self.priority, &mut flags, values);
        values = short(CORRELATION_ID, &self.correlation_id, &mut flags, values);
        values = short(REPLY_TO, &self.reply_to, &mut flags, values);
        values = short(EXPIRATION, &self.expiration, &mut flags, values);
        values = short(MESSAGE_ID, &self.message_id, &mut flags, values);
        if let Some(timestamp) = self.timestamp {
            flags |= TIMESTAMP;
            values = values.u64(timestamp);
        }
        Writer::method(60, 0).u64(self.body.len() as u64).u16(flags).raw(&values.bytes).bytes
    }
}

/// A header table, as its bytes on the wire.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Table(pub Vec<u8>);

impl std::fmt::Debug for Table {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Table({})", self.0[..self.0.len().min(256)].escape_ascii())
    }
}

impl Table {
    pub fn long_string(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.entry(key.as_ref(), b'S', Writer::default().long(value.as_ref()))
    }

    /// Tables in tables, `depth` of them, without a name between them: 6 bytes each, so that 16,000 fit into a frame.
    pub fn nested(depth: usize) -> Self {
        let lengths = (0..depth as u32).rev().map(|below| below * 6);
        Self(lengths.flat_map(|length| Writer::default().short(b"").byte(b'F').u32(length).bytes).collect())
    }

    /// The text of a top-level entry, if it is a long string.
    pub fn text(&self, key: &str) -> Option<String> {
        let (kind, value) = self.find(key)?;
        (kind == b'S').then(|| String::from_utf8_lossy(value).into_owned())
    }

    /// A top-level entry's kind and bytes.
    fn find(&self, key: &str) -> Option<(u8, &[u8])> {
        let mut reader = Reader(&self.0);
        while !reader.is_empty() {
            let name = reader.short();
            let kind = reader.byte();
            let value = read_value(&mut reader, kind);
            if name == key.as_bytes() {
                return Some((kind, value));
            }
        }
        None
    }

    fn entry(self, key: &[u8], kind: u8, value: Writer) -> Self {
        let entry = Writer::default().short(key).byte(kind).raw(&value.bytes);
        Self([self.0, entry.bytes].concat())
    }
}

/// Skips one value without looking inside, however deep it goes.
fn read_value<'a>(reader: &mut Reader<'a>, kind: u8) -> &'a [u8] {
    match kind {
        b't' | b'b' | b'B' => reader.take(1),
        b's' | b'u' => reader.take(2),
        b'I' | b'i' | b'f' => reader.take(4),
        b'D' => reader.take(5),
        b'l' | b'L' | b'd' | b'T' => reader.take(8),
        b'S' | b'x' | b'F' | b'A' => reader.long(),
        b'V' => reader.take(0),
        other => panic!("unknown kind of header value {other:#x}"),
    }
}

/// What is known of a message taken out of a queue.
#[derive(Debug, Default)]
pub struct Letter {
    headers: Table,
    pub body: Vec<u8>,
}

impl Letter {
    /// Why the broker made a dead letter of it: `rejected`, `delivery_limit`, `expired` …
    pub fn reason(&self) -> Option<String> {
        self.headers.text("x-first-death-reason")
    }

    /// From a content header; also returns the size of the body to come.
    pub(super) fn parse(header: &[u8]) -> (u64, Self) {
        let mut reader = Reader(header);
        let (_class, _weight, size, flags) = (reader.u16(), reader.u16(), reader.u64(), reader.u16());
        for flag in [CONTENT_TYPE, CONTENT_ENCODING] {
            if flags & flag != 0 {
                reader.short();
            }
        }
        let headers = if flags & HEADERS != 0 { Table(reader.long().to_owned()) } else { Table::default() };
        (size, Self { headers, body: Vec::new() })
    }
}
