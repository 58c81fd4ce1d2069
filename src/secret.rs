//! Keeps secrets secret: in memory, in logs and in the database. Pure: the caller brings random bytes.
//!
//! A signing secret, the headers of a webhook, and an answer that is kept for its `Idempotency-Key`, are stored only in envelopes,
//! `version ‖ key id length ‖ key id ‖ nonce ‖ ciphertext`, encrypted with XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03). The
//! ids of its account and its webhook (for an answer: of its account, and the key) are authenticated with it, and what it holds: an
//! envelope that was copied to another row or column does not open.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::ids::{AccountId, WebhookId};

mod grace;
mod published;
#[cfg(test)]
mod tests;

pub(crate) use grace::{LONGEST_GRACE, parse_grace};
use published::is_published;
pub(crate) use published::is_published_text;

const ENVELOPE_VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;

/// A text that must never be shown. `Debug` prints nothing of it, and its memory is overwritten when it is dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes over the text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for the code that has to use it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<'de> serde::Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// The secret of a webhook's signatures: `whsec_` and the base64 of its bytes, 32 in those that this service makes. The form
/// serves both signature schemes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningSecret(SecretText);

/// The text is no signing secret.
#[derive(Debug, thiserror::Error)]
#[error("a signing secret is `whsec_` followed by base64")]
pub struct NotASigningSecret;

impl SigningSecret {
    const PREFIX: &str = "whsec_";

    /// The secret of these random bytes.
    pub fn from_random(random: [u8; 32]) -> Self {
        let random = Zeroizing::new(random);
        let mut text = String::with_capacity(64);
        text.push_str(Self::PREFIX);
        STANDARD.encode_string(random, &mut text);
        Self(SecretText::new(text))
    }

    /// Reads a secret.
    ///
    /// # Errors
    ///
    /// The prefix is missing, or no base64 of at least one byte follows it.
    pub fn parse(text: &str) -> Result<Self, NotASigningSecret> {
        let encoded = text.strip_prefix(Self::PREFIX).ok_or(NotASigningSecret)?;
        let key = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| NotASigningSecret)?);
        if key.is_empty() {
            return Err(NotASigningSecret);
        }
        Ok(Self(SecretText::new(text.to_owned())))
    }

    /// The secret as the customer sees it.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// The decoded bytes behind the prefix: the key of the Standard Webhooks signature.
    pub(crate) fn key_bytes(&self) -> Zeroizing<Vec<u8>> {
        let encoded = &self.expose()[Self::PREFIX.len()..];
        Zeroizing::new(STANDARD.decode(encoded).expect("it was decoded once when it was parsed"))
    }
}

/// The account and the webhook that a secret belongs to. Both are authenticated with the envelope.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The account.
    pub account_id: &'a AccountId,
    /// The webhook.
    pub webhook_id: WebhookId,
}

impl Owner<'_> {
    fn associated_data(self, header: &[u8]) -> Vec<u8> {
        // The webhook's id has a fixed length, so no other pair of ids gives the same bytes.
        let id = self.webhook_id.0;
        [header, id.as_bytes(), self.account_id.as_str().as_bytes()].concat()
    }
}

/// The webhook that headers belong to, and where they may be sent. All of it is authenticated with the envelope: whoever changes
/// the URL without giving the values again, be it in the database, makes the envelope unreadable.
#[derive(Debug, Clone, Copy)]
pub struct HeadersOwner<'a> {
    /// The account and the webhook.
    pub owner: Owner<'a>,
    /// Scheme, host and port of the webhook's URL, such as `https://example.com`.
    pub origin: &'a str,
}

impl HeadersOwner<'_> {
    fn associated_data(self, header: &[u8]) -> Vec<u8> {
        // The newlines make these bytes differ from those of every secret and every answer: no id of an account contains one.
        let ids = self.owner.associated_data(b"headers\n");
        [header, &ids, b"\n", self.origin.as_bytes()].concat()
    }
}

