//! Wraps every request: gives it an id and a time limit, sets the security headers of its answer, logs and counts it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::audit::Audit;
use super::auth::AccountSeen;
use super::counted::{UNKNOWN, class};
use super::problem::Problem;
use super::{Api, test_sends};
use crate::ids::AccountId;
use crate::metrics::{ApiRequest, ApiRoute};
use crate::millis;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_URI_BYTES: usize = 8 * 1024;
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Answers a path that no route has.
pub(super) async fn nothing_here(method: Method) -> Response {
    const METHODS: [Method; 6] =
        [Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS];
    match METHODS.contains(&method) {
        true => Problem::not_found().into_response(),
        // For example CONNECT, whose target is no path.
        false => Problem::method_not_allowed().into_response(),
    }
}

/// The middleware around all routes.
pub(super) async fn observe(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or(UNKNOWN, MatchedPath::as_str).to_owned();
    let account = AccountSeen(Arc::new(OnceLock::new()));
    request.extensions_mut().insert(account.clone());
    let audit = Audit::of(&request_id);
    request.extensions_mut().insert(audit.clone());
    let limit = if route == test_sends::PATH { api.test_timeout } else { api.settings.limits.request_timeout };
    let mut response = answer(request, next, limit).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = problem.render(&request_id);
        if response.status() == axum::http::StatusCode::METHOD_NOT_ALLOWED && route == UNKNOWN {
            let methods = HeaderValue::from_static("GET, HEAD, POST, PATCH, DELETE");
            response.headers_mut().insert(header::ALLOW, methods);
        }
    }
    finish(response.headers_mut(), &request_id);
    let (status, duration) = (response.status(), started.elapsed());
    audit.answered(status);
    // The log has neither path nor query: callers may have put a secret there.
    tracing::info!(
        request_id,
        method = method_label(&method),
        route,
        status = status.as_u16(),
        duration_ms = millis(duration),
        // Quoted in a log of text: it may have blanks.
        account = account.0.get().map(AccountId::as_str),
        "request"
    );
    let status = class(status.as_u16());
    let labels = ApiRequest { method: method_label(&method), route: route.clone(), status };
    api.metrics.api_requests.get_or_create(&labels).inc();
    api.metrics.api_request_duration.get_or_create(&ApiRoute { route }).observe(duration.as_secs_f64());
    response
}

async fn answer(request: Request, next: Next, limit: Duration) -> Response {
    if request.uri().to_string().len() > MAX_URI_BYTES {
        return Problem::uri_too_long(MAX_URI_BYTES).into_response();
    }
    let header_bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > MAX_HEADER_BYTES {
        return Problem::headers_too_large(MAX_HEADER_BYTES).into_response();
    }
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::timeout().into_response(),
    }
}

/// The caller's request id if it is safe in a log line, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = given.filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(harmless));
    sane.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// Our methods by name, all others as one: callers could invent any number of labels.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Sets the headers that every answer has. Those that the page sets itself stay.
fn finish(headers: &mut HeaderMap, request_id: &str) {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let defaults = [
        // A proxy that compresses changes the ETag; `no-transform` keeps most proxies from it.
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}
