//! Makes text from outside safe to store and to print. Pure.

/// Text that is safe to store and to print.
#[derive(Debug, PartialEq, Eq)]
pub struct Cleaned {
    pub text: String,
    /// Whether the end was cut off.
    pub is_cut: bool,
}

/// The text as one line of at most `max_bytes` bytes, cut between characters. Control characters become spaces; invisible
/// characters, and those that change the direction of writing, are written as `\u{…}`.
pub fn printable(text: &str, max_bytes: usize) -> String {
    cleaned(text, max_bytes, Lines::Joined).text
}

/// As [`printable`], but line breaks and tabs stay. Every line ends with `\n`, even if it ended with `\r\n`.
pub fn printable_lines(text: &str, max_bytes: usize) -> Cleaned {
    cleaned(text, max_bytes, Lines::Kept)
}

/// What becomes of line breaks and tabs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lines {
    Joined,
    Kept,
}

fn cleaned(text: &str, max_bytes: usize, lines: Lines) -> Cleaned {
    let mut cleaned = String::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let before = cleaned.len();
        match char {
            '\r' if lines == Lines::Kept && chars.peek() == Some(&'\n') => {}
            '\n' | '\t' if lines == Lines::Kept => cleaned.push(char),
            char if char.is_control() => cleaned.push(' '),
            char if is_invisible(char) => cleaned.extend(char.escape_unicode()),
            char => cleaned.push(char),
        }
        if cleaned.len() > max_bytes {
            cleaned.truncate(before);
            return Cleaned { text: cleaned, is_cut: true };
        }
    }
    Cleaned { text: cleaned, is_cut: false }
}

/// Whether a terminal may obey this character or show nothing for it: control characters, also line breaks and tabs; invisible
/// characters, and those that change the direction of writing.
pub fn is_unprintable(char: char) -> bool {
    char.is_control() || is_invisible(char)
}

/// Whether a reader sees something of this character alone: it is neither a blank nor invisible.
pub fn is_visible(char: char) -> bool {
    // Beside those of `is_invisible`: the combining grapheme joiner, the Braille blank, and selectors of variations.
    let is_blank = matches!(char, '\u{34f}' | '\u{180b}'..='\u{180f}' | '\u{2800}' | '\u{fe00}'..='\u{fe0f}' | '\u{fff0}'..='\u{fff8}');
    !(is_blank || char.is_whitespace() || is_unprintable(char))
}

/// Characters of the Unicode categories Cf, Zl and Zp, and the Hangul fillers.
fn is_invisible(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_hides_is_shown() {
        assert_eq!(printable("ok\r\nINFO fake\x1b[31m\0", 99), "ok  INFO fake [31m ");
        assert_eq!(printable("a\u{202e}b\u{200d}c", 99), r"a\u{202e}b\u{200d}c");
        assert_eq!(printable("<script>é", 99), "<script>é");
    }

    #[test]
    fn lines_and_tabs_stay_where_they_are_wanted() {
        let whole = |text: &str| Cleaned { text: text.to_owned(), is_cut: false };
        assert_eq!(
            printable_lines("{\r\n\t\"a\": 1\n}\rx\x1b[31m\u{200b}", 99),
            whole("{\n\t\"a\": 1\n} x [31m\\u{200b}")
        );
        assert_eq!(printable_lines("abc", 3), whole("abc"));
        assert_eq!(printable_lines("abcé", 4), Cleaned { text: "abc".to_owned(), is_cut: true });
    }

    proptest! {
        #[test]
        fn printable_text_is_short_clean_and_cut_between_characters(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000), max in 0..1024_usize,
        ) {
            let cleaned = printable(&String::from_utf8_lossy(&bytes), max);
            prop_assert!(cleaned.len() <= max);
            prop_assert!(!cleaned.chars().any(is_unprintable));
        }
    }
}
