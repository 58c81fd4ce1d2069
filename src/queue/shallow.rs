//! Keeps header tables shallow, on every connection to the broker.
//!
//! The AMQP library reads tables recursively, and reads, copies and drops them so on whichever thread has them: one nested
//! thousands of levels deep would overflow a thread's stack and take the process with it. So the type of a table or list
//! that lies too deep is replaced, before the library sees it, by the type of a byte array. Both have a size of four bytes
//! before their content: nothing moves, and what the message holds besides stays as it is.

use super::readable::{BEFORE, BEFORE_PROPERTIES, HAS_HEADERS, HEADER, METHOD};

/// More than anybody has a use for: what the broker itself writes has two levels.
const MAX_DEPTH: usize = 32;

/// The flags of the properties before the headers: content type and content encoding, both short strings.
const STRINGS_BEFORE: [u16; 2] = [1 << 15, 1 << 14];
const FLAGS_BYTES: usize = 2;

/// The only method of a broker that has a table, behind the version of the protocol.
const CONNECTION_START: usize = 10 << 16 | 10;
const VERSION_BYTES: usize = 2;

const TABLE: u8 = b'F';
const LIST: u8 = b'A';
const BYTES: u8 = b'x';

/// What comes next in the stream, apart from what is passed over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Type, channel and size of a frame.
    #[default]
    Frame,
    /// Class and number of a method.
    Method,
    Flags,
    /// The size of a property that is a short string, before the headers.
    Property,
    /// The size of the headers' own table.
    Headers,
    Name,
    Kind,
    /// The size of a value: of a table, of a list, or of what is passed over.
    Size(u8),
}

impl Next {
    fn width(self) -> usize {
        match self {
            Self::Frame => BEFORE,
            Self::Flags => FLAGS_BYTES,
            Self::Method | Self::Headers | Self::Size(_) => 4,
            Self::Property | Self::Name | Self::Kind => 1,
        }
    }
}

/// A table or list whose entries are being walked.
#[derive(Debug, Clone, Copy)]
struct Open {
    is_table: bool,
    /// How much of the frame is left where it ends.
    end: usize,
}

/// Follows the stream wherever it is cut, and changes bytes in place.
#[derive(Debug, Default)]
pub(super) struct Shallow {
    next: Next,
    field: [u8; BEFORE],
    /// Of `field`, how much has come.
    have: usize,
    /// To be passed over before `next`.
    skip: usize,
    /// Of the frame with its end mark, what lies behind all that was taken or is to be passed over.
    left: usize,
    strings: usize,
    open: Vec<Open>,
}

impl Shallow {
    pub(super) fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
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

    /// Takes the field that is complete, and returns what its last byte shall be instead.
    fn take(&mut self) -> Option<u8> {
        let field = self.field;
        let number = field[..self.next.width()].iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        match self.next {
            Next::Frame => self.frame(field),
            // The table in which a broker describes itself has no level less than headers have.
            Next::Method if number == CONNECTION_START => self.over(VERSION_BYTES, |walk| walk.expect(Next::Headers)),
            Next::Method => self.pass_over_frame(),
            Next::Flags => {
                self.strings = STRINGS_BEFORE.iter().filter(|flag| number & usize::from(**flag) != 0).count();
                match number & usize::from(HAS_HEADERS) {
                    0 => self.pass_over_frame(),
                    _ => self.before_headers(),
                }
            }
            Next::Property => {
                self.strings -= 1;
                self.over(number, Self::before_headers);
            }
            Next::Headers => self.enter(true, number),
            Next::Name => self.over(number, |walk| walk.expect(Next::Kind)),
            Next::Kind => return self.value(field[0]),
            Next::Size(kind @ (TABLE | LIST)) => self.enter(kind == TABLE, number),
            Next::Size(_) => self.over(number, Self::after_value),
        }
        None
    }

    fn frame(&mut self, [kind, _, _, size @ ..]: [u8; BEFORE]) {
        // And its end mark.
        self.left = (u32::from_be_bytes(size) as usize).saturating_add(1);
        match kind {
            METHOD => self.expect(Next::Method),
            HEADER => self.over(BEFORE_PROPERTIES, |walk| walk.expect(Next::Flags)),
            _ => self.pass_over_frame(),
        }
    }

    fn before_headers(&mut self) {
        self.expect(if self.strings > 0 { Next::Property } else { Next::Headers });
    }

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
            // The library reads no further either.
            _ => {
                self.pass_over_frame();
                return None;
            }
        };
        self.over(width, Self::after_value);
        None
    }

    fn enter(&mut self, is_table: bool, size: usize) {
        match self.left.checked_sub(size) {
            Some(end) if end >= self.end() => {
                self.open.push(Open { is_table, end });
                self.after_value();
            }
            // Larger than what it lies in: the library reads no further either.
            _ => self.pass_over_frame(),
        }
    }

    fn after_value(&mut self) {
        while self.open.pop_if(|innermost| innermost.end == self.left).is_some() {}
        match self.open.last() {
            Some(Open { is_table: true, .. }) => self.expect(Next::Name),
            Some(Open { is_table: false, .. }) => self.expect(Next::Kind),
            None => self.pass_over_frame(),
        }
    }

    /// Passes over so much, and goes on there.
    fn over(&mut self, bytes: usize, then: impl FnOnce(&mut Self)) {
        match self.left.checked_sub(bytes) {
            Some(left) if left >= self.end() => {
                (self.skip, self.left) = (self.skip + bytes, left);
                then(self);
            }
            _ => self.pass_over_frame(),
        }
    }

    /// The field is taken as soon as it has come, if there is room for it.
    fn expect(&mut self, next: Next) {
        match self.left.checked_sub(next.width()) {
            Some(left) if left >= self.end() => (self.left, self.next) = (left, next),
            _ => self.pass_over_frame(),
        }
    }

    fn pass_over_frame(&mut self) {
        self.open.clear();
        self.skip = self.skip.saturating_add(std::mem::take(&mut self.left));
        self.next = Next::Frame;
    }

    /// How much of the frame is left where the innermost table or list ends; the payload ends before the end mark.
    fn end(&self) -> usize {
        self.open.last().map_or(1, |innermost| innermost.end)
    }
}

#[cfg(test)]
mod tests;
