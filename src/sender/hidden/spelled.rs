//! Reads a text as its writer may have meant it: with the escapes of JSON, HTML or URLs undone, and without what nobody sees.

use std::borrow::Cow;
use std::ops::Range;

use crate::text::is_unprintable;

/// What the beginning of a text stands for, and its length in bytes; `None` if it is no escape. [`NOTHING`] stands for no character.
type Escape = fn(&str) -> Option<(char, usize)>;

/// No text that is hidden has this character.
const NOTHING: char = '\0';

/// The escapes that are undone, one after the other. Twice: JSON in an HTML page, or a JSON text within JSON.
const READINGS: [&[Escape]; 15] = [
    &[json],
    &[html],
    &[percent],
    &[form],
    &[html, json],
    &[json, html],
    &[json, json],
    &[json, percent],
    &[html, percent],
    &[unseen],
    &[json, unseen],
    &[html, unseen],
    &[percent, unseen],
    &[blank],
    &[json, blank],
];

/// The longest colour code that is read. Longer than any that is used.
const LONGEST_CODE: usize = 40;

/// No escape is longer than one of these that is cut: `%F0%9F%98%8`, `&#x1F600`.
const LONGEST_CUT_ESCAPE: usize = 12;

/// A text in which escapes are undone.
pub(super) struct Reading<'a> {
    pub(super) text: Cow<'a, str>,
    /// For each byte of `text`, where in the original its character stands. `None`: in the same place.
    places: Option<Vec<Range<usize>>>,
}

impl<'a> Reading<'a> {
    /// The text as it is, and every other reading of it.
    pub(super) fn all(text: &'a str) -> impl Iterator<Item = Self> {
        let plain = Self { text: Cow::Borrowed(text), places: None };
        let others = READINGS.into_iter().filter_map(move |escapes| {
            let plain = Self { text: Cow::Borrowed(text), places: None };
            escapes.iter().try_fold(plain, |reading, escape| reading.undo(*escape))
        });
        std::iter::once(plain).chain(others)
    }

    /// Where in the original this part of the text stands. It is not empty.
    pub(super) fn original(&self, part: Range<usize>) -> Range<usize> {
        match &self.places {
            Some(places) => places[part.start].start..places[part.end - 1].end,
            None => part,
        }
    }

    /// Where the text may have been cut: at its end, or before an escape at its end that is not whole.
    pub(super) fn ends(&self) -> Vec<usize> {
        let length = self.text.len();
        let last = self.text.rfind(['\\', '&', '%']).filter(|at| length - at <= LONGEST_CUT_ESCAPE);
        [Some(length), last].into_iter().flatten().collect()
    }

    /// `None` if there is nothing to undo.
    fn undo(&self, escape: Escape) -> Option<Self> {
        let (mut text, mut places, mut at) = (String::new(), Vec::new(), 0);
        let mut is_other = false;
        while let Some(next) = self.text[at..].chars().next() {
            let (char, length) = match escape(&self.text[at..]) {
                Some(escaped) => {
                    is_other = true;
                    escaped
                }
                None => (next, next.len_utf8()),
            };
            if char != NOTHING {
                text.push(char);
                places.resize(text.len(), self.original(at..at + length));
            }
            at += length;
        }
        is_other.then_some(Self { text: text.into(), places: Some(places) })
    }
}

/// Strings of JSON (RFC 8259, section 7), and what writers of JavaScript add. No value has a control character, so all are read as one.
fn json(text: &str) -> Option<(char, usize)> {
    let rest = text.strip_prefix('\\')?;
    match rest.as_bytes().first()? {
        b'u' => hex(rest.get(1..5)?, 6),
        b'x' => hex(rest.get(1..3)?, 4),
        byte @ (b'"' | b'\'' | b'\\' | b'/' | b'`') => Some((char::from(*byte), 2)),
        b'b' | b'f' | b'n' | b'r' | b't' => Some(('\n', 2)),
        _ => None,
    }
}

/// Character references of HTML.
fn html(text: &str) -> Option<(char, usize)> {
    const NAMED: [(&str, char); 8] = [
        ("&amp;", '&'),
        ("&apos;", '\''),
        ("&equals;", '='),
        ("&gt;", '>'),
        ("&lt;", '<'),
        ("&nbsp;", ' '),
        ("&plus;", '+'),
        ("&quot;", '"'),
    ];
    let rest = text.strip_prefix('&')?;
    let Some(number) = rest.strip_prefix('#') else {
        let (name, char) = NAMED.iter().find(|(name, _)| text.starts_with(name))?;
        return Some((*char, name.len()));
    };
    let end = number.bytes().take(9).position(|byte| byte == b';')?;
    let (number, length) = (&number[..end], end + 3);
    match number.strip_prefix(['x', 'X']) {
        Some(digits) => hex(digits, length),
        None => number.parse().ok().and_then(char::from_u32).map(|char| (char, length)),
    }
}

/// Percent-encoding (RFC 3986, section 2.1) of a character in UTF-8.
fn percent(text: &str) -> Option<(char, usize)> {
    let mut bytes = Vec::new();
    for escaped in text.as_bytes().chunks(3).take(4) {
        let [b'%', digits @ ..] = escaped else { return None };
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        if let Some(char) = std::str::from_utf8(&bytes).ok().and_then(|text| text.chars().next()) {
            return Some((char, 3 * bytes.len()));
        }
    }
    None
}

/// Forms, as in queries: the same, and `+` for a blank.
fn form(text: &str) -> Option<(char, usize)> {
    if text.starts_with('+') { Some((' ', 1)) } else { percent(text) }
}

/// What nobody sees: control characters, line breaks (long texts are wrapped), invisible characters, and the codes with which
/// terminals change their colours (ECMA-48, section 5.4), also one that the end of the text cuts.
fn unseen(text: &str) -> Option<(char, usize)> {
    let first = text.chars().next().filter(|char| is_unprintable(*char))?;
    let is_code = first == '\u{9b}' || text.starts_with("\x1b[");
    let begin = if first == '\x1b' && is_code { 2 } else { first.len_utf8() };
    let code = text[begin..].bytes().take(LONGEST_CODE);
    let inner = code.take_while(|byte| (0x20..=0x3f).contains(byte)).count();
    let length = match text.as_bytes().get(begin + inner) {
        Some(0x40..=0x7e) if is_code => begin + inner + 1,
        None if is_code => text.len(),
        _ => first.len_utf8(),
    };
    Some((NOTHING, length))
}

/// A control character that stands where the value has a blank, as a line break may.
fn blank(text: &str) -> Option<(char, usize)> {
    let first = text.chars().next().filter(|char| char.is_control())?;
    Some((' ', if text.starts_with("\r\n") { 2 } else { first.len_utf8() }))
}

fn hex(digits: &str, length: usize) -> Option<(char, usize)> {
    let number = u32::from_str_radix(digits, 16).ok()?;
    char::from_u32(number).map(|char| (char, length))
}
