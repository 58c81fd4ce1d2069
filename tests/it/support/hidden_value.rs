//! The value of a header that webhooks of the suite have. Wherever it is seen but in their requests, a customer's credential would
//! be seen. It is the same for a whole run, and random, so that whatever a run left can be searched for it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde_json::{Value, json};
use uuid::Uuid;

/// The header that has it.
pub const NAME: &str = "X-Hidden-Value";

/// What all values of a run have in common: letters and digits, which no encoding of texts changes.
#[derive(Debug, Clone)]
pub struct HiddenValue {
    text: String,
    forms: Vec<String>,
}

impl HiddenValue {
    /// The one of this run: `scripts/hidden-value` chooses it, or this process.
    pub fn of_run() -> &'static Self {
        static OF_RUN: OnceLock<HiddenValue> = OnceLock::new();
        OF_RUN.get_or_init(|| std::env::var("PENR_HIDDEN_VALUE").map_or_else(|_| Self::another(), Self::of))
    }

    /// One that nothing else has.
    pub fn another() -> Self {
        Self::of(format!("hidden{}", Uuid::new_v4().simple()))
    }

    fn of(text: String) -> Self {
        let forms = forms(&text);
        Self { text, forms }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The texts of which one stands where the value is kept.
    pub fn forms(&self) -> &[String] {
        &self.forms
    }

    /// The value for the next webhook: by turns as it is, with characters that JSON, HTML, SQL, shells and URLs write in other ways,
    /// and as the password of basic authentication.
    pub fn next(&self) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        match COUNT.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => format!("Bearer {}", self.text),
            1 => format!("\"'<{}&>\\%41 $;", self.text),
            _ => format!("Basic {}", BASE64_STANDARD.encode(format!("user:{}", self.text))),
        }
    }

    /// Whether a text has it in one of its forms.
    pub fn is_in(&self, text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text);
        self.forms.iter().any(|form| text.contains(form.as_str()))
    }
}

/// The text itself, in hex as Postgres shows bytes, and in base64, which depends on what is before it.
fn forms(text: &str) -> Vec<String> {
    let mut forms = vec![text.to_owned(), hex::encode(text)];
    for (before, shared) in [(0, 0), (1, 2), (2, 3)] {
        let mut encoded = BASE64_STANDARD_NO_PAD.encode(["x".repeat(before).as_str(), text].concat());
        // The last character says something of the bytes behind, too.
        if !(before + text.len()).is_multiple_of(3) {
            encoded.pop();
        }
        forms.push(encoded.split_off(shared));
    }
    forms
}

/// `headers` of a new webhook.
pub fn headers() -> Value {
    json!({ NAME: HiddenValue::of_run().next() })
}

/// The same as the database keeps them, made without the product's code. `keys` is `security.encryption_keys`.
pub fn sealed(keys: &str, account: &str, webhook: Uuid) -> Vec<u8> {
    let first = keys.split(',').next().expect("it has a first one");
    let (id, key) = first.split_once(':').expect("a key has an id");
    let key = BASE64_STANDARD.decode(key.trim()).expect("a key is base64");
    let cipher = XChaCha20Poly1305::new_from_slice(&key).expect("a key has 32 bytes");
    let mut envelope = [&[1, id.len() as u8], id.as_bytes()].concat();
    let associated = [&envelope, webhook.as_bytes().as_slice(), account.as_bytes(), b"\nheaders"].concat();
    let nonce: [u8; 24] = rand::random();
    let text = format!("{NAME}\n{}\n", HiddenValue::of_run().next());
    let payload = Payload { msg: text.as_bytes(), aad: &associated };
    let sealed = cipher.encrypt(&XNonce::from(nonce), payload).expect("it is short");
    envelope.extend_from_slice(&nonce);
    envelope.extend_from_slice(&sealed);
    envelope
}
