//! Limits how deep the header tables of broker messages are nested, on every connection to the broker.
//!
//! The AMQP library reads, copies and drops nested tables by recursion: a table nested thousands of levels deep would overflow
//! a thread's stack and end the process. So the type byte of a table or list that lies too deep is replaced, before the
//! library reads it, by the type byte of a byte array. All three have a size of four bytes before their content: no byte
//! moves, and the rest of the message stays as it is.
//!
//! [`NestingLimit`] is a state machine over the stream: [`Next`] says which field comes next, and bytes that do not matter are
//! skipped by number.

use super::frames::{BEFORE_PROPERTIES_BYTES, FRAME_HEADER_BYTES, HAS_HEADERS, HEADER, METHOD};

/// Deeper than any useful table: the broker's own headers have two levels.
const MAX_DEPTH: usize = 32;

/// The flags of the properties before the headers: content type and content encoding, both short strings.
const STRINGS_BEFORE: [u16; 2] = [1 << 15, 1 << 14];
const FLAGS_BYTES: usize = 2;

/// Class and method number of `connection.start`, the only method of a broker that has a table.
const CONNECTION_START: usize = 10 << 16 | 10;
/// The protocol's version, before that table.
const VERSION_BYTES: usize = 2;

/// Type bytes of values.
const TABLE: u8 = b'F';
const LIST: u8 = b'A';
const BYTES: u8 = b'x';

/// The field that comes next in the stream, behind bytes that are skipped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Type, channel and size of a frame.
    #[default]
    Frame,
    /// Class and number of a method.
    Method,
    /// The flags of the properties.
    Flags,
    /// The size of a property that is a short string, before the headers.
    Property,
    /// The size of the headers' own table.
    Headers,
    /// The size of an entry's name.
    Name,
    /// The type byte of a value.
    Kind,
    /// The size of a value of this type: of a table, of a list, or of bytes that are skipped.
    Size(u8),
}

impl Next {
    fn width(self) -> usize {
        match self {
            Self::Frame => FRAME_HEADER_BYTES,
            Self::Flags => FLAGS_BYTES,
            Self::Method | Self::Headers | Self::Size(_) => 4,
            Self::Property | Self::Name | Self::Kind => 1,
        }
    }
}

/// A table or list whose entries are being read.
#[derive(Debug, Clone, Copy)]
struct Open {
    is_table: bool,
    /// How many bytes of the frame are left where the table or list ends.
    end: usize,
}

/// Reads the stream in pieces of any size, and changes bytes in place.
#[derive(Debug, Default)]
pub(super) struct NestingLimit {
    next: Next,
    /// The bytes of `next` that have come.
    field: [u8; FRAME_HEADER_BYTES],
    /// How many bytes of `field` have come.
    have: usize,
    /// How many bytes to skip before `next`.
    to_skip: usize,
    /// How many bytes of the frame, its end mark included, lie behind `to_skip` and `next`.
    left: usize,
    /// How many string properties come before the headers.
    strings: usize,
    /// The tables and lists that contain the current position, the innermost last.
    open: Vec<Open>,
}

