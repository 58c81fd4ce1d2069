//! The keys that this repository publishes. Everybody has them, so they protect nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// The keys that docker-compose.yml sets unless the operator sets others, and the key of zeros, common in examples.
const PUBLISHED: [&[u8]; 3] =
    [b"development-only-and-known-to-everybody", b"penr-webhooks-development-only!!", &[0; super::KEY_BYTES]];

/// Whether these are the bytes of a published key.
pub(super) fn is_published(key: &[u8]) -> bool {
    PUBLISHED.contains(&key)
}

/// Whether this text is a published key or the base64 of one, with or without an id and a colon before it. An operator may
/// copy an encryption key into a setting for another kind of key.
pub(crate) fn is_published_text(text: &str) -> bool {
    let encoded = text.rsplit(':').next().unwrap_or(text);
    is_published(text.as_bytes()) || STANDARD.decode(encoded).is_ok_and(|bytes| is_published(&Zeroizing::new(bytes)))
}

#[cfg(test)]
mod tests;
