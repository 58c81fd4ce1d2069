//! Knows when the database last answered on each pooled connection.
//!
//! A server that is frozen, or whose address now leads to another server, answers on none of the connections that lead to
//! it. Each of them would cost somebody the whole time of a statement. So after one statement had no answer, connections
//! that have rested since it began are replaced by new ones. A statement that is merely slow is told from that by the
//! other connections, which go on answering.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::by_connection::ByConnection;

#[derive(Default)]
pub(super) struct Answers(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<Instant>,
    /// Of each connection the last answer.
    by_connection: ByConnection<Instant>,
    /// When the newest statement began that no connection answered.
    silent_since: Option<Instant>,
}

impl Answers {
    /// The database has answered on the connection that was opened then.
    pub(super) fn note(&self, opened: Instant) {
        let (mut state, now) = (self.lock(), Instant::now());
        state.last = Some(now);
        state.by_connection.note(opened, now);
    }

    /// The last answer on any connection.
    pub(super) fn last(&self) -> Option<Instant> {
        self.lock().last
    }

    /// The last answer on any connection that was open at the time.
    pub(super) fn last_of_those_open_at(&self, time: Instant) -> Option<Instant> {
        self.lock().by_connection.all().filter(|(opened, _)| *opened <= time).map(|(_, at)| *at).max()
    }

    /// A statement that began then was given up without an answer. Returns whether the server counts as silent since: it
    /// does not if it has answered meanwhile on another connection that was open at the time.
    pub(super) fn note_silence(&self, began: Instant) -> bool {
        let mut state = self.lock();
        let heard = state.by_connection.all().any(|(opened, at)| opened <= began && *at > began);
        if !heard {
            state.silent_since = state.silent_since.max(Some(began));
        }
        !heard
    }

    /// Whether the connection that was opened then is newer than the silence, or has answered since.
    pub(super) fn may_be_lent(&self, opened: Instant) -> bool {
        let state = self.lock();
        let last = state.by_connection.of(opened).copied().unwrap_or(opened);
        state.silent_since.is_none_or(|began| last >= began)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_rested_while_the_server_was_silent_is_not_lent_again() {
        let (answers, rested) = (Answers::default(), Instant::now());
        answers.note(rested);
        let began = Instant::now();
        assert!(answers.may_be_lent(rested));
        assert!(answers.note_silence(began));
        assert!(!answers.may_be_lent(rested));
        assert!(answers.may_be_lent(Instant::now()));
    }

    #[test]
    fn a_statement_that_is_merely_slow_costs_no_other_connection() {
        let (answers, rested) = (Answers::default(), Instant::now());
        let busy = Instant::now();
        answers.note(rested);
        let began = Instant::now();
        answers.note(busy);
        assert!(answers.last_of_those_open_at(began).is_some_and(|last| last >= began));
        assert!(!answers.note_silence(began));
        assert!(answers.may_be_lent(rested) && answers.may_be_lent(busy));
    }

    #[test]
    fn an_answer_of_a_new_server_is_none_of_the_silent_one() {
        let (answers, rested) = (Answers::default(), Instant::now());
        answers.note(rested);
        let began = Instant::now();
        let new = Instant::now();
        answers.note(new);
        assert!(answers.last_of_those_open_at(began).is_some_and(|last| last <= began));
        assert!(answers.note_silence(began));
        assert!(!answers.may_be_lent(rested) && answers.may_be_lent(new));
    }
}
