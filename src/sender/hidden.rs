//! Removes the values of a webhook's own headers from its receiver's answer, which may repeat them. Pure.

use std::borrow::Cow;
use std::ops::Range;

use zeroize::Zeroizing;

use crate::scrub::{SHORT, is_word};
use crate::webhook::CustomHeaders;

mod parts;
mod spelled;
#[cfg(test)]
mod tests;

use parts::parts;
use spelled::Reading;

/// Takes the place of a value that is shown to nobody.
pub(super) const HIDDEN: &str = "[hidden]";
/// So many bytes of the beginning of a value, or half of it, are hidden where a text is cut.
const BEGINNING: usize = 8;

/// The most texts that are hidden. Each is searched for in all readings of an answer, which takes about a millisecond in a debug build.
const MOST_TEXTS: usize = 80;

/// The texts that are hidden: the values of headers, and the parts of them that are credentials alone.
#[derive(Default)]
pub(super) struct Hidden(Vec<Zeroizing<String>>);

/// Where a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Where its writer ended it.
    Whole,
    /// Somewhere: the rest was not read.
    Cut,
}

impl Hidden {
    pub(super) fn of(headers: &CustomHeaders) -> Self {
        let mut texts: Vec<Zeroizing<String>> = Vec::new();
        let most = MOST_TEXTS / headers.iter().count().max(1);
        for (_, value) in headers.iter() {
            for part in parts(value.expose(), most) {
                if !texts.contains(&part) {
                    texts.push(part);
                }
            }
        }
        Self(texts)
    }

    /// The text without what is hidden, also where that becomes readable only when `clean` takes characters out of it. Without any
    /// header the text is left as it is.
    pub(super) fn hide_and_clean<'a>(&self, text: &'a str, end: End, clean: fn(&str) -> String) -> Cow<'a, str> {
        if self.0.is_empty() {
            return Cow::Borrowed(text);
        }
        let clean = clean(&self.hide(text, end));
        Cow::Owned(self.hide(&clean, end).into_owned())
    }

    /// Whether nothing is hidden.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text with [`HIDDEN`] for each occurrence of a hidden text, in any of the spellings that [`Reading`] knows.
    pub(super) fn hide<'a>(&self, text: &'a str, end: End) -> Cow<'a, str> {
        if self.0.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut found = Vec::new();
        for reading in Reading::all(text) {
            for hidden in &self.0 {
                found.extend(occurrences(&reading, hidden));
                if end == End::Cut {
                    found.extend(cut_occurrence(&reading, hidden).map(|from| from..text.len()));
                }
            }
        }
        if found.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(without(text, found)) }
    }
}

/// Where the text is. One of few characters is part of many words: only where it is a whole word.
fn occurrences(reading: &Reading<'_>, hidden: &str) -> Vec<Range<usize>> {
    let is_short = hidden.chars().count() < SHORT;
    let all = reading.text.match_indices(hidden).map(|(at, found)| at..at + found.len());
    let shown = all.filter(|range| !is_short || is_word(&reading.text, range.start, range.end));
    shown.map(|range| reading.original(range)).collect()
}

/// Where an occurrence begins that the end of the text cuts.
fn cut_occurrence(reading: &Reading<'_>, hidden: &str) -> Option<usize> {
    if hidden.chars().count() < SHORT {
        return None;
    }
    let shortest = BEGINNING.min(hidden.len().div_ceil(2));
    reading.ends().into_iter().find_map(|end| {
        let text = &reading.text.as_bytes()[..end];
        let longest = text.len().min(hidden.len() - 1);
        let cut = (shortest..=longest).rev().find(|length| text.ends_with(&hidden.as_bytes()[..*length]))?;
        Some(reading.original(end - cut..end).start)
    })
}

/// The text with [`HIDDEN`] for these ranges. Those that touch become one.
fn without(text: &str, mut ranges: Vec<Range<usize>>) -> String {
    ranges.sort_by_key(|range| range.start);
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    let mut ranges = ranges.into_iter().peekable();
    while let Some(mut range) = ranges.next() {
        while let Some(next) = ranges.next_if(|next| next.start <= range.end) {
            range.end = range.end.max(next.end);
        }
        shown.extend([&text[from..range.start], HIDDEN]);
        from = range.end;
    }
    shown.push_str(&text[from..]);
    shown
}
