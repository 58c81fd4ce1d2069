//! Makes text from outside safe to store and to print. Pure.

/// The text as one line of at most `max_bytes` bytes, cut between characters. Control characters become spaces; invisible
/// characters, and those that change the direction of writing, are written as `\u{…}`.
pub fn printable(text: &str, max_bytes: usize) -> String {
    let mut cleaned = String::new();
    for char in text.chars() {
        let before = cleaned.len();
        match char {
            char if char.is_control() => cleaned.push(' '),
            char if is_invisible(char) => cleaned.extend(char.escape_unicode()),
            char => cleaned.push(char),
        }
        if cleaned.len() > max_bytes {
            cleaned.truncate(before);
            break;
        }
    }
    cleaned
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

    proptest! {
        #[test]
        fn printable_text_is_short_clean_and_cut_between_characters(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000), max in 0..1024_usize,
        ) {
            let cleaned = printable(&String::from_utf8_lossy(&bytes), max);
            prop_assert!(cleaned.len() <= max);
            prop_assert!(!cleaned.chars().any(|c| c.is_control() || is_invisible(c)));
        }
    }
}
