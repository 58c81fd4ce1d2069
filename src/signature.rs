//! Makes and verifies the signatures of requests. Pure: the caller brings the clock.
//!
//! Each request has two: the hex HMAC-SHA256 of the body, whose key is the secret as the customer sees it, and that of
//! Standard Webhooks (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::secret::SigningSecret;

type HmacSha256 = Hmac<Sha256>;

/// A secret prepared for both schemes, once: preparing the key of an HMAC costs as much as signing a short text.
#[derive(Clone)]
pub struct SigningKey {
    body: HmacSha256,
    standard: HmacSha256,
}

impl From<&SigningSecret> for SigningKey {
    fn from(secret: &SigningSecret) -> Self {
        Self { body: keyed(secret.expose().as_bytes()), standard: keyed(&secret.key_bytes()) }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

/// The value of `X-Webhook-Signature`: lower-case hex HMAC-SHA256 of the body; the key is the whole secret as UTF-8.
pub fn body_signature(key: &SigningKey, body: &[u8]) -> String {
    hex::encode(body_mac(key, body).finalize().into_bytes())
}

/// The value of `Webhook-Signature`: one `v1,` signature of `id.timestamp.body` per key, separated by spaces.
/// The key is the base64-decoded part of the secret; `timestamp` is in unix seconds.
pub fn standard_signature(keys: &[&SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let one = |key: &&SigningKey| {
        let mac = standard_mac(key, id, timestamp, body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    keys.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Whether `signature`, a received `X-Webhook-Signature`, was made with this secret. Compares in constant time.
pub(crate) fn verify_body(secret: &SigningSecret, body: &[u8], signature: &str) -> bool {
    // Customers compare the texts, so upper case would be another signature.
    let lower = !signature.bytes().any(|byte| byte.is_ascii_uppercase());
    lower && hex::decode(signature).is_ok_and(|bytes| body_mac(&secret.into(), body).verify_slice(&bytes).is_ok())
}

/// Whether `signatures`, a received `Webhook-Signature`, contains one that was made with this secret. Compares each in
/// constant time.
pub(crate) fn verify_standard(secret: &SigningSecret, id: &str, timestamp: i64, body: &[u8], signatures: &str) -> bool {
    signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,")).any(|encoded| {
        let mac = standard_mac(&secret.into(), id, timestamp, body);
        STANDARD.decode(encoded).is_ok_and(|bytes| mac.verify_slice(&bytes).is_ok())
    })
}

fn body_mac(key: &SigningKey, body: &[u8]) -> HmacSha256 {
    key.body.clone().chain_update(body)
}

fn standard_mac(key: &SigningKey, id: &str, timestamp: i64, body: &[u8]) -> HmacSha256 {
    key.standard.clone().chain_update(format!("{id}.{timestamp}.")).chain_update(body)
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const BODY: &str = concat!(
        r#"{"id":"evt_1","type":"content.published","timestamp":"2026-11-23T10:00:00Z","#,
        r#""data":{"b":1e400,"a":"é\u0000"}}"#
    );
    const TIMESTAMP: i64 = 1_795_428_000;

    fn secret() -> SigningSecret {
        SigningSecret::parse(SECRET).unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::from(&secret())
    }

    /// Made by Node.js 20 with the check that customers run, `rawBody` being `BODY` and then the empty text:
    /// `crypto.createHmac('sha256', secret).update(rawBody).digest('hex')`
    #[test]
    fn the_body_signature_is_the_one_node_makes() {
        let signature = "78f0aa5f87a7f2af2c6af00457056cd93744dbf4dca2da6d21672a5c7a9c0906";
        assert_eq!(body_signature(&key(), BODY.as_bytes()), signature);
        assert!(verify_body(&secret(), BODY.as_bytes(), signature));
        let empty = "3869a63cbe73c747431cf9ff4d38cbaa6ad6adb0541c4753e1c90f7b6920620f";
        assert_eq!(body_signature(&key(), b""), empty);
    }

    /// Made by the PyPI package standardwebhooks 1.1.0:
    /// `Webhook(SECRET).sign("evt_1", datetime.fromtimestamp(1795428000, timezone.utc), BODY)`
    #[test]
    fn the_standard_signature_is_the_one_standardwebhooks_makes() {
        let signature = "v1,AdIb+oF5QYHpVObxkjEXv27XTxEAzlg8OMGrSdCIIys=";
        assert_eq!(standard_signature(&[&key()], "evt_1", TIMESTAMP, BODY.as_bytes()), signature);
        assert!(verify_standard(&secret(), "evt_1", TIMESTAMP, BODY.as_bytes(), signature));
    }

    #[test]
    fn both_secrets_of_a_regeneration_verify_and_nothing_else_does() {
        let (new, old, other) = (SigningSecret::from_random([1; 32]), SigningSecret::from_random([2; 32]), secret());
        let signatures = standard_signature(&[&(&new).into(), &(&old).into()], "evt_1", TIMESTAMP, b"{}");
        let verifies = |secret, id, time, body: &[u8]| verify_standard(secret, id, time, body, &signatures);
        assert!(verifies(&new, "evt_1", TIMESTAMP, b"{}") && verifies(&old, "evt_1", TIMESTAMP, b"{}"));
        assert!(!verifies(&other, "evt_1", TIMESTAMP, b"{}"));
        assert!(!verifies(&new, "evt_2", TIMESTAMP, b"{}"));
        assert!(!verifies(&new, "evt_1", TIMESTAMP + 1, b"{}"));
        assert!(!verifies(&new, "evt_1", TIMESTAMP, b"{ }"));
    }

    #[test]
    fn a_signature_in_upper_case_is_not_ours() {
        let signature = body_signature(&key(), BODY.as_bytes());
        assert!(!verify_body(&secret(), BODY.as_bytes(), &signature.to_uppercase()));
        assert!(!verify_body(&secret(), b"{}", &signature));
        assert!(!verify_body(&secret(), BODY.as_bytes(), ""));
    }
}
