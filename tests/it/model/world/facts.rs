//! Compares the model with the tables and with what workers have in hand. Each side becomes a list of sentences; the two
//! lists must be the same.

use penr_webhooks::delivery::{ClosedReason, Trigger};
use penr_webhooks::ids::DeliveryId;
use uuid::Uuid;

use super::{RealTurn, World};
use crate::model::reference::{Kept, Model, State, Turn};
use crate::model::step::{Pair, Webhook, Worker};

impl World<'_> {
    pub async fn check(&self, model: &Model) -> anyhow::Result<()> {
        let (mut expected, mut found) = (said_by(model), self.stored().await?);
        for (worker, hand) in &self.workers {
            found.extend(hand.turns.iter().map(|turn| {
                let RealTurn { pair, delivery, ending, .. } = turn;
                in_hand(*worker, *pair, delivery.attempt, delivery.trigger, turn.closes(), ending.is_none())
            }));
        }
        self.check_states(model, &found)?;
        expected.sort();
        found.sort();
        let only = |these: &[String], those: &[String]| -> Vec<String> {
            let mut those = those.to_vec();
            let missing =
                |fact: &&String| those.iter().position(|f| f == *fact).map(|i| those.swap_remove(i)).is_none();
            these.iter().filter(missing).cloned().collect()
        };
        let (missing, surplus) = (only(&expected, &found), only(&found, &expected));
        anyhow::ensure!(
            missing.is_empty() && surplus.is_empty(),
            "the model says: {}\nthe store says: {}",
            missing.join("; "),
            surplus.join("; ")
        );
        Ok(())
    }

    /// Checks what must hold in every state, whatever the model says.
    fn check_states(&self, model: &Model, found: &[String]) -> anyhow::Result<()> {
        let has = |pair: &Pair, what: &str| found.iter().any(|fact| fact.starts_with(&format!("{pair} {what}")));
        for pair in self.names.values() {
            let begun = model.deliveries.get(pair).map_or(0, |delivery| delivery.begun);
            let both = has(pair, "is pending") && has(pair, "is closed");
            anyhow::ensure!(!both || begun > 1, "{pair} is pending and closed");
        }
        for message in model.acked() {
            for pair in &message.owed {
                anyhow::ensure!(has(pair, ""), "nothing is left of {pair}, whose message was acked");
            }
        }
        Ok(())
    }

    async fn stored(&self) -> anyhow::Result<Vec<String>> {
        let (webhooks, events, pending, closed, log) = tokio::try_join!(
            self.sql.query("SELECT id, active, disabled_reason, activation FROM webhooks", &[]),
            self.sql.query("SELECT DISTINCT event_id FROM events", &[]),
            self.sql.query(
                "SELECT id, attempts_made, trigger, activation, due_at <= now() AS due FROM pending_deliveries",
                &[]
            ),
            self.sql.query("SELECT id, reason, attempts_made FROM closed_deliveries", &[]),
            self.sql.query("SELECT delivery_id, attempt, trigger, http_status, error FROM attempts", &[]),
        )?;
        let pair = |id| self.names[&DeliveryId(id)];
        let mut facts = Vec::new();
        for row in webhooks {
            let webhook = Webhook(row.get::<_, Uuid>("id").as_u128() as u8);
            let state = match (row.get("active"), row.get::<_, Option<&str>>("disabled_reason")) {
                (true, _) => State::On,
                (false, Some(_)) => State::Disabled,
                (false, None) => State::Off,
            };
            facts.push(registered(webhook, state, row.get("activation")));
        }
        facts.extend(events.iter().map(|row| row.get::<_, String>("event_id").replace("evt_", "stored: event ")));
        facts.extend(pending.iter().map(|row| {
            let (trigger, due) = (row.get("trigger"), row.get("due"));
            is_pending(pair(row.get("id")), row.get("attempts_made"), trigger, row.get("activation"), due)
        }));
        facts.extend(
            closed.iter().map(|row| is_closed(pair(row.get("id")), row.get("reason"), row.get("attempts_made"))),
        );
        facts.extend(log.iter().map(|row| {
            let status: Option<i32> = row.get("http_status");
            let answer = status.map_or_else(|| row.get("error"), |status| status.to_string());
            was_attempted(pair(row.get("delivery_id")), row.get("attempt"), row.get("trigger"), &answer)
        }));
        Ok(facts)
    }
}

fn said_by(model: &Model) -> Vec<String> {
    let number = |count: u32| i32::try_from(count).unwrap();
    let mut facts = Vec::new();
    for (webhook, now) in model.webhooks.iter().filter(|(_, now)| now.state != State::Deleted) {
        facts.push(registered(*webhook, now.state, now.activation));
    }
    let stored = model.events.iter().filter(|(_, kept)| **kept == Kept::Stored);
    facts.extend(stored.map(|(event, _)| format!("stored: {event}")));
    for (pair, delivery) in &model.deliveries {
        if let Some(p) = &delivery.pending {
            facts.push(is_pending(*pair, number(p.attempts_made), p.trigger.as_str(), p.activation, p.due.is_some()));
        }
        if let Some(closed) = &delivery.closed {
            facts.push(is_closed(*pair, closed.reason.as_str(), number(closed.attempts_made)));
        }
        for logged in &delivery.log {
            facts.push(was_attempted(
                *pair,
                number(logged.attempt),
                logged.trigger.as_str(),
                &logged.answer.to_string(),
            ));
        }
    }
    for (worker, hand) in &model.hands {
        let held = |turn: &Turn| in_hand(*worker, turn.pair, turn.attempt, turn.trigger, turn.closes, turn.is_open());
        facts.extend(hand.turns.iter().map(held));
    }
    facts
}

fn registered(webhook: Webhook, state: State, activation: i32) -> String {
    format!("{webhook} is {state:?} with activation {activation}")
}

fn is_pending(pair: Pair, made: i32, trigger: &str, activation: i32, due: bool) -> String {
    let due = if due { "due" } else { "not due" };
    format!("{pair} is pending, {due}, after {made} attempts, next a {trigger}, of activation {activation}")
}

fn is_closed(pair: Pair, reason: &str, made: i32) -> String {
    format!("{pair} is closed as {reason} after {made} attempts")
}

fn was_attempted(pair: Pair, number: i32, trigger: &str, answer: &str) -> String {
    format!("{pair} had attempt {number}, a {trigger}: {answer}")
}

fn in_hand(
    worker: Worker,
    pair: Pair,
    attempt: u32,
    trigger: Trigger,
    closes: Option<ClosedReason>,
    open: bool,
) -> String {
    let state = if open { "in hand" } else { "ended" };
    let fate = closes
        .map_or_else(|| format!("attempt {attempt}, a {}", trigger.as_str()), |r| format!("to be {}", r.as_str()));
    format!("{worker} has {pair} {state}: {fate}")
}
