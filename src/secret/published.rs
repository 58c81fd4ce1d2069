//! Keys that everybody has, because they stand in this repository.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// What docker-compose.yml sets unless the operator does, and the key that tests and examples like to be made of.
const PUBLISHED: [&[u8]; 3] =
    [b"development-only-and-known-to-everybody", b"penr-webhooks-development-only!!", &[0; super::KEY_BYTES]];

/// Whether these are the bytes of such a key.
pub fn is_published(key: &[u8]) -> bool {
    PUBLISHED.contains(&key)
}

/// Whether this text is such a key, or the base64 of one, also behind an id and a colon: it may be given for something else.
pub fn is_published_text(text: &str) -> bool {
    let encoded = text.rsplit(':').next().unwrap_or(text);
    is_published(text.as_bytes()) || STANDARD.decode(encoded).is_ok_and(|bytes| is_published(&Zeroizing::new(bytes)))
}

#[cfg(test)]
mod tests;
