//! Signs what is sent. Pure: the caller brings the clock.
//!
//! Two schemes over the same body: ours (hex HMAC-SHA256 of the body, keyed with the secret as the customer sees it)
//! and Standard Webhooks (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::secret::SigningSecret;

type HmacSha256 = Hmac<Sha256>;

/// The value of `X-Webhook-Signature`: lower-case hex HMAC-SHA256 of the body; the key is the whole secret as UTF-8.
pub fn body_signature(secret: &SigningSecret, body: &[u8]) -> String {
    let mut mac = keyed(secret.expose().as_bytes());
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// The value of `Webhook-Signature`: one `v1,` signature of `id.timestamp.body` per secret, separated by spaces.
/// The key is the base64-decoded part of the secret; `timestamp` is in unix seconds.
pub fn standard_signature(secrets: &[&SigningSecret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let one = |secret: &&SigningSecret| {
        let mut mac = keyed(&secret.key_bytes());
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    secrets.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Whether `signatures`, a received `Webhook-Signature`, holds one that this secret made. Constant time per signature.
pub fn verify_standard(secret: &SigningSecret, id: &str, timestamp: i64, body: &[u8], signatures: &str) -> bool {
    signatures.split(' ').filter_map(|s| s.strip_prefix("v1,")).any(|encoded| {
        let mut mac = keyed(&secret.key_bytes());
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        STANDARD.decode(encoded).is_ok_and(|signature| mac.verify_slice(&signature).is_ok())
    })
}

/// Whether `signature`, a received `X-Webhook-Signature`, was made with this secret. Constant time.
pub fn verify_body(secret: &SigningSecret, body: &[u8], signature: &str) -> bool {
    let mut mac = keyed(secret.expose().as_bytes());
    mac.update(body);
    // Lower case is part of the contract: the check customers run compares text.
    let lower = !signature.bytes().any(|b| b.is_ascii_uppercase());
    lower && hex::decode(signature).is_ok_and(|signature| mac.verify_slice(&signature).is_ok())
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length")
}