impl NestingLimit {
    /// Applies the limit to the next bytes of the stream.
    pub(super) fn apply(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let skipped = self.to_skip.min(bytes.len());
            self.to_skip -= skipped;
            bytes = &mut bytes[skipped..];
            let Some((byte, rest)) = bytes.split_first_mut() else { return };
            self.field[self.have] = *byte;
            self.have += 1;
            if self.have == self.next.width() {
                self.have = 0;
                if let Some(replacement) = self.take() {
                    *byte = replacement;
                }
            }
            bytes = rest;
        }
    }

    /// Takes the field that is complete, and returns a replacement for its last byte.
    fn take(&mut self) -> Option<u8> {
        let field = self.field;
        let number = field[..self.next.width()].iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        match self.next {
            Next::Frame => self.frame(field),
            // The table in which a broker describes itself counts as the first level, like a message's headers.
            Next::Method if number == CONNECTION_START => {
                self.skip_then(VERSION_BYTES, |walk| walk.expect(Next::Headers))
            }
            Next::Method => self.skip_frame(),
            Next::Flags => {
                self.strings = STRINGS_BEFORE.iter().filter(|flag| number & usize::from(**flag) != 0).count();
                match number & usize::from(HAS_HEADERS) {
                    0 => self.skip_frame(),
                    _ => self.before_headers(),
                }
            }
            Next::Property => {
                self.strings -= 1;
                self.skip_then(number, Self::before_headers);
            }
            Next::Headers => self.enter(true, number),
            Next::Name => self.skip_then(number, |walk| walk.expect(Next::Kind)),
            Next::Kind => return self.value(field[0]),
            Next::Size(kind @ (TABLE | LIST)) => self.enter(kind == TABLE, number),
            Next::Size(_) => self.skip_then(number, Self::after_value),
        }
        None
    }

    /// Goes on inside a frame that may have a table, or behind any other.
    fn frame(&mut self, [kind, _, _, size @ ..]: [u8; FRAME_HEADER_BYTES]) {
        // The payload and the end mark.
        self.left = (u32::from_be_bytes(size) as usize).saturating_add(1);
        match kind {
            METHOD => self.expect(Next::Method),
            HEADER => self.skip_then(BEFORE_PROPERTIES_BYTES, |walk| walk.expect(Next::Flags)),
            _ => self.skip_frame(),
        }
    }

    /// Goes on with the properties before the headers, and then with the headers.
    fn before_headers(&mut self) {
        self.expect(if self.strings > 0 { Next::Property } else { Next::Headers });
    }

    /// Goes on with a value of this type. Returns another type byte if the value lies too deep.
    fn value(&mut self, kind: u8) -> Option<u8> {
        let width = match kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'i' | b'I' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            TABLE | LIST if self.open.len() >= MAX_DEPTH => {
                self.expect(Next::Size(BYTES));
                return Some(BYTES);
            }
            b'S' | BYTES | TABLE | LIST => {
                self.expect(Next::Size(kind));
                return None;
            }
            // An unknown type: the library stops reading here, too.
            _ => {
                self.skip_frame();
                return None;
            }
        };
        self.skip_then(width, Self::after_value);
        None
    }

    /// Goes on inside a table or list.
    fn enter(&mut self, is_table: bool, size: usize) {
        match self.left.checked_sub(size) {
            Some(end) if end >= self.end() => {
                self.open.push(Open { is_table, end });
                self.after_value();
            }
            // Larger than the table around it: the library stops reading here, too.
            _ => self.skip_frame(),
        }
    }

    /// Goes on behind a value, outside every table and list that ends there.
    fn after_value(&mut self) {
        while self.open.pop_if(|innermost| innermost.end == self.left).is_some() {}
        match self.open.last() {
            Some(Open { is_table: true, .. }) => self.expect(Next::Name),
            Some(Open { is_table: false, .. }) => self.expect(Next::Kind),
            None => self.skip_frame(),
        }
    }

    /// Skips so many bytes, and goes on behind them.
    fn skip_then(&mut self, bytes: usize, then: impl FnOnce(&mut Self)) {
        match self.left.checked_sub(bytes) {
            Some(left) if left >= self.end() => {
                (self.to_skip, self.left) = (self.to_skip + bytes, left);
                then(self);
            }
            _ => self.skip_frame(),
        }
    }

    /// Reads this field next, unless the frame is too short for it.
    fn expect(&mut self, next: Next) {
        match self.left.checked_sub(next.width()) {
            Some(left) if left >= self.end() => (self.left, self.next) = (left, next),
            _ => self.skip_frame(),
        }
    }

    fn skip_frame(&mut self) {
        self.open.clear();
        self.to_skip = self.to_skip.saturating_add(std::mem::take(&mut self.left));
        self.next = Next::Frame;
    }

    /// How many bytes of the frame are left where the innermost table or list ends. Without one that is the end of the payload,
    /// which lies one byte before the end of the frame.
    fn end(&self) -> usize {
        self.open.last().map_or(1, |innermost| innermost.end)
    }
}

#[cfg(test)]
mod tests;
