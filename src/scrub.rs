//! Removes passwords from texts of errors. A server, a library or a parser may repeat a part of a URL, and after a mistake in
//! the URL that part may be its password. Pure, except for the list of the process's secrets.

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::secret::SecretText;

/// Replaces a secret.
const MARK: &str = "[secret]";

/// A password with fewer characters is part of many words: it is replaced only where it is a whole word.
pub(crate) const SHORT: usize = 4;

/// A text that begins with one of these and a colon is a URL, not `user:password`.
const SCHEMES: [&str; 4] = ["amqp", "amqps", "postgres", "postgresql"];

/// The process's secrets. Grows by a few texts whenever a password changes.
static SECRETS: RwLock<Secrets> = RwLock::new(Secrets(Vec::new()));

/// Adds the passwords in this text, a URL or `user:password`, to the process's secrets.
pub(crate) fn keep_secret(text: &SecretText) {
    SECRETS.write().unwrap_or_else(PoisonError::into_inner).add(text.expose());
}

/// The text without the process's secrets. Every error becomes text through this function.
pub(crate) fn scrub(text: &str) -> Cow<'_, str> {
    SECRETS.read().unwrap_or_else(PoisonError::into_inner).scrub(text)
}

/// Secrets, the longest first: one that contains another is replaced as a whole.
#[derive(Default)]
struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    fn add(&mut self, text: &str) {
        let whole = text.trim();
        for found in passwords(whole) {
            for spelling in spellings(found) {
                self.insert(spelling);
            }
        }
        self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }

    fn insert(&mut self, secret: String) {
        let secret = Zeroizing::new(secret);
        if !secret.is_empty() && !self.0.contains(&secret) {
            self.0.push(secret);
        }
    }

    fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.0 {
            if let Some(scrubbed) = replaced(&text, secret) {
                text = Cow::Owned(scrubbed);
            }
        }
        // Last: it may remove only a part of a password that contains an `@`.
        match without_logins(&text) {
            Some(scrubbed) => Cow::Owned(scrubbed),
            None => text,
        }
    }
}

/// The parts of a text that may be meant as a password, even if the text has mistakes. The text is one URL or several,
/// `key=value` pairs or `user:password`.
fn passwords(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let starts: Vec<usize> = text.match_indices("://").map(|(at, mark)| at + mark.len()).collect();
    for start in &starts {
        found.extend(logins(&text[*start..]).filter_map(password_of));
    }
    let is_user = |user: &str| !SCHEMES.contains(&user) && !user.contains(|c: char| c == '=' || c.is_whitespace());
    if text.split(':').next().is_some_and(is_user) {
        found.extend(password_of(text));
    }
    found.extend(values_of_pairs(text));
    found
}

/// The parts before each `@` of a URL: the first `@` may be a part of the password.
fn logins(url: &str) -> impl Iterator<Item = &str> {
    url.match_indices('@').map(|(at, _)| &url[..at])
}

fn password_of(login: &str) -> Option<&str> {
    let (user, password) = login.split_once(':')?;
    // A password that equals the user's name, as in guest:guest, is no secret.
    (user != password).then_some(password)
}

/// The values of `password=`, quoted or not.
fn values_of_pairs(text: &str) -> impl Iterator<Item = &str> {
    let lower = text.to_ascii_lowercase();
    let ends: Vec<usize> = lower.match_indices("password").map(|(at, key)| at + key.len()).collect();
    ends.into_iter().flat_map(move |at| {
        let value = text[at..].trim_start().strip_prefix('=').map(str::trim_start).unwrap_or_default();
        let until = |end: &dyn Fn(char) -> bool| value.split(end).next().unwrap_or_default();
        let quoted = value.strip_prefix('\'').map(|value| value.rsplit_once('\'').map_or(value, |(value, _)| value));
        let first = value.strip_prefix('\'').map(|value| value.split('\'').next().unwrap_or_default());
        [quoted, first, Some(until(&char::is_whitespace)), Some(until(&|c| c == '&' || c.is_whitespace()))]
            .into_iter()
            .flatten()
    })
}

/// The forms in which others may repeat a password: as written, decoded, encoded again, or quoted by a parser.
fn spellings(password: &str) -> Vec<String> {
    let read = percent_decode_str(password).decode_utf8_lossy().into_owned();
    let mut all = Vec::new();
    for text in [password.to_owned(), read, unescaped(password)] {
        let encoded = utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
        let quoted = format!("{text:?}");
        all.extend([quoted[1..quoted.len() - 1].to_owned(), text.escape_debug().to_string()]);
        all.extend([encoded.to_lowercase(), encoded, text]);
    }
    all
}

/// The value without the backslashes of a quoted value.
fn unescaped(value: &str) -> String {
    let mut letters = value.chars();
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    text
}

/// The text without the logins of the URLs in it, known or unknown. `None` if there is no URL.
fn without_logins(text: &str) -> Option<String> {
    let (mut scrubbed, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("://") {
        scrubbed.extend([before, "://"]);
        let end = after.find(|c: char| c.is_whitespace() || "/?#'\"".contains(c)).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                scrubbed.push_str(MARK);
                &after[at..]
            }
            None => after,
        };
    }
    scrubbed.push_str(rest);
    (rest.len() < text.len()).then_some(scrubbed)
}

