//! Takes each step on the real store, and reads back what is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use penr_webhooks::delivery::{self, Attempt, AttemptError, ClosedReason, Delivery, EventRow, Outcome, Trigger};
use penr_webhooks::event;
use penr_webhooks::ids::{AccountId, DeliveryId, EventId, EventType, WebhookId};
use penr_webhooks::retry::RetryPolicy;
use penr_webhooks::store::{Ending, TurnResult};
use tokio_postgres::Client;
use uuid::Uuid;

use super::reference::{ATTEMPTS, Model};
use super::step::{Answer, EVENTS, Event, Fate, Pair, Step, WEBHOOKS, WORKERS, Webhook, Worker};
use super::store::{Rig, Search};

mod facts;

const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";

/// One case's workers, and the tables that they share.
pub struct World<'a> {
    rig: &'a Rig,
    sql: &'a Client,
    workers: BTreeMap<Worker, RealHand>,
    names: HashMap<DeliveryId, Pair>,
}

#[derive(Default)]
struct RealHand {
    search: Search,
    turns: Vec<RealTurn>,
    unsure: Vec<TurnResult>,
}

struct RealTurn {
    pair: Pair,
    delivery: Delivery,
    claim: Option<i64>,
    ending: Option<Ending>,
}

fn webhook_id(webhook: Webhook) -> WebhookId {
    WebhookId(Uuid::from_u128(webhook.0.into()))
}

fn event_id(event: Event) -> EventId {
    EventId::parse(&format!("evt_{}", event.0)).unwrap()
}

fn id(Pair(event, webhook): Pair) -> DeliveryId {
    DeliveryId::of(webhook_id(webhook), &event_id(event))
}

impl<'a> World<'a> {
    /// Empties the tables and registers the webhooks.
    pub async fn new(rig: &'a Rig, sql: &'a Client) -> anyhow::Result<Self> {
        let tables = ["webhooks", "events", "attempts", "pending_deliveries", "closed_deliveries", "notices"];
        let clear: String = tables.iter().map(|table| format!("DELETE FROM {table};")).collect();
        sql.batch_execute(&clear).await?;
        for webhook in WEBHOOKS {
            let register = "INSERT INTO webhooks (id, account_id, name, url, event_types, secret)
                            VALUES ($1, $2, 'a webhook', 'https://example.com/', ARRAY[$3], '')";
            // Nothing is sent, so the empty secret is never decrypted.
            sql.execute(register, &[&webhook_id(webhook).0, &ACCOUNT, &TYPE]).await?;
        }
        let pairs = EVENTS.into_iter().flat_map(|event| WEBHOOKS.map(|webhook| Pair(event, webhook)));
        let names = pairs.map(|pair| (id(pair), pair)).collect();
        let workers = WORKERS.map(|worker| (worker, RealHand::default())).into();
        Ok(Self { rig, sql, workers, names })
    }

