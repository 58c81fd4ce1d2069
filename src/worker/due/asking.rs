//! Asks for grants beside the claims: webhooks without a pace do not wait for them.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::store::{PaceAsk, Room};
use crate::worker::attempts::Attempts;
use crate::worker::grants::Grants;
use crate::worker::pacing::GRANT_LASTS;

/// The longest wait for grants: the rest of the time that they last is for the claim.
const PATIENCE: Duration = GRANT_LASTS.saturating_sub(Duration::from_millis(50));

/// What was asked for, one statement at a time.
pub(super) struct Asking {
    asks: mpsc::Sender<Vec<PaceAsk>>,
    answers: mpsc::Receiver<Grants>,
    /// The rooms that are asked for now.
    rooms: Option<Vec<Room>>,
    answer: Option<Grants>,
}

/// The other end of [`Asking`].
pub(super) struct Asked {
    asks: mpsc::Receiver<Vec<PaceAsk>>,
    answers: mpsc::Sender<Grants>,
}

impl Asking {
    pub(super) fn new() -> (Self, Asked) {
        let ((asks, asked), (answer, answers)) = (mpsc::channel(1), mpsc::channel(1));
        (Self { asks, answers, rooms: None, answer: None }, Asked { asks: asked, answers: answer })
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.rooms.is_some()
    }

    /// Asks for the grants of rooms. Nothing must be under way.
    pub(super) fn ask(&mut self, rooms: Vec<Room>) {
        let ask = |room: &Room| PaceAsk { webhook: room.webhook, wanted: room.most, due_since: Some(room.since) };
        if self.asks.try_send(rooms.iter().map(ask).collect()).is_ok() {
            self.rooms = Some(rooms);
        }
    }

    /// Waits for the answer to what is under way.
    pub(super) async fn answered(&mut self) {
        if self.answer.is_none() {
            match self.answers.recv().await {
                Some(grants) => self.answer = Some(grants),
                None => std::future::pending().await,
            }
        }
    }

    /// What was asked for and the answer, if there is one.
    pub(super) fn take_answer(&mut self) -> Option<(Vec<Room>, Grants)> {
        let grants = self.answer.take().or_else(|| self.answers.try_recv().ok())?;
        Some((self.rooms.take()?, grants))
    }
}

impl Asked {
    /// Answers everything that is asked. After a failure the next statement waits a little, longer each time.
    pub(super) async fn answer_all(mut self, attempts: &Attempts) {
        let mut stall = attempts.stalls.wait_apart();
        while let Some(asks) = self.asks.recv().await {
            let mut grants = attempts.take_grants(&asks, PATIENCE).await;
            let error = grants.error.take();
            if self.answers.send(grants).await.is_err() {
                return;
            }
            match error {
                Some(error) => stall.after("cannot take grants for webhooks that have a pace", &error).await,
                None => stall.over(),
            }
        }
    }
}
