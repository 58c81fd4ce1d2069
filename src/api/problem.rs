//! The errors of the API, all in the form of RFC 9457 problem details.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error_chain;
use crate::secret::OpenError;
use crate::store::{RecoverError, StoreError};
use crate::token::TokenRefusal;

const CONTENT_TYPE: &str = "application/problem+json";
/// Seconds until a caller should try again, if the database did not answer.
const RETRY_AFTER: u64 = 2;
/// Seconds until a caller should try again, if the account got no query slot.
const SLOT_RETRY_AFTER: u64 = 1;

/// Why a request failed. Contains no token, no secret and no text of the database's.
#[derive(Debug, Clone)]
pub(super) struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    kind: Kind,
    detail: String,
    errors: Vec<FieldError>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// What a caller should do whose change may have been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Send the same request again. If the change was made, the answer may differ from that to the first request: the text says
    /// how.
    Harmless(&'static str),
    /// Send the same request again. It is answered as before: it has a key.
    WithKey,
    /// It may be carried out a second time: the caller must look first. The text says for what, and how to go on.
    LookFirst(&'static str),
}

/// What is wrong with one field.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct FieldError {
    pub(super) field: String,
    pub(super) reason: String,
}

/// Why a request failed: problem details as RFC 9457 has them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// `urn:penr-webhooks:problem:` and the kind of problem: `unauthorized`, `read-only-token`, `not-found`, `method-not-allowed`,
    /// `malformed-request`, `unsupported-media-type`, `payload-too-large`, `uri-too-long`, `headers-too-large`,
    /// `invalid-fields`, `precondition-failed`, `inactive-webhook`, `held`, `event-dropped`, `too-many-webhooks`, `rate-limited`, `unavailable`, `outcome-unknown`, `timeout` or
    /// `internal`.
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Unauthorized,
    ReadOnlyToken,
    NotFound,
    MethodNotAllowed,
    MalformedRequest,
    UnsupportedMediaType,
    PayloadTooLarge,
    UriTooLong,
    HeadersTooLarge,
    InvalidFields,
    PreconditionFailed,
    InactiveWebhook,
    Held,
    EventDropped,
    TooManyWebhooks,
    RateLimited,
    Unavailable,
    OutcomeUnknown,
    Timeout,
    Internal,
}

impl Kind {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed"),
            Self::ReadOnlyToken => (StatusCode::FORBIDDEN, "read-only-token", "This token may only read"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is nothing here"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed"),
            Self::MalformedRequest => (StatusCode::BAD_REQUEST, "malformed-request", "The request cannot be read"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body must be plain JSON")
            }
            Self::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload-too-large", "The body is too large"),
            Self::UriTooLong => (StatusCode::URI_TOO_LONG, "uri-too-long", "The address is too long"),
            Self::HeadersTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers-too-large", "The headers are too large")
            }
            Self::InvalidFields => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid-fields", "Some fields cannot be accepted")
            }
            Self::PreconditionFailed => {
                (StatusCode::PRECONDITION_FAILED, "precondition-failed", "Somebody else changed it before")
            }
            Self::InactiveWebhook => (StatusCode::CONFLICT, "inactive-webhook", "The webhook is not active"),
            Self::Held => (StatusCode::CONFLICT, "held", "The webhook is on hold"),
            Self::EventDropped => (StatusCode::CONFLICT, "event-dropped", "The event is no longer kept"),
            Self::TooManyWebhooks => (StatusCode::CONFLICT, "too-many-webhooks", "There are too many webhooks"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available for the moment"),
            Self::OutcomeUnknown => (StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown", "The outcome is not known"),
            Self::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout", "It took too long"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong on our side"),
        }
    }
}