    /// `before` and `after` are what the model says, to be compared with what the store answers.
    pub async fn apply(&mut self, step: Step, before: &Model, after: &Model) -> anyhow::Result<()> {
        let rig = self.rig;
        match step {
            Step::Publish(_) => {}
            Step::Take(worker, event) => self.take(worker, event, before).await?,
            Step::Attempt(worker, pair, answer) => {
                let turn = self.turn(worker, pair, |turn| turn.closes().is_none())?;
                turn.ending = Some(attempt(turn.delivery.attempt, answer));
            }
            Step::Park(worker, pair) => {
                let turn = self.turn(worker, pair, |turn| turn.closes().is_none() && turn.claim.is_none())?;
                turn.ending = Some(Ending::Parked);
            }
            Step::Close(worker, pair) => {
                let turn = self.turn(worker, pair, |turn| turn.closes().is_some())?;
                turn.ending = turn.closes().map(Ending::ClosedUnattempted);
            }
            Step::LookAgain(worker, pair) => {
                rig.look_again(&mut self.turn(worker, pair, |_| true)?.delivery).await?;
            }
            Step::Record(worker, fate) => self.record(worker, fate).await?,
            Step::Ask(worker) => self.ask(worker, before).await?,
            Step::Claim(worker, room) => self.claim(worker, room).await?,
            Step::Sweep(worker) => rig.sweep(&mut self.hand(worker).search).await?,
            Step::Release(worker, pair) => {
                let turns = &mut self.hand(worker).turns;
                let claimed = |turn: &RealTurn| turn.pair == pair && turn.claim.is_some() && turn.ending.is_none();
                let index = turns.iter().position(claimed);
                let turn = index.map(|index| turns.remove(index));
                let claim = turn.and_then(|turn| turn.claim).ok_or_else(|| anyhow::anyhow!("{pair} is not claimed"))?;
                rig.release(id(pair), claim).await?;
            }
            Step::FallsDue(pair) => self.set_due(&[pair], 0).await?,
            Step::FallsDueUnseen(pair) => self.set_due(&[pair], after.moment * 600).await?,
            Step::Crash(worker) => {
                *self.hand(worker) = RealHand::default();
                rig.sweep(&mut self.hand(worker).search).await?;
            }
            Step::LoseChannel(worker) => {
                self.hand(worker).turns.retain(|turn| turn.claim.is_some() || turn.ending.is_some());
            }
            Step::SwitchOff(webhook) => rig.switch(webhook_id(webhook), false).await?,
            Step::SwitchOn(webhook) => rig.switch(webhook_id(webhook), true).await?,
            Step::Delete(webhook) => rig.delete(webhook_id(webhook)).await?,
            Step::Resend(pair) => {
                let (resent, expected) = (rig.resend(webhook_id(pair.1), id(pair)).await?, before.resent(pair));
                anyhow::ensure!(resent == expected, "resending answers {resent:?}, not {expected:?}");
            }
            Step::Recover(webhook) => {
                let recovered = rig.recover(webhook_id(webhook)).await?;
                let expected = before.recoverable(webhook).map(|pairs| (pairs.len() as u64, pairs.len() as u64));
                anyhow::ensure!(recovered == expected, "recovering answers {recovered:?}, not {expected:?}");
            }
            Step::Erase(event) => self.erase(event).await?,
            Step::Retention(event) => self.expire(event).await?,
        }
        self.break_ties(before, after).await
    }

    async fn take(&mut self, worker: Worker, event: Event, before: &Model) -> anyhow::Result<()> {
        let (account_id, event_type) = (AccountId::parse(ACCOUNT).unwrap(), EventType::parse(TYPE).unwrap());
        let (mut webhooks, day) = self.rig.lookup(&account_id, &event_type).await?;
        let event = event::Event { id: event_id(event), event_type, account_id, body: b"{}"[..].into(), trace: None };
        let message = before.waiting(Event(event.id.as_str()[4..].parse()?)).expect("it waits");
        if before.is_redelivered(message) && !webhooks.is_empty() {
            let deliveries: Vec<_> = webhooks.iter().map(|webhook| DeliveryId::of(webhook.id, &event.id)).collect();
            let taken = self.rig.already_taken(&deliveries).await?;
            webhooks.retain(|webhook| !taken.contains(&DeliveryId::of(webhook.id, &event.id)));
        }
        let Some(day) = day else { return Ok(()) };
        webhooks.sort_by_key(|webhook| webhook.id);
        let row = Arc::new(EventRow::new(event, day, Uuid::now_v7()));
        for webhook in webhooks {
            let id = DeliveryId::of(webhook.id, &row.event.id);
            let delivery = Delivery { id, row: row.clone(), webhook, trigger: Trigger::Event, attempt: 1 };
            let turn = RealTurn { pair: self.names[&id], delivery, claim: None, ending: None };
            self.hand(worker).turns.push(turn);
        }
        Ok(())
    }

    async fn record(&mut self, worker: Worker, fate: Fate) -> anyhow::Result<()> {
        let (mut batch, mut pairs, mut rest) = (Vec::new(), BTreeSet::new(), Vec::new());
        for mut turn in std::mem::take(&mut self.hand(worker).turns) {
            match turn.ending.take() {
                Some(ending) if pairs.insert(turn.pair) => {
                    batch.push(TurnResult { delivery: turn.delivery, claim: turn.claim, ending, received: None });
                }
                ending => rest.push(RealTurn { ending, ..turn }),
            }
        }
        self.hand(worker).turns = rest;
        if fate != Fate::Lost {
            self.rig.record(&batch).await?;
        }
        if fate != Fate::Answered {
            self.hand(worker).unsure = batch;
        }
        Ok(())
    }

    async fn ask(&mut self, worker: Worker, before: &Model) -> anyhow::Result<()> {
        let batch = std::mem::take(&mut self.hand(worker).unsure);
        let (recorded, expected) = (self.rig.is_recorded(&batch).await?, before.finds_recorded(worker));
        anyhow::ensure!(recorded == expected, "the store says {recorded} when asked whether the batch is recorded");
        if !recorded {
            self.rig.record(&batch).await?;
        }
        Ok(())
    }

