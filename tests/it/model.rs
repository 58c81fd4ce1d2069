//! Looks for sequences of events after which a delivery is lost, doubled or stuck: random ones over the real store, each
//! compared with a simple model after every step. Whatever happened, with healthy workers every delivery ends.
//!
//! A failure is shrunk and told in words. `PROPTEST_RNG_SEED` repeats a run, `PROPTEST_CASES` makes it longer; seeds are
//! kept nowhere: what is found becomes a test of its own.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use penr_webhooks::config::Settings;
use penr_webhooks::store::Store;
use proptest::sample::select;
use proptest::strategy::{BoxedStrategy, Just, Strategy as _, Union};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use proptest_state_machine::ReferenceStateMachine;
use tokio_postgres::Client;

use crate::support::*;

mod reference;
mod step;
mod store;
mod world;

use reference::Model;
use step::{Answer, Event, Fate, Pair, Step, Webhook, Worker};
use store::Rig;
use world::World;

/// Cases of `make test`.
const CASES: u32 = 24;
/// Steps of one case.
const STEPS: std::ops::Range<usize> = 20..60;
/// The most steps that healthy workers may take after a case until every delivery has ended. They need far fewer.
const TO_THE_END: usize = 500;

struct Machine;

impl ReferenceStateMachine for Machine {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::new()).boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Step> {
        let kinds = model.possible().into_iter().map(|(weight, steps)| (weight, select(steps)));
        Union::new_weighted(kinds.collect()).boxed()
    }

    fn apply(mut model: Model, step: &Step) -> Model {
        model.apply(*step);
        model
    }

    fn preconditions(model: &Model, step: &Step) -> bool {
        model.possible().iter().any(|(_, steps)| steps.contains(step))
    }
}

/// A database of its own.
struct Stage {
    rig: Rig,
    sql: Client,
    _site: Site,
}

impl Stage {
    async fn new() -> Self {
        let site = Site::new().await;
        // No step kills the server, so commits need not wait for the disk.
        let separator = if site.database_url().contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}options=-c%20synchronous_commit%3Doff", site.database_url());
        let key = site.settings().get("security.encryption_keys").to_owned();
        let environment = [
            ("DATABASE_URL", url),
            ("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS", key),
            ("PENR_WEBHOOKS__HEALTH__DISABLE_ATTEMPTS", "1000000".to_owned()),
            // A lease ends only in a step that makes the delivery due, never by itself.
            ("PENR_WEBHOOKS__WORKER__LEASE", "1h".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value));
        let settings = Settings::load(None, environment, |_| unreachable!("no secret is in a file")).unwrap();
        let store = Store::new(&settings.database).unwrap();
        let sql = site.another_sql().await;
        sql.batch_execute("SET synchronous_commit = off").await.unwrap();
        Self { rig: Rig { store, settings }, sql, _site: site }
    }

    /// Takes all steps, and then those of healthy workers until every delivery has ended. Fails with what happened.
    async fn run(&self, steps: &[Step], seen: impl Fn()) -> Result<(), String> {
        let (mut model, mut taken) = (Model::new(), Vec::new());
        let mut world = World::new(&self.rig, &self.sql).await.map_err(|error| format!("{error:#}"))?;
        while taken.len() < steps.len() + TO_THE_END {
            let step = match steps.get(taken.len()) {
                Some(step) => Some(*step).inspect(|_| seen()),
                None => model.healthy(),
            };
            let Some(step) = step else {
                return self.ended(&model).await.map_err(|wrong| told(&taken, steps.len(), &wrong));
            };
            taken.push(step);
            let checked = self.step(&mut world, &mut model, step).await;
            checked.map_err(|error| told(&taken, steps.len(), &format!("{error:#}")))?;
        }
        Err(told(
            &taken,
            steps.len(),
            &format!("healthy workers took {TO_THE_END} more steps, and deliveries are left"),
        ))
    }

    async fn step(&self, world: &mut World<'_>, model: &mut Model, step: Step) -> anyhow::Result<()> {
        let before = model.clone();
        model.apply(step);
        world.apply(step, &before, model).await?;
        world.check(model).await
    }

    /// Checks, when no step is left to take, that no delivery is pending and that every delivery of an acked message is
    /// delivered or closed.
    async fn ended(&self, model: &Model) -> Result<(), String> {
        if let Some(pair) = model.unended().first() {
            return Err(format!("in the end {pair} is neither delivered nor closed"));
        }
        let pending = self.sql.query("SELECT FROM pending_deliveries", &[]).await.unwrap();
        if pending.is_empty() { Ok(()) } else { Err("in the end something is pending".to_owned()) }
    }
}

