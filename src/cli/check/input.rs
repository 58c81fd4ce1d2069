//! Reads what is to be checked, and tells whether it is one message or several, one in a line.

use std::fs::File;
use std::io::{self, Chain, Cursor, Read, stdin};
use std::path::Path;

use serde::de::IgnoredAny;

use crate::cli::json_lines::Lines;

/// A file or standard input, from its beginning.
type Whole = Chain<Cursor<Vec<u8>>, Box<dyn Read>>;

pub(super) enum Input {
    /// One message. Of one that is too long only the beginning, which is too long as well.
    Message(Vec<u8>),
    /// Several messages.
    Lines(Lines<Whole>),
}

/// What the beginning of an input says of its messages.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Message,
    Lines,
    /// One message that is too long, perhaps the first of several.
    LongLine,
}

impl Input {
    /// Opens a file, or standard input for `-`. A message has at most `most` bytes.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(super) fn open(path: &Path, most: usize) -> io::Result<Self> {
        match path.to_str() {
            Some("-") => Self::of(Box::new(stdin()), most, Kind::Lines),
            _ => Self::of(Box::new(File::open(path)?), most, Kind::Lines),
        }
    }

    /// As `open`, from standard input, where one message is expected.
    ///
    /// # Errors
    ///
    /// Standard input cannot be read.
    pub(super) fn expect_message(most: usize) -> io::Result<Self> {
        Self::of(Box::new(stdin()), most, Kind::Message)
    }

    /// `long_line`: for what a first line is taken that is too long.
    fn of(mut input: Box<dyn Read>, most: usize, long_line: Kind) -> io::Result<Self> {
        let mut beginning = Vec::new();
        // One byte more than a message of the greatest length that ends with CR LF.
        let longest = most + 3;
        input.by_ref().take(longest as u64).read_to_end(&mut beginning)?;
        let is_all = beginning.len() < longest;
        let kind = kind(&beginning, is_all);
        let kind = if kind == Kind::LongLine { long_line } else { kind };
        Ok(match kind {
            Kind::Message if is_all => Self::Message(without_line_break(beginning)),
            Kind::Message => Self::Message(beginning),
            Kind::Lines | Kind::LongLine => Self::Lines(Lines::of(Cursor::new(beginning).chain(input), most)),
        })
    }
}

/// An input is one message if it is one JSON text, over however many lines, or if no line of it is a JSON object. So JSON that is
/// indented and has a mistake is one message with this mistake, and not as many as it has lines: an object with blanks before it
/// does not count. An input that is longer than a message may be is judged by its beginning.
fn kind(beginning: &[u8], is_all: bool) -> Kind {
    if is_all && serde_json::from_slice::<IgnoredAny>(beginning).is_ok() {
        return Kind::Message;
    }
    let mut lines: Vec<&[u8]> = beginning.split(|byte| *byte == b'\n').collect();
    if !is_all {
        // It is not complete.
        lines.pop();
        if lines.is_empty() {
            return Kind::LongLine;
        }
    }
    match lines.into_iter().any(is_object) {
        true => Kind::Lines,
        false => Kind::Message,
    }
}

fn is_object(line: &[u8]) -> bool {
    line.starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

fn without_line_break(mut message: Vec<u8>) -> Vec<u8> {
    if message.last() == Some(&b'\n') {
        message.pop();
        message.pop_if(|byte| *byte == b'\r');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 40;

    fn read(text: &[u8]) -> Result<Vec<u8>, Vec<Vec<u8>>> {
        match Input::of(Box::new(Cursor::new(text.to_vec())), MOST, Kind::Lines).unwrap() {
            Input::Message(message) => Ok(message),
            Input::Lines(mut lines) => {
                Err(std::iter::from_fn(|| lines.next().unwrap()).map(|line| line.body).collect())
            }
        }
    }

    #[test]
    fn one_json_text_is_one_message_however_many_lines_it_has() {
        for text in ["{}", "{\n}", "[{},\n{}\n]", "{\n\"a\":\n{}\n}", "{\"a\":1}", "1"] {
            assert_eq!(read(text.as_bytes()), Ok(text.as_bytes().to_vec()), "{text}");
            for end in ["\n", "\r\n"] {
                assert_eq!(read(format!("{text}{end}").as_bytes()), Ok(text.as_bytes().to_vec()), "{text}{end:?}");
            }
        }
    }

    #[test]
    fn what_has_no_line_that_is_an_object_is_one_message() {
        for text in [
            &b"{\n \"a\": [\n  {},\n  { \"b\": 1 }\n ],\n}"[..],
            b"{\n \"a\": 1,\n}",
            b"",
            b"no JSON\nat all",
            b"\x1f\x8b\n\x00",
            b"{\n",
            b"\xef\xbb\xbf{}",
            b"{} {}",
        ] {
            assert_eq!(read(text), Ok(without_line_break(text.to_vec())), "{text:?}");
        }
    }

    #[test]
    fn lines_are_messages_if_one_of_them_is_an_object() {
        let lines = |lines: &[&str]| Err(lines.iter().map(|line| line.as_bytes().to_vec()).collect());
        assert_eq!(read(b"{}\n{}"), lines(&["{}", "{}"]));
        assert_eq!(read(b"{\n{}\r\n\nx\n"), lines(&["{", "{}", "x"]));
    }

    #[test]
    fn what_is_longer_than_a_message_is_judged_by_its_beginning() {
        let (long, far) = ("x".repeat(MOST + 3), "x".repeat(1000));
        let indented = format!("{{\n\"a\": \"{far}\"\n}}");
        let message = read(indented.as_bytes()).expect("one message");
        assert_eq!((message.len(), &message[..5]), (MOST + 3, &b"{\n\"a\""[..]));
        let objects = "{}\n".repeat(500);
        assert_eq!(read(objects.as_bytes()).unwrap_err().len(), 500);
        // Perhaps the first of several.
        let first_too_long = format!("{{\"a\": \"{far}\"}}\n{{}}");
        let lines = read(first_too_long.as_bytes()).unwrap_err();
        assert!(lines[0].len() > MOST && lines[0].len() < long.len());
        assert_eq!(lines[1], b"{}");
        let expected = Input::of(Box::new(Cursor::new(first_too_long.into_bytes())), MOST, Kind::Message).unwrap();
        assert!(matches!(expected, Input::Message(message) if message.len() == MOST + 3));
    }
}