    async fn claim(&mut self, worker: Worker, room: usize) -> anyhow::Result<()> {
        let rig = self.rig;
        for (delivery, claim) in rig.claim(&mut self.hand(worker).search, room).await? {
            let turn = RealTurn { pair: self.names[&delivery.id], delivery, claim: Some(claim), ending: None };
            self.hand(worker).turns.push(turn);
        }
        self.hand(worker).turns.sort_by_key(|turn| turn.pair);
        Ok(())
    }

    /// Makes deliveries due in this order, a microsecond apart, from `seconds_ago` on.
    async fn set_due(&self, pairs: &[Pair], seconds_ago: i64) -> anyhow::Result<()> {
        let ids: Vec<Uuid> = pairs.iter().map(|pair| id(*pair).0).collect();
        let sql = "UPDATE pending_deliveries p
                   SET due_at = now() - make_interval(secs => $2::bigint) + n * interval '1 microsecond'
                   FROM unnest($1::uuid[]) WITH ORDINALITY AS d (id, n) WHERE p.id = d.id";
        self.sql.execute(sql, &[&ids, &seconds_ago]).await?;
        Ok(())
    }

    /// Gives deliveries that fell due in one step due times in the model's order. With equal ones, the store could claim any of
    /// them first.
    async fn break_ties(&self, before: &Model, after: &Model) -> anyhow::Result<()> {
        let due = |model: &Model, pair: &Pair| model.deliveries.get(pair)?.pending.as_ref()?.due;
        let mut new = after.due();
        new.retain(|pair| due(before, pair) != due(after, pair));
        if new.len() > 1 { self.set_due(&new, 0).await } else { Ok(()) }
    }

    async fn erase(&self, event: Event) -> anyhow::Result<()> {
        self.sql.execute("DELETE FROM events WHERE event_id = $1", &[&event_id(event).as_str()]).await?;
        Ok(())
    }

    /// As when the partition of the event's day is dropped: the event and its closed deliveries are gone, and its rows of the
    /// log name a day without a partition.
    async fn expire(&self, event: Event) -> anyhow::Result<()> {
        self.erase(event).await?;
        let log = "UPDATE attempts SET event_day = '2000-01-01' WHERE event_id = $1";
        self.sql.execute(log, &[&event_id(event).as_str()]).await?;
        let ids = WEBHOOKS.map(|webhook| id(Pair(event, webhook)).0).to_vec();
        self.sql.execute("DELETE FROM closed_deliveries WHERE id = ANY ($1)", &[&ids]).await?;
        Ok(())
    }

    fn hand(&mut self, worker: Worker) -> &mut RealHand {
        self.workers.get_mut(&worker).expect("all are there")
    }

    /// The first turn of this delivery that has not ended and for which `may` holds.
    fn turn(&mut self, worker: Worker, pair: Pair, may: fn(&RealTurn) -> bool) -> anyhow::Result<&mut RealTurn> {
        let mut turns = self.hand(worker).turns.iter_mut();
        let turn = turns.find(|turn| turn.pair == pair && turn.ending.is_none() && may(turn));
        turn.ok_or_else(|| anyhow::anyhow!("{worker} has no such {pair} in hand"))
    }
}

impl RealTurn {
    fn closes(&self) -> Option<ClosedReason> {
        ClosedReason::of(self.delivery.webhook.state.standing())
    }
}

/// An attempt with this answer, and the next step as the worker's policy decides it.
fn attempt(number: u32, answer: Answer) -> Ending {
    let answered = |status| Outcome::Answered(delivery::Answer { status, ..delivery::Answer::default() });
    let outcome = match answer {
        Answer::Ok => answered(200),
        Answer::Error => answered(500),
        Answer::Gone => answered(410),
        Answer::Internal => Outcome::Failed(AttemptError::Internal),
    };
    let hour = Duration::from_secs(3600);
    let schedule = vec![hour; ATTEMPTS as usize - 1];
    let policy = RetryPolicy { schedule, jitter: 0.0, max_retry_after: hour, internal_delay: hour };
    let step = policy.next_step(number, &outcome, 0.5);
    let (duration, started, paused_until) = (Duration::ZERO, Instant::now(), None);
    let attempt = Attempt { id: Uuid::now_v7(), outcome, duration, started, paused_until, signed_at: 0, trace: None };
    Ending::Attempted(attempt, step)
}
