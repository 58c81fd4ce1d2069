//! Records when the database last answered on each pooled connection, to find a server that has fallen silent.
//!
//! A server that is frozen, or whose address now leads to another server, answers on none of the connections that lead to
//! it. A statement on any of these would wait until its time-out. So after one statement had no answer, connections without
//! an answer since it began are not lent again. If the statement was merely slow, other connections have had answers
//! meanwhile, and none is replaced.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::by_connection::ByConnection;

#[derive(Default)]
pub(super) struct Answers(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<Instant>,
    /// The time of the last answer on each connection.
    by_connection: ByConnection<Instant>,
    /// When the newest statement began that had no answer while no other connection had one either.
    silent_since: Option<Instant>,
}

impl Answers {
    /// Notes an answer on the connection that was opened at this time.
    pub(super) fn note(&self, opened: Instant) {
        let (mut state, now) = (self.lock(), Instant::now());
        state.last = Some(now);
        state.by_connection.note(opened, now);
    }

    /// The time of the last answer on any connection.
    pub(super) fn last(&self) -> Option<Instant> {
        self.lock().last
    }

    /// The time of the last answer on any connection that was open at `time`.
    pub(super) fn last_of_those_open_at(&self, time: Instant) -> Option<Instant> {
        self.lock().by_connection.all().filter(|(opened, _)| *opened <= time).map(|(_, at)| *at).max()
    }

    /// Notes that a statement that began at this time was given up without an answer. Returns whether the server counts as
    /// silent since then: not if another connection that was open at that time has had an answer.
    pub(super) fn note_silence(&self, began: Instant) -> bool {
        let mut state = self.lock();
        let answered = state.by_connection.all().any(|(opened, at)| opened <= began && *at > began);
        if !answered {
            state.silent_since = state.silent_since.max(Some(began));
        }
        !answered
    }

    /// Whether the connection opened at this time was opened, or had an answer, after the server fell silent.
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
