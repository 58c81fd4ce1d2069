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

use crate::ids::{AccountId, Actor};
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

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything in its account.
    Full,
    /// Look at everything in its account but the signing secrets.
    ReadOnly,
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The account that the token was made for.
    pub account: AccountId,
    /// What its holder may do there.
    pub access: Access,
    /// Who acts for the account. Gives no rights and takes none away.
    pub actor: Option<Actor>,
}

/// Why a token is refused. The caller may be an attacker, so only a token that one of our secrets signed, and whose only fault
/// is its time or its scope, is told more than that it is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// `exp` is over.
    #[error("the token has expired: its exp is more than {} s ago", LEEWAY)]
    Expired,
    /// `iat` is still to come.
    #[error(
        "the token is issued in the future: its iat is more than {} s ahead of our clock; check the clocks",
        LEEWAY
    )]
    IssuedInFuture,
    /// `nbf` is still to come.
    #[error("the token is not valid yet: its nbf is more than {} s ahead of our clock; check the clocks", LEEWAY)]
    NotYetValid,
    /// `exp` is too far away.
    #[error(
        "the token lasts too long: its exp may be 24 hours and {} s ahead of our clock at most; check the clocks",
        LEEWAY
    )]
    LastsTooLong,
    /// `iat` or `nbf` is later than `exp`.
    #[error("the token ends before it begins: its exp is earlier than its iat or nbf")]
    EndsBeforeItBegins,
    /// `scope` is neither a text nor a list of texts.
    #[error("the scope of the token cannot be read: it may be words separated by blanks, or a list of words")]
    ScopeUnreadable,
    /// Anything else.
    #[error("the token is not valid")]
    Invalid,
}

impl Tokens {
    /// A token for an account, with all rights, that expires after `lifetime`. `now` is in unix seconds.
    pub fn sign(&self, account: &AccountId, now: i64, lifetime: Duration) -> String {
        let grant = Grant { account: account.clone(), access: Access::Full, actor: None };
        self.sign_grant(&grant, now, lifetime)
    }

    /// The same for a token that says this.
    pub fn sign_grant(&self, grant: &Grant, now: i64, lifetime: Duration) -> String {
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let mut claims = json!({ "sub": grant.account.as_str(), "iat": now, "exp": now.saturating_add(seconds) });
        for (name, value) in [("iss", &self.issuer), ("aud", &self.audience)] {
            if let Some(value) = value {
                claims[name] = value.as_str().into();
            }
        }
        if grant.access == Access::ReadOnly {
            claims["scope"] = "read".into();
        }
        if let Some(actor) = &grant.actor {
            claims["act"] = json!({ "sub": actor.as_str() });
        }
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&json!({ "alg": "HS256", "typ": "JWT" })), encode(&claims));
        let secret = self.secrets.first().expect("the settings have at least one secret");
        let signature = mac(secret, signed.as_bytes()).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// What a token says. `now` is in unix seconds.
    ///
    /// # Errors
    ///
    /// The token is not valid, or not at this time.
    pub fn verify(&self, token: &str, now: i64) -> Result<Grant, TokenRefusal> {
        let claims = self.authentic(token).ok_or(TokenRefusal::Invalid)?;
        let times = Times::read(&claims)?;
        let meant = |name, wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| claims.says(name, wanted));
        if !meant("iss", &self.issuer) || !meant("aud", &self.audience) {
            return Err(TokenRefusal::Invalid);
        }
        let account = claims.0.get("sub").and_then(Value::as_str).and_then(AccountId::parse);
        let account = account.ok_or(TokenRefusal::Invalid)?;
        let actor = claims.actor()?;
        // Last, so that only the holder of a token that is valid at another time is told that the time is wrong.
        times.check(now)?;
        Ok(Grant { account, access: claims.access()?, actor })
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

/// The times of a token, in unix seconds. A double holds the seconds of today exact to less than a microsecond.
struct Times {
    expires: f64,
    issued: Option<f64>,
    not_before: Option<f64>,
}

impl Times {
    /// # Errors
    ///
    /// `exp` is missing, or one of the claims is no time.
    fn read(claims: &Members) -> Result<Self, TokenRefusal> {
        let expires = claims.time("exp")?.ok_or(TokenRefusal::Invalid)?;
        Ok(Self { expires, issued: claims.time("iat")?, not_before: claims.time("nbf")? })
    }

    /// # Errors
    ///
    /// The token is not valid at this time.
    #[allow(clippy::cast_precision_loss, reason = "unix seconds of today are far below 2^53")]
    fn check(&self, now: i64) -> Result<(), TokenRefusal> {
        let (earliest, latest) = (now.saturating_sub(LEEWAY) as f64, now.saturating_add(LEEWAY) as f64);
        let later_than = |begin: Option<f64>, time: f64| begin.is_some_and(|begin| begin > time);
        if later_than(self.issued, self.expires) || later_than(self.not_before, self.expires) {
            Err(TokenRefusal::EndsBeforeItBegins)
        } else if self.expires <= earliest {
            Err(TokenRefusal::Expired)
        } else if later_than(self.issued, latest) {
            Err(TokenRefusal::IssuedInFuture)
        } else if later_than(self.not_before, latest) {
            Err(TokenRefusal::NotYetValid)
        } else if self.expires > latest + LONGEST.as_secs_f64() {
            Err(TokenRefusal::LastsTooLong)
        } else {
            Ok(())
        }
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

    /// A claim in unix seconds, perhaps with a fraction (RFC 7519, section 2); `None` if it is absent.
    ///
    /// # Errors
    ///
    /// The claim is no number from 0 on: that is not the same as an absent claim.
    fn time(&self, name: &str) -> Result<Option<f64>, TokenRefusal> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let time = value.as_f64().filter(|time| time.is_finite() && *time >= 0.0);
        time.map(Some).ok_or(TokenRefusal::Invalid)
    }

    /// What `scope` permits: words separated by blanks (RFC 8693, section 4.2), or the list of words that some issuers write.
    /// Only `read` without `write` takes rights away: issuers may use the claim for purposes of their own.
    ///
    /// # Errors
    ///
    /// The claim is of another type: perhaps its issuer meant to take rights away.
    fn access(&self) -> Result<Access, TokenRefusal> {
        let texts = match self.0.get("scope") {
            None | Some(Value::Null) => &[],
            Some(Value::Array(texts)) => texts.as_slice(),
            Some(text) => std::slice::from_ref(text),
        };
        let texts: Option<Vec<&str>> = texts.iter().map(Value::as_str).collect();
        let texts = texts.ok_or(TokenRefusal::ScopeUnreadable)?;
        let has = |wanted: &str| texts.iter().any(|text| text.split(' ').any(|word| word == wanted));
        Ok(if has("read") && !has("write") { Access::ReadOnly } else { Access::Full })
    }

    /// Who acts, by the claim `act` (RFC 8693, section 4.1). Its other members are not read: an `act` inside it names somebody who
    /// acted before, which is only information, and `sub` alone names the actor.
    ///
    /// # Errors
    ///
    /// The claim is there, and names nobody by a usable `sub`.
    fn actor(&self) -> Result<Option<Actor>, TokenRefusal> {
        let Some(act) = self.0.get("act") else { return Ok(None) };
        let actor = act.get("sub").and_then(Value::as_str).and_then(Actor::parse);
        actor.map(Some).ok_or(TokenRefusal::Invalid)
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