/// The account and the `Idempotency-Key` that a kept answer belongs to. Both are authenticated with its envelope.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerOwner<'a> {
    pub account_id: &'a AccountId,
    pub key: &'a str,
}

impl AnswerOwner<'_> {
    fn associated_data(self, header: &[u8]) -> Vec<u8> {
        // No webhook has the nil id, so these bytes differ from those of every secret. Neither an account's id nor a key
        // contains a newline.
        let (nil, account) = (Uuid::nil(), self.account_id.as_str().as_bytes());
        [header, nil.as_bytes(), account, b"\n", self.key.as_bytes()].concat()
    }
}

/// The keys that secrets in the database are encrypted with: the first encrypts, all decrypt.
#[derive(Clone)]
pub struct Keyring(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: String,
    cipher: XChaCha20Poly1305,
    /// Whether this repository publishes it.
    published: bool,
}

/// Why a keyring cannot be read from its text. No error repeats a key; keys are counted from 1.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyringError {
    /// There is no key.
    #[error("holds no key")]
    Empty,
    /// There is no colon.
    #[error("key {0} is not written as id:base64-of-32-bytes")]
    Form(usize),
    /// The id has other characters, none or too many.
    #[error("key {0} needs an id of 1 to 64 letters, digits, - or _")]
    Id(usize),
    /// The key is no base64 or has another length.
    #[error("key {0} is not the base64 of exactly 32 bytes")]
    Key(usize),
    /// Two keys have one id.
    #[error("key {0} repeats the id of an earlier key")]
    Repeated(usize),
}

/// Why an envelope cannot be decrypted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OpenError {
    /// The settings have no key with this id.
    #[error("the envelope is encrypted with key `{0}`, which is not in security.encryption_keys")]
    UnknownKey(String),
    /// The bytes are no envelope of this owner.
    #[error("the envelope does not decrypt: the row was damaged, or the envelope is that of another row")]
    Damaged,
}