impl Problem {
    fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts { kind, detail: detail.into(), errors: Vec::new(), header: None }))
    }

    fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.0.header = Some((name, value.into()));
        self
    }

    fn about(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    /// For a request without a token: the challenge then names the scheme only (RFC 6750, section 3).
    pub(super) fn no_token() -> Self {
        Self::new(Kind::Unauthorized, "give the token as one header: Authorization: Bearer …")
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// For a token that may only read (RFC 6750, section 3.1).
    pub(super) fn read_only_token() -> Self {
        Self::new(
            Kind::ReadOnlyToken,
            "the token's scope has read and no write: it may neither change anything nor see a secret",
        )
        .with(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer error=\"insufficient_scope\", scope=\"write\""),
        )
    }

    pub(super) fn not_found() -> Self {
        Self::new(Kind::NotFound, "there is nothing at this address, or it is not yours")
    }

    /// For a part of something that is there.
    pub(super) fn nothing_left(detail: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(Kind::MethodNotAllowed, "the Allow header names the methods that are allowed here")
    }

    pub(super) fn malformed(field: &str, reason: impl Into<String>) -> Self {
        let errors = vec![FieldError { field: field.to_owned(), reason: reason.into() }];
        Self::new(Kind::MalformedRequest, "the request cannot be read; see errors").about(errors)
    }

    pub(super) fn media_type() -> Self {
        Self::new(Kind::UnsupportedMediaType, "send Content-Type: application/json in UTF-8, not compressed")
    }

    pub(super) fn too_large(bytes: usize) -> Self {
        Self::new(Kind::PayloadTooLarge, format!("the body may have at most {bytes} bytes"))
    }

    pub(super) fn uri_too_long(bytes: usize) -> Self {
        Self::new(Kind::UriTooLong, format!("path and query may have at most {bytes} bytes"))
    }

    pub(super) fn headers_too_large(bytes: usize) -> Self {
        Self::new(Kind::HeadersTooLarge, format!("all headers together may have at most {bytes} bytes"))
    }

    pub(super) fn invalid(errors: Vec<FieldError>) -> Self {
        Self::new(Kind::InvalidFields, "some fields cannot be accepted; see errors").about(errors)
    }

    pub(super) fn stale() -> Self {
        Self::new(Kind::PreconditionFailed, "the webhook is not as If-Match says; read it again")
    }

    pub(super) fn inactive(disabled_reason: Option<&str>) -> Self {
        let why = match disabled_reason {
            Some(reason) => format!("we disabled the webhook ({reason}); switch it on first"),
            None => "the webhook is switched off; switch it on first".to_owned(),
        };
        Self::new(Kind::InactiveWebhook, why)
    }

    pub(super) fn held() -> Self {
        let detail = "the service's operators hold the webhook's deliveries: nothing is sent now, nothing is lost, and all is \
                      sent later";
        Self::new(Kind::Held, detail)
    }

    pub(super) fn too_many_webhooks(most: u32) -> Self {
        Self::new(Kind::TooManyWebhooks, format!("an account may have at most {most} webhooks"))
    }

    pub(super) fn rate_limited(wait: Duration) -> Self {
        Self::new(Kind::RateLimited, "slow down, and try again when Retry-After says").after(wait)
    }

    /// For a new `Idempotency-Key` of an account of which so many are kept already.
    pub(super) fn too_many_keys(most: i64, wait: Duration) -> Self {
        let detail = format!(
            "in the last 24 hours this account has used {most} values of Idempotency-Key, the most that are kept; \
             Retry-After says when the oldest is forgotten"
        );
        Self::new(Kind::RateLimited, detail).after(wait)
    }

    /// The webhook's next requests are all granted.
    pub(super) fn over_pace(wait: Duration) -> Self {
        let detail = "the webhook's max_per_second leaves no room for a test within 5 seconds";
        Self::new(Kind::RateLimited, detail).after(wait)
    }

    fn after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.with(header::RETRY_AFTER, seconds.max(1))
    }

    /// The account's own expensive questions have taken all its query slots.
    pub(super) fn too_many_at_once() -> Self {
        Self::new(Kind::RateLimited, "this account's other questions to log, stats or recover are still being answered")
            .with(header::RETRY_AFTER, SLOT_RETRY_AFTER)
    }

    /// The webhook is being recovered over a span of time that has no part in common with this one.
    pub(super) fn recovering() -> Self {
        Self::new(Kind::RateLimited, "a recovery of this webhook over another span of time is not finished yet")
            .with(header::RETRY_AFTER, RETRY_AFTER)
    }

    pub(super) fn unavailable() -> Self {
        Self::new(Kind::Unavailable, "the service cannot answer just now; try again")
            .with(header::RETRY_AFTER, RETRY_AFTER)
    }

    /// For a change that the database did not confirm in time: it may have been made.
    pub(super) fn outcome_unknown(again: Again) -> Self {
        let problem = |advice: String| {
            Self::new(
                Kind::OutcomeUnknown,
                format!("the database did not confirm it in time: it may have been done. {advice}"),
            )
        };
        let promptly = |problem: Self| problem.with(header::RETRY_AFTER, RETRY_AFTER);
        match again {
            Again::Harmless(then) => promptly(problem(format!("Send the same request again: {then}"))),
            Again::WithKey => promptly(problem(
                "Send the same request with the same Idempotency-Key again: it is done only once".to_owned(),
            )),
            // Without Retry-After: programs that follow it would do it twice.
            Again::LookFirst(how) => problem(format!("Look before you send it again: {how}")),
        }
    }

    /// For a test that was sent, but whose row in the log the database did not confirm. Without Retry-After: programs that follow
    /// it would send another test.
    pub(super) fn test_not_confirmed() -> Self {
        Self::new(
            Kind::OutcomeUnknown,
            "the test was sent, but the database did not confirm its row in the log in time. Look into the log before you \
             send it again: each request sends another test",
        )
    }

    pub(super) fn timeout() -> Self {
        Self::new(Kind::Timeout, "the request did not arrive, or could not be answered, in time")
            .with(header::RETRY_AFTER, RETRY_AFTER)
    }

    pub(super) fn internal() -> Self {
        Self::new(Kind::Internal, "the service's operators can find the cause by the request id")
    }

    /// The answer to the request with this id.
    pub(super) fn render(&self, request_id: &str) -> Response {
        let (status, name, title) = self.0.kind.parts();
        let document = Document {
            r#type: format!("urn:penr-webhooks:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: &self.0.detail,
            request_id,
            errors: &self.0.errors,
        };
        let body = serde_json::to_vec(&document).expect("a problem is plain JSON");
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], Body::from(body)).into_response();
        if let Some((name, value)) = &self.0.header {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

/// Carries the problem to `exchange`, which knows the request's id and makes the document.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.kind.parts().0.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<TokenRefusal> for Problem {
    fn from(refusal: TokenRefusal) -> Self {
        Self::new(Kind::Unauthorized, refusal.to_string())
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(_)
            | StoreError::Busy(_)
            | StoreError::ReadOnly(_)
            | StoreError::Sessions(_)
            | StoreError::Denied(_)
            | StoreError::NotMigrated(_) => {
                tracing::debug!(error = error_chain(&error), "the database did not answer a request");
                Self::unavailable()
            }
            StoreError::Refused(_) | StoreError::Schema(_) | StoreError::Unsafe(_) | StoreError::Address(..) => {
                tracing::error!(error = error_chain(&error), "the database refused a request");
                Self::internal()
            }
        }
    }
}

impl From<RecoverError> for Problem {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Store(error) => error.into(),
            RecoverError::UnknownWebhook | RecoverError::UnknownDelivery => Self::not_found(),
            RecoverError::Off => Self::inactive(None),
            RecoverError::Disabled(reason) => Self::inactive(Some(&reason)),
            RecoverError::EventDropped => {
                Self::new(Kind::EventDropped, "the delivery's event is no longer kept; it cannot be sent again")
            }
        }
    }
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        tracing::error!(error = error_chain(&error), "a secret cannot be decrypted");
        Self::internal()
    }
}