/// The text without the secret; `None` if the secret is not in it.
fn replaced(text: &str, secret: &str) -> Option<String> {
    let mut scrubbed = String::new();
    let mut from = 0;
    for (at, found) in text.match_indices(secret) {
        let end = at + found.len();
        if secret.chars().count() < SHORT && !is_word(text, at, end) {
            continue;
        }
        scrubbed.extend([&text[from..at], MARK]);
        from = end;
    }
    (from > 0).then(|| {
        scrubbed.push_str(&text[from..]);
        scrubbed
    })
}

/// Whether neither a letter nor a digit stands beside this part of the text.
pub(crate) fn is_word(text: &str, at: usize, end: usize) -> bool {
    let before = text[..at].chars().next_back();
    let after = text[end..].chars().next();
    ![before, after].iter().flatten().any(|letter| letter.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scrubbed(secrets: &[&str], text: &str) -> String {
        let mut known = Secrets::default();
        secrets.iter().for_each(|secret| known.add(secret));
        known.scrub(text).into_owned()
    }

    #[test]
    fn passwords_are_found_in_every_form_of_a_url() {
        for (url, text) in [
            ("amqp://u:hunter2@h/%2f", "hunter2"),
            ("amqp://u:hunter2@h/%2f amqp://u:hunter3@h", "hunter3 and hunter2"),
            ("amqp://u:hunter2@h/%2f,amqps://u:hunter3@h", "hunter3 and hunter2"),
            ("amqp://u:hun/ter2#?@h/%2f", "hun/ter2#?"),
            ("amqp://u:hunter%402@h/%2f", "hunter%402 hunter@2"),
            ("amqp://u:a@hunter2@h/%2f", "a@hunter2"),
            ("postgresql://u@h/n?password=hunter2&sslmode=require", "hunter2"),
            ("host=h password=hunter2 user=u", "hunter2"),
            (r"host=h password = 'hunt\'er 2' user=u", r"hunt'er 2 hunt\'er 2"),
            ("user:hunter2", "hunter2"),
            ("user:hun=ter2", "hun=ter2"),
            (r"amqp://u:hun%41\ter2@h", r#"hun%41\ter2 hunA\ter2 "hun%41\\ter2""#),
            ("amqp://u:hun@ter/2@h", "vhost 'amqp://u:hun@ter/2@h'"),
            ("amqp://u:hun ter\"2@h/%2f", r#"hun ter"2 hun%20ter%222 hun ter\"2"#),
        ] {
            let said = scrubbed(&[url], text);
            assert!(!said.contains('2') && !said.contains("hun"), "{url}: {said}");
        }
    }

    #[test]
    fn what_looks_like_a_login_in_a_url_is_nobodys_to_read() {
        let said = scrubbed(&[], "vhost '/ amqp://u:hunter2@h:1/x' not found, see https://example.com/@x");
        assert_eq!(said, "vhost '/ amqp://[secret]@h:1/x' not found, see https://example.com/@x");
    }

    #[test]
    fn what_is_no_secret_stays_as_it_is() {
        let text = "access to vhost '/' refused for user 'guest': a port is 5672";
        assert_eq!(
            scrubbed(&["amqp://guest:guest@h", "amqp://u:a@h", "amqp://h"], text),
            text.replace(" a ", " [secret] ")
        );
        assert!(matches!(Secrets::default().scrub(text), Cow::Borrowed(_)));
    }

    /// An error of a server, library or parser that repeats a URL or its password.
    fn repeated(how: u8, url: &str, password: &str) -> String {
        match how % 6 {
            0 => format!("vhost '{url}' not found"),
            1 => format!("invalid port number: {password}"),
            2 => format!("{url:?} is no URL"),
            3 => format!("no user {password:?} in {}", percent_decode_str(url).decode_utf8_lossy()),
            4 => format!("{}: unknown", utf8_percent_encode(password, NON_ALPHANUMERIC)),
            _ => format!("ended at {password}{password} ({url})"),
        }
    }

    proptest! {
        #[test]
        fn no_error_shows_a_password(
            password in "\\PC{4,24}", other in "[a-z]{8}", ways in proptest::collection::vec(any::<u8>(), 1..4),
            form in 0_u8..4,
        ) {
            // `://` in a password that is not encoded cannot be told from the beginning of a URL.
            let password = password.replace("://", "///");
            let encoded = utf8_percent_encode(&password, NON_ALPHANUMERIC).to_string();
            let url = match form {
                0 => format!("amqp://user:{encoded}@host:5672/%2f,amqp://user:{other}@host2/%2f"),
                1 => format!("amqp://user:{other}@host2/%2f amqp://user:{password}@host:5672/%2f"),
                2 => format!("user:{password}"),
                _ => format!("postgresql://host/name?user=u&password={encoded}"),
            };
            let error = ways.iter().map(|how| repeated(*how, &url, &password)).collect::<Vec<_>>().join(": ");
            let said = scrubbed(&[&url], &error);
            let quoted = format!("{password:?}");
            for shown in [&*password, &*encoded, &quoted[1..quoted.len() - 1], &password.escape_debug().to_string()] {
                prop_assert!(!said.split(MARK).any(|part| part.contains(shown)), "{} in {}", shown, said);
            }
        }
    }
}
