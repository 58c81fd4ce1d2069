//! A request as a receiver got it, and whether it is genuine, judged without any of the product's code.

use std::time::{Instant, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::http::Head;

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// The path with its query.
    pub path: String,
    pub head: Head,
    pub body: Vec<u8>,
    /// When the last byte had come.
    pub at: Instant,
    pub at_wall_clock: SystemTime,
    /// Which of the receiver's connections it came on, counted from 1.
    pub connection: usize,
    /// The URL it was sent to.
    pub url: String,
}

/// Whether the two signatures are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// `X-Webhook-Signature`: what penr.ai's customers check today.
    pub hex: bool,
    /// `Webhook-Signature`: Standard Webhooks.
    pub standard: bool,
}

impl Verdict {
    pub fn is_genuine(self) -> bool {
        self.hex && self.standard
    }
}

impl Request {
    pub fn new(head: Head, body: Vec<u8>, connection: usize, origin: &str) -> Self {
        let mut words = head.first_line.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().to_owned();
        let url = format!("{origin}{path}");
        Self { method, path, head, body, at: Instant::now(), at_wall_clock: SystemTime::now(), connection, url }
    }

    /// A header that must be there.
    pub fn header(&self, name: &str) -> &str {
        self.head.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.head.headers))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("every body we send is JSON")
    }

    /// `Webhook-Id`: the event's id.
    pub fn event_id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn attempt(&self) -> u32 {
        self.header("x-webhook-attempt").parse().expect("attempts are numbers")
    }

    /// `Webhook-Timestamp`.
    pub fn timestamp(&self) -> u64 {
        self.header("webhook-timestamp").parse().expect("timestamps are unix seconds")
    }

    pub fn verify(&self, secret: &str) -> Verdict {
        let hex_signature = self.head.header("x-webhook-signature").unwrap_or_default();
        let hex = hex_signature == hex::encode(hmac_sha256(secret.as_bytes(), &self.body));
        let signatures = self.head.header("webhook-signature").unwrap_or_default();
        let expected = format!("v1,{}", BASE64_STANDARD.encode(self.standard_mac(secret)));
        Verdict { hex, standard: signatures.split(' ').any(|signature| signature == expected) }
    }

    fn standard_mac(&self, secret: &str) -> Vec<u8> {
        let field = |name| self.head.header(name).unwrap_or_default();
        let signed = [field("webhook-id").as_bytes(), field("webhook-timestamp").as_bytes(), &self.body].join(&b'.');
        let key = secret.strip_prefix("whsec_").expect("a secret begins with whsec_");
        hmac_sha256(&BASE64_STANDARD.decode(key).expect("a secret is base64"), &signed)
    }
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.chain_update(text).finalize().into_bytes().to_vec()
}