impl Keyring {
    /// Reads keys of the form `id:base64-of-32-bytes`, separated by commas.
    ///
    /// # Errors
    ///
    /// The first key that cannot be used, and why.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let mut keys: Vec<Key> = Vec::new();
        for (at, entry) in text.split(',').map(str::trim).filter(|e| !e.is_empty()).enumerate() {
            let key = Key::parse(entry, at + 1)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeyringError::Repeated(at + 1));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(KeyringError::Empty) } else { Ok(Self(keys)) }
    }

    /// The id of the first key, which encrypts.
    pub(crate) fn newest_key_id(&self) -> &str {
        &self.0[0].id
    }

    /// The id of the first key that this repository publishes, if there is one.
    pub(crate) fn published_key_id(&self) -> Option<&str> {
        self.0.iter().find(|key| key.published).map(|key| key.id.as_str())
    }

    /// Whether an envelope is encrypted with the key that encrypts now.
    pub(crate) fn is_newest(&self, envelope: &[u8]) -> bool {
        envelope_key_id(envelope) == Some(self.newest_key_id())
    }

    /// Checks that an envelope names a key of this keyring. The beginning of the envelope is enough.
    ///
    /// # Errors
    ///
    /// The key is unknown, or the bytes do not begin an envelope.
    pub(crate) fn check_key(&self, envelope: &[u8]) -> Result<(), OpenError> {
        self.key_of(envelope).map(drop)
    }

    fn key_of(&self, envelope: &[u8]) -> Result<&Key, OpenError> {
        let id = envelope_key_id(envelope).ok_or(OpenError::Damaged)?;
        let key = self.0.iter().find(|key| key.id == id);
        key.ok_or_else(|| OpenError::UnknownKey(id.to_owned()))
    }

    /// Encrypts a secret for its owner. `nonce` must be random and used once.
    pub fn seal(&self, secret: &SigningSecret, owner: Owner<'_>, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        self.seal_text(secret.expose(), |header| owner.associated_data(header), nonce)
    }

    /// Decrypts an envelope that [`Keyring::seal`] made for the same owner.
    ///
    /// # Errors
    ///
    /// The key is unknown, or the envelope is damaged or belongs to another owner.
    pub fn open(&self, envelope: &[u8], owner: Owner<'_>) -> Result<SigningSecret, OpenError> {
        let text = self.open_text(envelope, |header| owner.associated_data(header))?;
        SigningSecret::parse(text.expose()).map_err(|_| OpenError::Damaged)
    }

    /// Encrypts the headers of a webhook, as one text. `nonce` must be random and used once.
    pub fn seal_headers(&self, headers: &SecretText, owner: HeadersOwner<'_>, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        self.seal_text(headers.expose(), |header| owner.associated_data(header), nonce)
    }

    /// Decrypts an envelope that [`Keyring::seal_headers`] made for the same owner.
    ///
    /// # Errors
    ///
    /// The key is unknown, or the envelope is damaged, belongs to another owner or holds something else.
    pub(crate) fn open_headers(&self, envelope: &[u8], owner: HeadersOwner<'_>) -> Result<SecretText, OpenError> {
        self.open_text(envelope, |header| owner.associated_data(header))
    }

    /// Encrypts the body of an answer. `nonce` must be random and used once.
    pub(crate) fn seal_answer(&self, body: &str, owner: AnswerOwner<'_>, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        self.seal_text(body, |header| owner.associated_data(header), nonce)
    }

    /// Decrypts an envelope that [`Keyring::seal_answer`] made for the same owner.
    ///
    /// # Errors
    ///
    /// The key is unknown, or the envelope is damaged or belongs to another owner.
    pub(crate) fn open_answer(&self, envelope: &[u8], owner: AnswerOwner<'_>) -> Result<SecretText, OpenError> {
        self.open_text(envelope, |header| owner.associated_data(header))
    }

    fn seal_text(&self, text: &str, associated: impl Fn(&[u8]) -> Vec<u8>, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let key = &self.0[0];
        let mut envelope = envelope_header(&key.id);
        let payload = Payload { msg: text.as_bytes(), aad: &associated(&envelope) };
        let ciphertext = key.cipher.encrypt(&XNonce::from(nonce), payload);
        envelope.extend_from_slice(&nonce);
        envelope.extend(ciphertext.expect("secrets and answers are far shorter than the cipher's limit"));
        envelope
    }

    fn open_text(&self, envelope: &[u8], associated: impl Fn(&[u8]) -> Vec<u8>) -> Result<SecretText, OpenError> {
        let key = self.key_of(envelope)?;
        let (header, rest) = envelope.split_at(2 + key.id.len());
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Damaged)?;
        let payload = Payload { msg: ciphertext, aad: &associated(header) };
        let opened = key.cipher.decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new);
        let opened = opened.map_err(|_| OpenError::Damaged)?;
        let text = std::str::from_utf8(&opened).map_err(|_| OpenError::Damaged)?;
        Ok(text.into())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl Key {
    fn parse(entry: &str, at: usize) -> Result<Self, KeyringError> {
        let (id, encoded) = entry.split_once(':').ok_or(KeyringError::Form(at))?;
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if id.is_empty() || id.len() > 64 || !id.bytes().all(known) {
            return Err(KeyringError::Id(at));
        }
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| KeyringError::Key(at))?);
        if bytes.len() != KEY_BYTES {
            return Err(KeyringError::Key(at));
        }
        let cipher = XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| KeyringError::Key(at))?;
        Ok(Self { id: id.to_owned(), cipher, published: is_published(&bytes) })
    }
}

fn envelope_header(key_id: &str) -> Vec<u8> {
    let length = u8::try_from(key_id.len()).expect("a key id has at most 64 bytes");
    [&[ENVELOPE_VERSION, length], key_id.as_bytes()].concat()
}

fn envelope_key_id(envelope: &[u8]) -> Option<&str> {
    let [ENVELOPE_VERSION, length, rest @ ..] = envelope else { return None };
    std::str::from_utf8(rest.get(..usize::from(*length))?).ok()
}
