//! Replaces message properties that the AMQP library cannot read.
//!
//! The library ends a connection on which it cannot read a message's properties, and every message read on that connection
//! goes back to the queue. So the broker's frames are checked here first. Properties that the library cannot read are replaced
//! by a single header that holds their bytes: the message arrives with its body and can be settled like any other.

use std::collections::HashSet;

use lapin::protocol::{basic, parse_class};

use super::frames::{
    BEFORE_PROPERTIES_BYTES, BODY, FRAME_END, FRAME_HEADER_BYTES, HAS_HEADERS, HEADER, HEARTBEAT, MAX_FRAME_BYTES,
    METHOD,
};
use crate::queue::headers::{DEATH, DELIVERY_COUNT, UNREADABLE, UNREADABLE_CUT};

/// How many bytes of unreadable properties are kept. The rest of the frame is for headers that are added when the message is
/// sent again.
const MAX_KEPT_BYTES: usize = MAX_FRAME_BYTES as usize - 2048;

/// A larger frame is taken for a stream that is not AMQP. We agreed on `MAX_FRAME_BYTES`, and only headers that the broker
/// adds may make a frame larger than that.
const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

/// Class and method number of `basic.get-ok`.
const GET_OK: [u8; 4] = [0, 60, 0, 71];
/// Delivery tag and redelivered flag, between [`GET_OK`] and the two names.
const GET_OK_FIXED_BYTES: usize = 9;

/// Splits the broker's bytes into frames and replaces those that the library cannot read.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// The beginning of a frame whose rest has not come yet.
    incomplete: Vec<u8>,
    /// Channels whose next content header belongs to a `get-ok` that was replaced: its properties are replaced, too.
    replaced_get_ok: HashSet<[u8; 2]>,
    /// The bytes are not AMQP. From here on they pass unchanged, and the library reports the error.
    gave_up: bool,
}

impl Repair {
    /// Takes bytes that have come and appends every frame that is complete to `repaired`.
    pub(super) fn repair(&mut self, came: &[u8], repaired: &mut Vec<u8>) {
        self.incomplete.extend_from_slice(came);
        let mut rest = std::mem::take(&mut self.incomplete);
        let mut done = 0;
        while !self.gave_up {
            let Some(before) = rest[done..].first_chunk::<FRAME_HEADER_BYTES>() else { break };
            let [kind, a, b, size @ ..] = *before;
            let size = u32::from_be_bytes(size) as usize;
            if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) || size > MAX_PAYLOAD_BYTES {
                self.gave_up = true;
                break;
            }
            let Some(frame) = rest[done..].get(..FRAME_HEADER_BYTES + size + 1) else { break };
            match self.replacement(kind, [a, b], &frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + size]) {
                Some(payload) => write_frame(kind, [a, b], &payload, repaired),
                None => repaired.extend_from_slice(frame),
            }
            done += frame.len();
        }
        if self.gave_up {
            repaired.extend_from_slice(&rest[done..]);
            return;
        }
        rest.drain(..done);
        self.incomplete = rest;
    }

    /// The new payload of a frame that the library cannot read; `None` if it can.
    fn replacement(&mut self, kind: u8, channel: [u8; 2], payload: &[u8]) -> Option<Vec<u8>> {
        match kind {
            METHOD if payload.starts_with(&GET_OK) && !is_whole(parse_class(payload)) => {
                let legible = legible_get_ok(payload)?;
                self.replaced_get_ok.insert(channel);
                Some(legible)
            }
            HEADER => {
                let (before, properties) = payload.split_at_checked(BEFORE_PROPERTIES_BYTES)?;
                let fits = FRAME_HEADER_BYTES + payload.len() < MAX_FRAME_BYTES as usize;
                let get_ok_replaced = self.replaced_get_ok.remove(&channel);
                let readable = !get_ok_replaced && fits && is_whole(basic::parse_properties(properties));
                (!readable).then(|| [before, &stand_in(properties)].concat())
            }
            _ => None,
        }
    }
}

/// Whether the library read all bytes.
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

/// A `get-ok` whose exchange and routing key are ASCII: every other byte of the two names becomes `?`.
fn legible_get_ok(payload: &[u8]) -> Option<Vec<u8>> {
    let (before, names) = payload.split_at_checked(GET_OK.len() + GET_OK_FIXED_BYTES)?;
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

/// Readable properties in place of unreadable ones: a header with their bytes, and the broker's delivery count.
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
        entry(UNREADABLE_CUT, b't', &[&[1]]);
    }
    if let Some(count) = delivery_count(properties) {
        entry(DELIVERY_COUNT, b'l', &[&count.to_be_bytes()]);
    }
    [&HAS_HEADERS.to_be_bytes()[..], &size_of(&table), &table].concat()
}

/// The broker's delivery count among unreadable properties.
fn delivery_count(properties: &[u8]) -> Option<i64> {
    let (kind, value) = value_after(properties, DELIVERY_COUNT)?.split_first()?;
    Some(match kind {
        b'l' | b'L' => i64::from_be_bytes(*value.first_chunk()?),
        b'I' => i64::from(i32::from_be_bytes(*value.first_chunk()?)),
        b's' | b'U' => i64::from(i16::from_be_bytes(*value.first_chunk()?)),
        b'b' => i64::from(i8::from_be_bytes(*value.first_chunk()?)),
        _ => return None,
    })
}

