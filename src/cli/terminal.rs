//! Decides what a terminal is shown: colours, and how wide a table may be. Also asks its user questions.

use std::env;
use std::ffi::OsStr;
use std::io::{IsTerminal, Write as _, stderr, stdin};

use super::Failure;

/// Whether what is written to this stream may have colours: <https://no-color.org>, and TERM=dumb, which means a terminal that
/// prints escape sequences as text.
pub(super) fn has_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && wants_colours(env::var_os("NO_COLOR").as_deref(), env::var_os("TERM").as_deref())
}

fn wants_colours(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
}

/// Whether a progress bar, which moves the cursor, can be drawn on stderr.
pub(super) fn can_draw() -> bool {
    stderr().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Asks the person at the terminal whether to go on. Without a terminal there is nobody to ask, and a script goes on.
///
/// # Errors
///
/// The answer is not yes.
pub(super) fn confirm(question: &str) -> Result<(), Failure> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(());
    }
    write!(stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    match is_yes(&answer) {
        true => Ok(()),
        false => Err(Failure::Failed(anyhow::anyhow!("nothing was done"))),
    }
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_left_out_for_whoever_does_not_want_them() {
        let wanted =
            |no_color: Option<&str>, term: Option<&str>| wants_colours(no_color.map(OsStr::new), term.map(OsStr::new));
        assert!(wanted(None, None) && wanted(Some(""), Some("xterm-256color")));
        assert!(!wanted(Some("1"), Some("xterm")) && !wanted(Some("0"), None) && !wanted(None, Some("dumb")));
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(is_yes("y\n") && is_yes(" YES ") && is_yes("Yes\r\n"));
        assert!(!is_yes("") && !is_yes("\n") && !is_yes("n") && !is_yes("yesterday"));
    }
}
