//! Reads a text as its writer may have meant it: with the escapes of JSON, HTML or URLs undone.

use std::borrow::Cow;

/// What the beginning of a text stands for, and its length in bytes; `None` if it is no escape.
type Escape = fn(&str) -> Option<(char, usize)>;

/// The escapes that are undone, one after the other. Twice: JSON in an HTML page, or a JSON text within JSON.
const READINGS: [&[Escape]; 9] = [
    &[json],
    &[html],
    &[percent],
    &[form],
    &[html, json],
    &[json, html],
    &[json, json],
    &[json, percent],
    &[html, percent],
];

/// No escape is longer than one of these that is cut: `%F0%9F%98%8`, `&#x1F600`.
const LONGEST_CUT_ESCAPE: usize = 12;

/// A text in which escapes are undone.
pub(super) struct Reading<'a> {
    pub(super) text: Cow<'a, str>,
    /// The place in the original of each byte of `text`, and of its end. `None`: the same.
    places: Option<Vec<usize>>,
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

    /// Where in the original this byte of the text begins.
    pub(super) fn place(&self, at: usize) -> usize {
        self.places.as_ref().map_or(at, |places| places[at])
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
            text.push(char);
            places.resize(text.len(), self.place(at));
            at += length;
        }
        places.push(self.place(at));
        is_other.then_some(Self { text: text.into(), places: Some(places) })
    }
}

/// Strings of JSON (RFC 8259, section 7), and what writers of JavaScript add. Control characters need not be read: no value has one.
fn json(text: &str) -> Option<(char, usize)> {
    let rest = text.strip_prefix('\\')?;
    match rest.as_bytes().first()? {
        b'u' => hex(rest.get(1..5)?, 6),
        b'x' => hex(rest.get(1..3)?, 4),
        byte @ (b'"' | b'\'' | b'\\' | b'/' | b'`') => Some((char::from(*byte), 2)),
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

fn hex(digits: &str, length: usize) -> Option<(char, usize)> {
    let number = u32::from_str_radix(digits, 16).ok()?;
    char::from_u32(number).map(|char| (char, length))
}
