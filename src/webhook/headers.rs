//! The headers that a customer adds to a webhook's requests, and which of them are refused. Pure.
//!
//! A value is somebody's credential: it is shown to nobody, its owner included. `Debug` prints none.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::secret::SecretText;
use crate::text::printable;

mod policy;
#[cfg(test)]
mod tests;

use policy::{is_refused, opens_metadata};

/// The most headers of one webhook.
pub const MOST_HEADERS: usize = 10;
/// The longest value, in bytes.
pub const LONGEST_VALUE: usize = 2048;
/// The most bytes of all names and values together.
pub const MOST_BYTES: usize = 4096;
/// The longest name, in bytes.
pub const LONGEST_NAME: usize = 128;
/// How much of a text that is no name an error repeats, in bytes: somebody may have swapped the name and the value.
const SHOWN_BYTES: usize = 16;

/// Why a header cannot be saved. The texts are for the person who gave it; none repeats a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderRefusal {
    /// More than 10.
    #[error("a webhook has at most {MOST_HEADERS} headers")]
    TooMany,
    /// Names and values together are longer than 4 KiB.
    #[error("all names and values together have at most {MOST_BYTES} bytes")]
    TooLong,
    /// The name is longer than [`LONGEST_NAME`]. It may be a value in the wrong place, so nothing of it is repeated.
    #[error("the name of a header has at most {LONGEST_NAME} characters")]
    LongName,
    /// No token of RFC 9110, section 5.6.2.
    #[error(
        "the name of a header has 1 to {LONGEST_NAME} letters, digits and !#$%&'*+-.^_`|~ alone, unlike the one that begins \
         with `{0}`"
    )]
    Name(String),
    /// The policy refuses the name.
    #[error("the header {0} cannot be set: it is ours or the HTTP client's, or would say that somebody else calls")]
    Refused(String),
    /// Two names differ in case only, or not at all.
    #[error("the header {0} is given twice; upper and lower case are the same")]
    Twice(String),
    /// The value has other characters, none, too many, or a blank at an end.
    #[error("the value of {0} must have 1 to {LONGEST_VALUE} printable ASCII characters, and no blank at either end")]
    Value(String),
    /// The value opens the metadata of a cloud.
    #[error("the value of {0} cannot be sent: it is the one that opens the metadata service of Oracle's cloud")]
    OpensMetadata(String),
    /// `null` for a name that is not stored.
    #[error("there is no stored value of {0} to keep; give one")]
    NotStored(String),
    /// The receiver changes, and a value would go to one that its owner did not send it to.
    #[error(
        "the URL has another scheme, host or port now: give all values again, or remove the headers; {0} has no value"
    )]
    OtherReceiver(String),
}

/// The name of a header as its owner typed it. Two names are equal if they differ in case only.
#[derive(Debug, Clone)]
pub struct HeaderName(String);

impl HeaderName {
    /// Reads a name.
    ///
    /// # Errors
    ///
    /// [`HeaderRefusal::LongName`], [`HeaderRefusal::Name`] or [`HeaderRefusal::Refused`]
    pub fn parse(name: &str) -> Result<Self, HeaderRefusal> {
        if name.len() > LONGEST_NAME {
            return Err(HeaderRefusal::LongName);
        }
        let known = Self::of_stored(name).ok_or_else(|| {
            // No more of it: somebody may have written a whole line, `Authorization: Bearer x`, where the name belongs.
            let token: String = name.chars().take_while(|char| u8::try_from(*char).is_ok_and(is_token)).collect();
            HeaderRefusal::Name(printable(&token, SHOWN_BYTES))
        })?;
        if is_refused(name) { Err(HeaderRefusal::Refused(name.to_owned())) } else { Ok(known) }
    }

    /// A name that was accepted once, perhaps by an earlier release.
    fn of_stored(name: &str) -> Option<Self> {
        let is_name = (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_token);
        is_name.then(|| Self(name.to_owned()))
    }

    /// As it was typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for HeaderName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for HeaderName {}

/// A character of a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_value(value: &str) -> bool {
    (1..=LONGEST_VALUE).contains(&value.len())
        && value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && !value.starts_with(' ')
        && !value.ends_with(' ')
}

/// Checked headers with their values, in the order in which they were given.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CustomHeaders(Vec<(HeaderName, SecretText)>);

/// Headers as a customer asks for them: a name without a value keeps the stored value.
#[derive(Clone, PartialEq, Eq)]
pub struct WantedHeaders(Vec<(HeaderName, Option<SecretText>)>);

