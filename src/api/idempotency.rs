//! Reads the `Idempotency-Key` of a request, and forgets keys after a day (draft-ietf-httpapi-idempotency-key-header).
//!
//! A key stands for one request of one account. The header's value is taken as it is: quotes, which the draft asks for, are a part
//! of the key.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, Method};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::Api;
use super::body::{self, JsonBody};
use super::problem::{Again, FieldError, Problem};
use crate::error_chain;
use crate::secret::{Keyring, SecretText};
use crate::store::{MOST_KEYS, NotDone, Once};

pub(super) const NAME: HeaderName = HeaderName::from_static("idempotency-key");
const LONGEST: usize = 255;
/// What the sender of a request without a key should do if its outcome is not known.
pub(super) const WITHOUT_KEY: Again =
    Again::LookFirst("it may be done a second time. With an Idempotency-Key you could send it again as it is");
/// How often to delete the answers that have been kept for a day.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// The key as the API's description shows it.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only the description is made of it")]
pub(super) struct KeyParameter {
    /// The same request with the same key is carried out once within 24 hours, and answered alike each time
    #[param(rename = "Idempotency-Key", pattern = "^[!-~]([ -~]*[!-~])?$", max_length = 255)]
    key: Option<String>,
}

/// A request's body, with the key that the request may have.
pub(super) struct Keyed<B> {
    pub(super) body: B,
    pub(super) once: Option<Once>,
}

impl<B: JsonBody> FromRequest<Arc<Api>> for Keyed<B> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let key = key(&parts.headers)?;
        let bytes = body::read(body, api.settings.limits.max_body_bytes).await?;
        let hash = |secret| hash(secret, &parts.method, parts.uri.path(), &bytes);
        let once = key.map(|key| Once { key, requests: api.tokens.secrets.iter().map(hash).collect() });
        Ok(Self { body: B::of(&parts.headers, &bytes)?, once })
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let refused = |reason: &str| Err(Problem::malformed("Idempotency-Key", reason));
    let mut given = headers.get_all(NAME).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return if headers.contains_key(NAME) { refused("is given twice") } else { Ok(None) };
    };
    let is_printable = value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte));
    match value.to_str() {
        Ok(key) if is_printable && (1..=LONGEST).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => refused("must be 1 to 255 printable ASCII characters"),
    }
}

/// Tells requests apart without keeping what was asked: a URL may hold a password of the customer's. Its part of the answer is
/// kept in an envelope.
fn hash(secret: &SecretText, method: &Method, path: &str, body: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes a key of any length");
    // Neither a method nor a path contains a newline. Tokens and cursors are other texts that are signed with this secret.
    let head = format!("idempotency-key\n{method}\n{path}\n");
    mac.chain_update(head).chain_update(body).finalize().into_bytes().to_vec()
}

/// The answer to a request that is not carried out because of its key.
///
/// # Errors
///
/// 422 if the key came with another request before; 429 if the account has used too many keys; 500 if the kept answer cannot be
/// decrypted.
pub(super) fn answer(not_done: &NotDone, keyring: &Keyring) -> Result<String, Problem> {
    match not_done {
        NotDone::Answered(kept) => Ok(kept.open(keyring)?.expose().to_owned()),
        NotDone::TooManyKeys(wait) => Err(Problem::too_many_keys(MOST_KEYS, *wait)),
        NotDone::OtherRequest => {
            let reason = "came with another request before; make a new key for each request";
            Err(Problem::invalid(vec![FieldError { field: "Idempotency-Key".to_owned(), reason: reason.to_owned() }]))
        }
    }
}

/// Deletes answers that have been kept for a day, until `stop`.
pub(super) async fn forget_old(api: Arc<Api>, stop: CancellationToken) {
    let work = async {
        loop {
            match api.store.forget_answers().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::debug!(error = error_chain(&error), "old answers are forgotten later"),
            }
            tokio::time::sleep(FORGET_EVERY).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn key_of(values: &[&str]) -> Result<Option<String>, ()> {
        let values = values.iter().map(|value| (NAME, HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        key(&values.collect()).map_err(drop)
    }

    #[test]
    fn a_key_is_printable_ascii_of_at_most_255_bytes_and_stands_there_once() {
        assert_eq!(key_of(&[]), Ok(None));
        for good in ["k", "\"8e03978e-40d5\"", "a b~!", &"x".repeat(255)] {
            assert_eq!(key_of(&[good]), Ok(Some(good.to_owned())));
        }
        for wrong in ["", "\u{e4}", "a\tb", &"x".repeat(256)] {
            assert_eq!(key_of(&[wrong]), Err(()), "{wrong:?}");
        }
        assert_eq!(key_of(&["a", "a"]), Err(()));
    }

    #[test]
    fn every_part_of_a_request_and_the_secret_make_another_hash() {
        let of = |secret: &str, method, path, body: &str| hash(&secret.into(), &method, path, body.as_bytes());
        let first = of("s", Method::POST, "/a", "{}");
        assert_eq!(first, of("s", Method::POST, "/a", "{}"));
        for other in [
            of("t", Method::POST, "/a", "{}"),
            of("s", Method::PATCH, "/a", "{}"),
            of("s", Method::POST, "/b", "{}"),
            of("s", Method::POST, "/a", "{ }"),
        ] {
            assert_ne!(first, other);
        }
    }
}
