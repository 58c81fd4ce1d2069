//! Finds the texts within a header's value that are credentials alone. Pure.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::scrub::SHORT;
use crate::text::is_unprintable;

/// A piece of a value that has fewer characters may be a usual word.
const SHORTEST_PIECE: usize = 8;
/// The value, what follows its first word (`Bearer x`: `x`), its pieces, and what they encode in base64: at most
/// so many, the most important first.
pub(super) fn parts(value: &str, most: usize) -> Vec<Zeroizing<String>> {
    let mut parts = vec![owned(value)];
    if let Some((scheme, credentials)) = value.split_once(' ') {
        let credentials = credentials.trim_start();
        parts.push(owned(credentials));
        if scheme.eq_ignore_ascii_case("basic") {
            parts.extend(decoded(credentials).into_iter().flat_map(|login| parts_of_login(&login)));
        }
    }
    let pieces = pieces(credentials(value));
    let encoded = pieces.iter().filter_map(|piece| decoded(piece));
    parts.extend(encoded.flat_map(|text| parts_of_login(&text)));
    parts.extend(pieces.into_iter().map(owned));
    let mut kept: Vec<Zeroizing<String>> = Vec::new();
    for part in parts {
        if kept.len() < most && !part.is_empty() && !kept.contains(&part) {
            kept.push(part);
        }
    }
    kept
}

fn owned(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

/// A text that was encoded and, if it is `user:password`, the password. The user is hidden if the password is hardly one: some
/// receivers want their key in the place of the user.
fn parts_of_login(text: &str) -> Vec<Zeroizing<String>> {
    let mut parts = vec![owned(text)];
    if let Some((user, password)) = text.split_once(':') {
        parts.push(owned(password));
        if password.chars().count() < SHORT {
            parts.push(owned(user));
        }
    }
    parts.extend(pieces(text).into_iter().map(owned));
    parts
}

/// The value without the name of its scheme, if it begins with one.
fn credentials(value: &str) -> &str {
    let is_scheme = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
    value.split_once(' ').filter(|(word, _)| is_scheme(word)).map_or(value, |(_, rest)| rest)
}

/// The pieces between separators, and all that follows the first `:` or `=`, since a password may have separators in it. The
/// longest first: these are most likely to be secret.
fn pieces(text: &str) -> Vec<&str> {
    let ends = [':', '='].into_iter().filter_map(|mark| text.split_once(mark).map(|(_, end)| end));
    let mut pieces: Vec<_> = text.split([' ', ',', ';', '=', ':', '"']).chain(ends).collect();
    pieces.retain(|piece| piece.chars().count() >= SHORTEST_PIECE);
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    pieces
}

/// The printable text that this base64 encodes, in either alphabet, with or without the `=` at its end. A line break at the end of
/// the text, as `echo` writes one, is left out.
fn decoded(encoded: &str) -> Option<Zeroizing<String>> {
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    [STANDARD, URL_SAFE].iter().find_map(|alphabet| {
        let bytes = Zeroizing::new(GeneralPurpose::new(alphabet, lenient).decode(encoded).ok()?);
        let text = std::str::from_utf8(&bytes).ok()?.trim_end_matches(['\r', '\n']);
        (!text.contains(is_unprintable)).then(|| owned(text))
    })
}