/// When the broker made a dead letter of the message, in Unix seconds, among unreadable properties.
pub(in crate::queue) fn time_of_death(properties: &[u8]) -> Option<u64> {
    let death = value_after(properties, DEATH)?;
    let (kind, value) = value_after(death, "time")?.split_first()?;
    if *kind == b'T' { value.first_chunk().map(|time| u64::from_be_bytes(*time)) } else { None }
}

/// The bytes behind a table's key. The table may be broken anywhere else.
fn value_after<'a>(bytes: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let size = u8::try_from(key.len()).expect("our names are short");
    let sought = [&[size], key.as_bytes()].concat();
    let at = bytes.windows(sought.len()).position(|window| window == sought)?;
    Some(&bytes[at + sought.len()..])
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

    fn repaired(came: &[u8]) -> Vec<u8> {
        let mut repaired = Vec::new();
        Repair::default().repair(came, &mut repaired);
        repaired
    }

    /// The headers of a replaced content header.
    fn headers_of(frame: &[u8]) -> FieldTable {
        let payload = &frame[FRAME_HEADER_BYTES..frame.len() - 1];
        assert_eq!((frame[0], payload.len()), (HEADER, u32::from_be_bytes(frame[3..7].try_into().unwrap()) as usize));
        let (rest, properties) = basic::parse_properties(&payload[BEFORE_PROPERTIES_BYTES..]).unwrap();
        assert!(rest.is_empty());
        properties.headers().clone().unwrap()
    }

    fn kept(headers: &FieldTable) -> &[u8] {
        match headers.inner().get(UNREADABLE) {
            Some(AMQPValue::LongString(kept)) => kept.as_bytes(),
            other => panic!("{other:?}"),
        }
    }

    /// Properties with a message id that is not UTF-8, and before it the broker's delivery count and `x-death`.
    fn unreadable() -> Vec<u8> {
        let mut table = Vec::new();
        for (key, kind, value) in [
            (DELIVERY_COUNT, b'l', &7_i64.to_be_bytes()[..]),
            (DEATH, b'A', b"\0\0\0\x18F\0\0\0\x0e\x04timeT\0\0\0\0\0\0\0\x2a"),
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
        let repaired = repaired(&frame(HEADER, &header(&properties)));
        let headers = headers_of(&repaired);
        assert_eq!(kept(&headers), properties);
        assert_eq!(headers.inner().get(DELIVERY_COUNT), Some(&AMQPValue::LongLongInt(7)));
        assert!(!headers.contains_key(UNREADABLE_CUT));
        assert_eq!(time_of_death(kept(&headers)), Some(42));
        assert_eq!(repaired[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + BEFORE_PROPERTIES_BYTES], header(b"")[..]);
    }

    #[test]
    fn a_routing_key_that_is_no_text_becomes_one_and_its_properties_are_kept_as_bytes() {
        let get_ok = |key: &[u8]| [&GET_OK[..], b"\0\0\0\0\0\0\0\x01\0", b"\x01e\x02", key, b"\0\0\0\x09"].concat();
        let properties = [0, 0];
        let came =
            [frame(METHOD, &get_ok(b"k\xff")), frame(HEADER, &header(&properties)), frame(BODY, b"hello")].concat();
        let repaired = repaired(&came);
        let (method, rest) = repaired.split_at(frame(METHOD, &get_ok(b"k?")).len());
        assert_eq!(method, frame(METHOD, &get_ok(b"k?")));
        assert!(is_whole(parse_class(&method[FRAME_HEADER_BYTES..method.len() - 1])));
        let (headers, body) = rest.split_at(rest.len() - frame(BODY, b"hello").len());
        assert_eq!(kept(&headers_of(headers)), properties);
        assert_eq!(body, frame(BODY, b"hello"));
    }

    #[test]
    fn headers_too_large_for_a_frame_are_cut_and_say_so() {
        let table = [b"\x05largeS", &size_of(&[b'x'; 131_072])[..], &[b'x'; 131_072]].concat();
        let properties = [&HAS_HEADERS.to_be_bytes(), &size_of(&table)[..], &table].concat();
        let repaired = repaired(&frame(HEADER, &header(&properties)));
        assert!(repaired.len() <= MAX_FRAME_BYTES as usize);
        let headers = headers_of(&repaired);
        assert_eq!((kept(&headers), headers.contains_key(UNREADABLE_CUT)), (&properties[..MAX_KEPT_BYTES], true));
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
            prop_assert_eq!(repaired(&came), came);
        }

        #[test]
        fn pieces_of_any_size_give_the_same_result(pieces in proptest::collection::vec(1..60_usize, 1..40)) {
            let came = [frame(BODY, b"a"), frame(HEADER, &header(&unreadable())), frame(BODY, &[7; 200])].concat();
            let (mut repair, mut in_pieces, mut left) = (Repair::default(), Vec::new(), &came[..]);
            for piece in pieces.into_iter().cycle() {
                let (now, later) = left.split_at(piece.min(left.len()));
                repair.repair(now, &mut in_pieces);
                left = later;
                if left.is_empty() { break; }
            }
            prop_assert_eq!(in_pieces, repaired(&came));
        }

        /// Bytes that are not AMQP pass unchanged, and the library reports the error.
        #[test]
        fn any_bytes_panic_nowhere_and_any_properties_become_readable(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            repaired(&bytes);
            repaired(&frame(METHOD, &[&GET_OK[..], &bytes].concat()));
            let repaired = repaired(&frame(HEADER, &header(&bytes)));
            prop_assert!(is_whole(basic::parse_properties(&repaired[FRAME_HEADER_BYTES + BEFORE_PROPERTIES_BYTES..repaired.len() - 1])));
        }
    }
}
