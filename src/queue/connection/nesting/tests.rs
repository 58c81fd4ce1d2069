use lapin::protocol::connection::AMQPMethod;
use lapin::protocol::{AMQPClass, basic, parse_class};
use lapin::types::{AMQPValue, FieldTable};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1][..], &sized(payload), &[0xCE]].concat()
}

/// A content header with these properties.
fn header(properties: &[u8]) -> Vec<u8> {
    frame(HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..], properties].concat())
}

/// Properties with both strings before the headers and an id behind them.
fn properties(table: &[u8]) -> Vec<u8> {
    let flags = STRINGS_BEFORE[0] | STRINGS_BEFORE[1] | HAS_HEADERS | 1 << 7;
    [&flags.to_be_bytes()[..], b"\x04json\x00", &sized(table), b"\x03evt"].concat()
}

/// An entry with a short name, or an element of a list.
fn nested(kind: u8, depth: usize) -> Vec<u8> {
    let name: &[u8] = if kind == TABLE { b"\x01k" } else { b"" };
    let innermost = [name, &b"I\0\0\0\x07"[..]].concat();
    let inside = (1..depth).fold(innermost, |inside, _| [name, &[kind][..], &sized(&inside)].concat());
    if kind == TABLE { inside } else { [b"\x01k", &[LIST][..], &sized(&inside)].concat() }
}

fn passed(came: &[u8]) -> Vec<u8> {
    let mut bytes = came.to_vec();
    NestingLimit::default().apply(&mut bytes);
    bytes
}

fn read(frame: &[u8]) -> Option<FieldTable> {
    let payload = &frame[FRAME_HEADER_BYTES + BEFORE_PROPERTIES_BYTES..frame.len() - 1];
    basic::parse_properties(payload).ok()?.1.headers().clone()
}

fn depth_of_table(table: &FieldTable) -> usize {
    1 + table.inner().values().map(depth_of).max().unwrap_or(0)
}