/// Steps with their numbers, and what is wrong after the last one.
fn told(steps: &[Step], chosen: usize, wrong: &str) -> String {
    let mut lines: Vec<String> = steps.iter().zip(1..).map(|(step, number)| format!("{number:>3}. {step}")).collect();
    if lines.len() > chosen {
        lines.insert(chosen, "then, with healthy workers and receivers:".to_owned());
    }
    format!("\n{}\n{wrong}", lines.join("\n"))
}

fn is_possible(steps: &[Step]) -> bool {
    let mut model = Model::new();
    steps.iter().all(|step| {
        let possible = Machine::preconditions(&model, step);
        possible.then(|| model.apply(*step)).is_some()
    })
}

/// Leaves out what the failure does not need, after proptest has tried each step once.
fn shortest(mut steps: Vec<Step>, fails: impl Fn(&[Step]) -> Option<String>) -> Option<String> {
    let mut failure = fails(&steps)?;
    let mut index = steps.len();
    while index > 0 {
        index -= 1;
        let mut fewer = steps.clone();
        fewer.remove(index);
        if let Some(still) = is_possible(&fewer).then(|| fails(&fewer)).flatten() {
            (steps, failure, index) = (fewer, still, steps.len() - 1);
        }
    }
    Some(failure)
}

/// Runs at least `cases` random cases, and for at least `duration`. Returns how many. Panics with the shortest sequence of
/// steps that fails.
pub fn run_random_cases(cases: u32, duration: Duration) -> u32 {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stage = runtime.block_on(Stage::new());
    let config =
        Config { failure_persistence: None, max_shrink_iters: 2000, max_shrink_time: 120_000, ..Config::default() };
    let (mut done, mut seed) = (
        0,
        match config.rng_seed {
            RngSeed::Fixed(seed) => seed,
            RngSeed::Random => rand::random(),
        },
    );
    while done < cases || began.elapsed() < duration {
        let mut runner = TestRunner::new(Config { cases: 1, rng_seed: RngSeed::Fixed(seed), ..config.clone() });
        let case = Machine::sequential_strategy(STEPS);
        let result = runner.run(&case, |(_, steps, seen)| {
            // Tells the shrinking how far the case came.
            let count = || {
                if let Some(seen) = &seen {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            };
            runtime.block_on(stage.run(&steps, count)).map_err(TestCaseError::fail)
        });
        match result {
            Ok(()) => {}
            Err(TestError::Fail(first, (_, steps, _))) => {
                let failure = shortest(steps, |steps| runtime.block_on(stage.run(steps, || {})).err());
                let failure =
                    failure.unwrap_or_else(|| format!("it failed once, but not when it was repeated: {first}"));
                panic!("{failure}\nPROPTEST_RNG_SEED={seed} runs this case first");
            }
            Err(TestError::Abort(reason)) => panic!("{reason}"),
        }
        (done, seed) = (done + 1, seed.wrapping_add(1));
    }
    done
}

#[test]
fn whatever_happens_each_delivery_is_in_one_state_and_ends() {
    let cases = std::env::var("PROPTEST_CASES").map_or(CASES, |text| text.parse().expect("a number of cases"));
    run_random_cases(cases, Duration::ZERO);
}

#[test]
fn a_stale_claim_decides_nothing_about_a_delivery_that_began_again() {
    let (a, b) = (Worker::A, Worker::B);
    let pair = Pair(Event(1), Webhook(1));
    let steps = [
        Step::Publish(Event(1)),
        Step::Take(a, Event(1)),
        Step::Park(a, pair),
        Step::Record(a, Fate::Answered),
        // A duplicate, whose delivery worker B has parked but not recorded yet.
        Step::Publish(Event(1)),
        Step::Take(b, Event(1)),
        Step::Park(b, pair),
        Step::Claim(a, 10),
        Step::SwitchOff(Webhook(1)),
        Step::Sweep(b),
        Step::Record(b, Fate::Answered),
        Step::Claim(b, 10),
        // Worker A's claim is of the row that worker B's sweep has removed.
        Step::Attempt(a, pair, Answer::Error),
        Step::Record(a, Fate::Answered),
    ];
    assert!(is_possible(&steps));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let failure = runtime.block_on(async { Stage::new().await.run(&steps, || {}).await });
    failure.unwrap_or_else(|failure| panic!("{failure}"));
}
