//! The value of a header that webhooks of the suite have. Wherever it is seen but in their requests, a customer's credential would
//! be seen. It is the same for a whole run, and random, so that whatever a run left can be searched for it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
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