fn depth_of(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::FieldTable(table) => depth_of_table(table),
        AMQPValue::FieldArray(list) => 1 + list.as_slice().iter().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

/// The first frame of a broker, before anybody has logged in.
fn start(table: &[u8]) -> Vec<u8> {
    frame(METHOD, &[&[0, 10, 0, 10, 0, 9][..], &sized(table), &sized(b"PLAIN"), &sized(b"en_US")].concat())
}

#[test]
fn a_broker_that_describes_itself_too_deeply_is_read_as_well() {
    for table in [nested(TABLE, 5_000), nested(LIST, 5_000)] {
        let came = passed(&start(&table));
        let (rest, class) = parse_class(&came[FRAME_HEADER_BYTES..came.len() - 1]).unwrap();
        let AMQPClass::Connection(AMQPMethod::Start(start)) = class else { panic!("{class:?}") };
        assert!(rest.is_empty() && depth_of_table(&start.server_properties) <= MAX_DEPTH);
        assert_eq!(start.locales.as_bytes(), b"en_US");
    }
    let shallow = start(&nested(TABLE, MAX_DEPTH));
    assert_eq!(passed(&shallow), shallow);
}

#[test]
fn tables_and_lists_as_deep_as_allowed_pass_as_they_are() {
    for came in [nested(TABLE, MAX_DEPTH), nested(LIST, MAX_DEPTH - 1)].map(|table| header(&properties(&table))) {
        assert_eq!(passed(&came), came);
        assert_eq!(depth_of_table(&read(&came).unwrap()), MAX_DEPTH);
    }
}

#[test]
fn what_lies_deeper_becomes_bytes_and_the_rest_stays() {
    for (kind, depth) in [(TABLE, MAX_DEPTH + 1), (LIST, MAX_DEPTH), (TABLE, 16_000), (LIST, 26_000)] {
        let came = header(&properties(&nested(kind, depth)));
        let passed = passed(&came);
        assert_eq!(depth_of_table(&read(&passed).expect("it can be read")), MAX_DEPTH);
        let changed = came.iter().zip(&passed).filter(|(before, after)| before != after).count();
        assert_eq!((changed, passed.len()), (1, came.len()));
    }
}

/// A value behind its type byte.
fn values() -> impl Strategy<Value = Vec<u8>> {
    let fixed = [(b'V', 0), (b't', 1), (b'b', 1), (b'B', 1), (b's', 2), (b'u', 2), (b'U', 2), (b'i', 4), (b'I', 4)];
    let wider = [(b'f', 4), (b'D', 5), (b'l', 8), (b'L', 8), (b'd', 8), (b'T', 8)];
    let fixed: Vec<(u8, usize)> = fixed.into_iter().chain(wider).collect();
    let plain = (proptest::sample::select(fixed), any::<u8>())
        .prop_map(|((kind, width), fill)| [vec![kind], vec![fill; width]].concat());
    let long = (proptest::sample::select(vec![b'S', BYTES]), vec(any::<u8>(), 0..20))
        .prop_map(|(kind, bytes)| [vec![kind], sized(&bytes)].concat());
    prop_oneof![plain, long].prop_recursive(20, 60, 3, |inner| {
        let entry = ("[a-z]{0,2}", inner.clone())
            .prop_map(|(name, value)| [vec![u8::try_from(name.len()).unwrap()], name.into_bytes(), value].concat());
        prop_oneof![
            vec(entry, 1..3).prop_map(|entries| [vec![TABLE], sized(&entries.concat())].concat()),
            vec(inner, 1..3).prop_map(|elements| [vec![LIST], sized(&elements.concat())].concat()),
        ]
    })
}

/// One value inside up to 39 more lists.
fn wrapped() -> impl Strategy<Value = Vec<u8>> {
    (values(), 0..40_usize).prop_map(|(value, lists)| {
        let value = (0..lists).fold(value, |inside, _| [vec![LIST], sized(&inside)].concat());
        [b"\x01k".to_vec(), value].concat()
    })
}

proptest! {
    #[test]
    fn any_headers_stay_readable_and_none_is_too_deep(table in wrapped()) {
        let came = header(&properties(&table));
        let (before, after) = (depth_of_table(&read(&came).unwrap()), depth_of_table(&read(&passed(&came)).unwrap()));
        prop_assert_eq!(after, before.min(MAX_DEPTH));
    }

    /// The library reads broken headers no deeper than the limit, and the frame behind them is limited, too.
    #[test]
    fn broken_headers_are_not_too_deep_either(table in wrapped(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut broken = properties(&table);
        *at.get_mut(&mut broken) = byte;
        let (first, second) = (header(&broken), header(&properties(&nested(TABLE, 100))));
        let passed = passed(&[&first[..], &second].concat());
        let (first, second) = passed.split_at(first.len());
        prop_assert!(read(first).is_none_or(|table| depth_of_table(&table) <= MAX_DEPTH));
        prop_assert_eq!(depth_of_table(&read(second).unwrap()), MAX_DEPTH);
    }

    #[test]
    fn pieces_of_any_size_give_the_same_result(table in wrapped(), pieces in vec(1..60_usize, 1..40)) {
        let came = [frame(1, b"abc"), header(&properties(&table)), frame(3, b"F"), header(&[0, 0]), frame(8, b"")].concat();
        let (mut nesting, mut bytes) = (NestingLimit::default(), came.clone());
        let (mut left, mut pieces) = (&mut bytes[..], pieces.iter().cycle());
        while !left.is_empty() {
            let piece = (*pieces.next().unwrap()).min(left.len());
            let (now, later) = left.split_at_mut(piece);
            nesting.apply(now);
            left = later;
        }
        prop_assert_eq!(bytes, passed(&came));
    }

    #[test]
    fn any_bytes_panic_nowhere(bytes in vec(any::<u8>(), 0..400)) {
        passed(&bytes);
        passed(&header(&bytes));
    }
}
