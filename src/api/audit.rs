//! Who did what: one line in the log for each request that changes something or shows a secret, and for each that its token does
//! not permit. A line names fields and never their values.
//!
//! The line is written when every part of the request that may still change something has ended, so also if the caller hung up or
//! the time for an answer was over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::{Method, StatusCode};

use crate::ids::{AccountId, Actor, DeliveryId, WebhookId};

/// Operators name it in `log.filter`, so it does not change with the name of this file.
const TARGET: &str = "penr_webhooks::audit";

/// One request's audit line. Each clone belongs to a part of the request; the line is written when the last one is dropped.
#[derive(Debug, Clone)]
pub(super) struct Audit(Arc<Line>);

#[derive(Debug)]
struct Line {
    request_id: String,
    known: Mutex<Known>,
}

/// What is known of the request so far.
#[derive(Debug, Default)]
struct Known {
    /// `None`: the request has no line.
    begun: Option<Begun>,
    changed: Vec<&'static str>,
    stage: Stage,
    /// `None`: the caller hung up before the answer.
    status: Option<StatusCode>,
}

/// What a request with a valid token is about to do.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) action: &'static str,
    pub(super) account: AccountId,
    pub(super) actor: Option<Actor>,
    pub(super) webhook: Option<WebhookId>,
    pub(super) delivery: Option<DeliveryId>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// No change was asked for yet, or it was answered: the status says how.
    #[default]
    Quiet,
    /// It is not known whether the change was made.
    UnderWay,
    /// The change was made, whatever the caller is told.
    Done,
    /// The request was carried out before, and is answered from what was kept.
    Repeated,
}

/// The name of what a request does that has an audit line; `None` for all others.
pub(super) fn action(method: &Method, route: &str) -> Option<&'static str> {
    // The routes answer HEAD as they answer GET.
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    Some(match (method, route) {
        ("POST", "/v1/webhooks") => "create",
        ("PATCH", "/v1/webhooks/{id}") => "update",
        ("DELETE", "/v1/webhooks/{id}") => "delete",
        ("GET", "/v1/webhooks/{id}/secret") => "show_secret",
        ("POST", "/v1/webhooks/{id}/secret/regenerate") => "regenerate_secret",
        ("DELETE", "/v1/webhooks/{id}/secret/previous") => "end_previous_secret",
        ("POST", "/v1/webhooks/{id}/test") => "test",
        ("POST", "/v1/webhooks/{id}/deliveries/{delivery_id}/resend") => "resend",
        ("POST", "/v1/webhooks/{id}/recover") => "recover",
        _ => return None,
    })
}

impl Audit {
    /// Of a request of which nothing is known yet: without `begins` it has no line.
    pub(super) fn of(request_id: &str) -> Self {
        Self(Arc::new(Line { request_id: request_id.to_owned(), known: Mutex::default() }))
    }

    /// The token is valid, and the request is one that has a line.
    pub(super) fn begins(&self, begun: Begun) {
        self.0.known().begun = Some(begun);
    }

    /// Names the webhook that the request makes.
    pub(super) fn about(&self, webhook: WebhookId) {
        if let Some(begun) = &mut self.0.known().begun {
            begun.webhook = Some(webhook);
        }
    }

    /// Names the fields that the request sets.
    pub(super) fn changes(&self, fields: Vec<&'static str>) {
        self.0.known().changed = fields;
    }

    /// From now on it is not known whether the change was made.
    pub(super) fn change_begins(&self) {
        self.0.known().stage = Stage::UnderWay;
    }

    /// The database has said whether the change was made, and the answer will tell.
    pub(super) fn change_is_answered(&self) {
        self.0.known().stage = Stage::Quiet;
    }

    /// The change was made, whether the caller still waits or not.
    pub(super) fn change_is_done(&self) {
        self.0.known().stage = Stage::Done;
    }

    /// The request was carried out before: nothing was changed.
    pub(super) fn repeats(&self) {
        self.0.known().stage = Stage::Repeated;
    }

    /// The caller gets this status.
    pub(super) fn answered(&self, status: StatusCode) {
        self.0.known().status = Some(status);
    }
}

impl Line {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let known = self.known();
        let (Some(begun), Some(result)) = (&known.begun, result(known.status, known.stage)) else { return };
        // The ids of accounts and actors are quoted in a log of text: they may have blanks.
        tracing::info!(
            target: TARGET,
            action = begun.action,
            result,
            account_id = begun.account.as_str(),
            actor = begun.actor.as_ref().map(Actor::as_str),
            webhook_id = begun.webhook.map(tracing::field::display),
            delivery_id = begun.delivery.map(|delivery| tracing::field::display(delivery.0)),
            changed = (!known.changed.is_empty()).then(|| known.changed.join(",")),
            status = known.status.map(|status| status.as_u16()),
            request_id = self.request_id,
            "audit"
        );
    }
}

/// What came of a request; `None` if it was refused for another reason than its token, so that nothing happened.
fn result(status: Option<StatusCode>, stage: Stage) -> Option<&'static str> {
    match (status, stage) {
        (Some(StatusCode::FORBIDDEN), _) => Some("refused"),
        (Some(status), Stage::Repeated) if status.is_success() => Some("repeated"),
        (Some(status), _) if status.is_success() => Some("done"),
        (_, Stage::Done) => Some("done"),
        (_, Stage::UnderWay) => Some("unknown"),
        (_, Stage::Quiet | Stage::Repeated) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_refused_for_another_reason_than_its_token_has_no_line() {
        let of = |status: u16, stage| result(Some(StatusCode::from_u16(status).unwrap()), stage);
        assert_eq!([of(201, Stage::Quiet), of(204, Stage::Done)], [Some("done"); 2]);
        assert_eq!(of(201, Stage::Repeated), Some("repeated"));
        assert_eq!(of(403, Stage::Quiet), Some("refused"));
        for status in [400, 401, 404, 409, 412, 422, 429, 500, 503] {
            assert_eq!(of(status, Stage::Quiet), None, "{status}");
        }
        // A kept answer that cannot be decrypted, and a request without a key beside it.
        assert_eq!([of(500, Stage::Repeated), of(500, Stage::UnderWay)], [None, Some("unknown")]);
        assert_eq!([of(503, Stage::UnderWay), result(None, Stage::UnderWay)], [Some("unknown"); 2]);
        assert_eq!([of(503, Stage::Done), result(None, Stage::Done)], [Some("done"); 2]);
        assert_eq!(result(None, Stage::Quiet), None);
    }
}