impl WantedHeaders {
    /// Checks all that can be checked without the stored headers.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn parse(given: Vec<(String, Option<SecretText>)>) -> Result<Self, HeaderRefusal> {
        if given.len() > MOST_HEADERS {
            return Err(HeaderRefusal::TooMany);
        }
        let mut wanted = Self(Vec::with_capacity(given.len()));
        for (name, value) in given {
            let name = HeaderName::parse(&name)?;
            if wanted.0.iter().any(|(other, _)| *other == name) {
                return Err(HeaderRefusal::Twice(name.0));
            }
            if value.as_ref().is_some_and(|value| !is_value(value.expose())) {
                return Err(HeaderRefusal::Value(name.0));
            }
            if value.as_ref().is_some_and(|value| opens_metadata(&name.0, value.expose())) {
                return Err(HeaderRefusal::OpensMetadata(name.0));
            }
            wanted.0.push((name, value));
        }
        Ok(wanted)
    }

    /// Whether this is what is stored, in any order, under the names as they are typed there, with no new value.
    pub fn repeats(&self, stored: &CustomHeaders) -> bool {
        let is_stored = |name: &HeaderName| stored.0.iter().any(|(known, _)| known.0 == name.0);
        self.0.len() == stored.0.len() && self.0.iter().all(|(name, value)| value.is_none() && is_stored(name))
    }

    /// Whether the webhook shall have none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a value is to be kept.
    pub fn keeps_any(&self) -> bool {
        self.0.iter().any(|(_, value)| value.is_none())
    }

    /// The headers with the kept values of those that are stored now. `same_receiver`: scheme, host and port of the URL stay.
    ///
    /// # Errors
    ///
    /// [`HeaderRefusal::NotStored`], [`HeaderRefusal::OtherReceiver`] or [`HeaderRefusal::TooLong`]
    pub fn with_kept(self, stored: &CustomHeaders, same_receiver: bool) -> Result<CustomHeaders, HeaderRefusal> {
        let mut headers = CustomHeaders::default();
        for (name, value) in self.0 {
            let value = match value {
                Some(value) => value,
                None if !same_receiver => return Err(HeaderRefusal::OtherReceiver(name.0)),
                None => stored.get(&name).ok_or_else(|| HeaderRefusal::NotStored(name.0.clone()))?.clone(),
            };
            headers.0.push((name, value));
        }
        let bytes: usize = headers.0.iter().map(|(name, value)| name.0.len() + value.expose().len()).sum();
        if bytes > MOST_BYTES { Err(HeaderRefusal::TooLong) } else { Ok(headers) }
    }
}

impl CustomHeaders {
    fn get(&self, wanted: &HeaderName) -> Option<&SecretText> {
        self.0.iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
    }

    /// Names and values, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &SecretText)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names alone.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.0.clone()).collect()
    }

    /// One text with all names and values, for an envelope: a line with the name and a line with the value of each.
    pub fn to_text(&self) -> SecretText {
        let lines = self.0.iter().flat_map(|(name, value)| [name.as_str(), "\n", value.expose(), "\n"]);
        // Made in one allocation of the right size: one that grows would leave values in freed memory.
        let size = lines.clone().map(str::len).sum();
        let mut text = String::with_capacity(size);
        text.extend(lines);
        SecretText::new(text)
    }

    /// Reads what [`to_text`](Self::to_text) made. `None` if it is something else.
    ///
    /// Names that the policy came to refuse after they were saved are read and sent as before: else an update of this program would
    /// stop deliveries, and neither the webhook's owner nor the operator would know why. A PATCH that repeats such a name is
    /// refused. A release that must stop a header at once needs a migration.
    pub fn from_text(text: &SecretText) -> Option<Self> {
        let mut lines = text.expose().split_terminator('\n');
        let mut headers = Self::default();
        while let Some(name) = lines.next() {
            let value = lines.next().filter(|value| is_value(value))?;
            headers.0.push((HeaderName::of_stored(name)?, value.into()));
        }
        Some(headers)
    }
}

impl fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name.as_str())).finish()
    }
}

impl fmt::Debug for WantedHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name.as_str())).finish()
    }
}

/// The names of a webhook's headers. As JSON, an object with null for each value: what it shows may be sent back to keep them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderNames(pub Vec<String>);

impl Serialize for HeaderNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for name in &self.0 {
            map.serialize_entry(name, &None::<()>)?;
        }
        map.end()
    }
}
