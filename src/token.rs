//! Makes and checks the bearer tokens of the API: JSON Web Tokens (RFC 7519) signed with HS256, and nothing else. Pure.
//!
//! A token is refused if its header has any field that is not known here: no field of a token decides how it is checked.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::ids::AccountId;
use crate::secret::SecretText;

/// A token that expires later than this from now is refused.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How far the issuer's clock may differ from ours, in seconds.
const LEEWAY: i64 = 5;
const MAX_BYTES: usize = 8 * 1024;

/// The secrets and names with which tokens are made and checked.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// At least one. The first signs; all verify.
    pub secrets: Vec<SecretText>,
    /// The value that `iss` must have; `None`: any.
    pub issuer: Option<String>,
    /// The value that `aud` must have or contain; `None`: any.
    pub audience: Option<String>,
}

/// Why a token is refused. Says no more than this, since the caller may be an attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Everything else about the token is good.
    #[error("the token has expired")]
    Expired,
    /// Anything else.
    #[error("the token is not valid")]
    Invalid,
}

impl Tokens {
    /// A token for an account that expires after `lifetime`. `now` is in unix seconds.
    pub fn sign(&self, account: &AccountId, now: i64, lifetime: Duration) -> String {
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let mut claims = json!({ "sub": account.as_str(), "iat": now, "exp": now.saturating_add(seconds) });
        for (name, value) in [("iss", &self.issuer), ("aud", &self.audience)] {
            if let Some(value) = value {
                claims[name] = value.as_str().into();
            }
        }
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&json!({ "alg": "HS256", "typ": "JWT" })), encode(&claims));
        let secret = self.secrets.first().expect("the settings have at least one secret");
        let signature = mac(secret, signed.as_bytes()).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The account that a token was made for. `now` is in unix seconds.
    ///
    /// # Errors
    ///
    /// The token has expired, or is not valid for any other reason.
    pub fn verify(&self, token: &str, now: i64) -> Result<AccountId, TokenRefusal> {
        let claims = self.authentic(token).ok_or(TokenRefusal::Invalid)?;
        let expires = claims.integer("exp")?.ok_or(TokenRefusal::Invalid)?;
        if expires > now.saturating_add(LONGEST.as_secs().cast_signed() + LEEWAY) {
            return Err(TokenRefusal::Invalid);
        }
        let begins = claims.integer("nbf")?.into_iter().chain(claims.integer("iat")?);
        if expires < 0 || begins.into_iter().any(|time| time < 0 || time > now + LEEWAY || time > expires) {
            return Err(TokenRefusal::Invalid);
        }
        let meant = |name, wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| claims.says(name, wanted));
        if !meant("iss", &self.issuer) || !meant("aud", &self.audience) {
            return Err(TokenRefusal::Invalid);
        }
        let account = claims.0.get("sub").and_then(Value::as_str).and_then(AccountId::parse);
        let account = account.ok_or(TokenRefusal::Invalid)?;
        // Last, so that only the holder of a token that was valid once is told that it has expired.
        if expires <= now - LEEWAY { Err(TokenRefusal::Expired) } else { Ok(account) }
    }

    /// The claims of a token that one of our secrets signed.
    fn authentic(&self, token: &str) -> Option<Members> {
        if token.len() > MAX_BYTES {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header = Members::decode(header)?;
        // No other field is accepted: `crit`, `kid`, `jwk` and similar ones ask for another way of checking.
        let understood = header.0.iter().all(|(name, value)| match name.as_str() {
            "alg" => value == "HS256",
            "typ" => value.as_str().is_some_and(|typ| typ.eq_ignore_ascii_case("JWT")),
            _ => false,
        });
        if !understood || !header.0.contains_key("alg") {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let signs = |secret: &SecretText| mac(secret, signed.as_bytes()).verify_slice(&signature).is_ok();
        if !self.secrets.iter().any(signs) {
            return None;
        }
        Members::decode(claims)
    }
}

fn mac(secret: &SecretText, signed: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes a key of any length").chain_update(signed)
}

/// A JSON object without repeated names.
struct Members(BTreeMap<String, Value>);

impl Members {
    fn decode(part: &str) -> Option<Self> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    }

    /// A claim in whole seconds; `None` if it is absent.
    ///
    /// # Errors
    ///
    /// The claim is no whole number: that is not the same as an absent claim.
    fn integer(&self, name: &str) -> Result<Option<i64>, TokenRefusal> {
        let read = |value: &Value| value.as_i64().ok_or(TokenRefusal::Invalid);
        self.0.get(name).map(read).transpose()
    }

    /// Whether a claim is this text, or a list that contains it.
    fn says(&self, name: &str, wanted: &str) -> bool {
        match self.0.get(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(texts)) if name == "aud" => texts.iter().any(|text| text == wanted),
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests;
