//! Decides, each time a pooled connection is about to be lent, whether it may be.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use deadpool_postgres::{Hook, HookError};

use super::answers::Answers;
use super::session::Sessions;

/// Lends no connection while a pooler between us and the server makes sessions unfit.
pub(super) fn only_fit(sessions: Sessions) -> Hook {
    Hook::sync_fn(move |_, _| match sessions.backends().fault() {
        Some(fault) => Err(HookError::message(fault.to_string())),
        None => Ok(()),
    })
}

/// Lends no connection that was opened before the last renewal.
pub(super) fn not_older_than(renewed: Arc<Mutex<Instant>>) -> Hook {
    Hook::sync_fn(move |_, metrics| {
        let renewed = *renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if metrics.created < renewed { Err(HookError::message("replaced by a new one")) } else { Ok(()) }
    })
}

/// Lends no connection to a server that has fallen silent.
pub(super) fn only_answering(answers: Arc<Answers>) -> Hook {
    Hook::sync_fn(move |_, metrics| match answers.may_be_lent(metrics.created) {
        true => Ok(()),
        false => Err(HookError::message("it may lead to a server that is gone")),
    })
}
