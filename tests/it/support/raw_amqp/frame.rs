//! Bytes of AMQP methods, written and read in the order of the specification.

use std::io::Error;

#[derive(Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    pub fn method(class: u16, method: u16) -> Self {
        Self::default().u16(class).u16(method)
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    pub fn byte(self, value: u8) -> Self {
        self.raw(&[value])
    }

    pub fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// A short string: any 0 to 255 bytes.
    pub fn short(self, value: &[u8]) -> Self {
        let length = u8::try_from(value.len()).expect("a short string has at most 255 bytes");
        self.byte(length).raw(value)
    }

    /// A long string, or a table: both are bytes behind a 32-bit length.
    pub fn long(self, value: &[u8]) -> Self {
        self.u32(u32::try_from(value.len()).expect("no string has 4 GiB")).raw(value)
    }
}

pub struct Method {
    pub id: (u16, u16),
    payload: Vec<u8>,
}

impl Method {
    pub fn parse(payload: Vec<u8>) -> Self {
        let mut head = Reader(&payload);
        Self { id: (head.u16(), head.u16()), payload }
    }

    pub fn arguments(&self) -> Reader<'_> {
        Reader(&self.payload[4..])
    }

    /// The error of getting this instead of what was asked for; a closing broker's own words where it has some.
    pub fn unexpected(&self) -> Error {
        match self.id {
            (10, 50) | (20, 40) => {
                let mut arguments = self.arguments();
                let (code, text) = (arguments.u16(), arguments.short());
                Error::other(format!("closed by the broker: {code} {}", String::from_utf8_lossy(text)))
            }
            (60, 50) => Error::other("a message was returned: no queue took it"),
            (60, 120) => Error::other("a message was refused"),
            id => Error::other(format!("unexpected method {id:?}")),
        }
    }
}

/// Takes values off the front. Panics where the broker would have to be broken.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("N bytes were taken")
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    pub fn short(&mut self) -> &'a [u8] {
        let length = self.byte();
        self.take(length.into())
    }

    pub fn long(&mut self) -> &'a [u8] {
        let length = self.u32();
        self.take(length as usize)
    }
}
