//! Shows dead letters, sends them again, removes them. Safe to interrupt: at worst a message was sent twice.

use clap::Subcommand;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Failure, Outcome, output};
use crate::config::Settings;
use crate::event::EventParser;
use crate::queue::{DeadLetter, DeadLetters, Headers, PublishError, Publisher, QueueError, discard_unreadable};
use crate::text::printable;

/// Messages in hand at a time, fewer than a quorum queue takes removals in a row, and about how many bytes.
const BATCH: usize = 24;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them from the oldest on, each with the reason it would be refused for now
    List {
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Print their payload too, which may be a customer's data
        #[arg(long)]
        show: bool,
    },
    /// Send them to the workers again; one that is still no event comes back once
    Requeue(Requeued),
    /// Remove them for good
    Discard(Discarded),
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Requeued {
    /// As `list` shows it
    id: Option<String>,
    #[arg(long)]
    all: bool,
    /// All of one reason, as `list` shows it
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Discarded {
    /// As `list` shows it
    id: Option<String>,
    /// The first one that cannot be read, and no other
    #[arg(long)]
    unreadable: bool,
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool) -> Outcome {
    settings.amqp_url()?;
    crate::queue::check_address(&settings.amqp)?;
    match command {
        Command::List { limit, show } => list(settings, limit, show, json).await,
        Command::Requeue(Requeued { id, reason, .. }) => {
            let selection = match (id, reason) {
                (Some(id), _) => Selection::Id(id),
                (None, Some(reason)) => Selection::Reason(reason),
                (None, None) => Selection::All,
            };
            let publisher = Publisher::connect(&settings.amqp, &settings.queue).await?;
            Pass::new(settings, selection, Fate::Requeued(Box::new(publisher))).run(json).await
        }
        Command::Discard(Discarded { id: Some(id), .. }) => {
            Pass::new(settings, Selection::Id(id), Fate::Discarded).run(json).await
        }
        Command::Discard(Discarded { id: None, .. }) => discard_the_unreadable(settings, json).await,
    }
}

/// What is shown of a dead letter.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) reason: String,
    /// The reason in words, where it is ours.
    pub(super) detail: Option<String>,
    /// When it became a dead letter.
    pub(super) time: Option<Timestamp>,
    pub(super) id: Option<String>,
    #[serde(rename = "type")]
    pub(super) event_type: Option<String>,
    /// Bytes of its body.
    pub(super) size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload: Option<String>,
}

impl Row {
    fn of(letter: &DeadLetter, parser: &EventParser) -> Self {
        let malformed = parser.parse(&letter.body, &letter.properties, Timestamp::now()).err();
        let broker_reason = || letter.broker_reason.clone().unwrap_or_else(|| "unknown".to_owned());
        let named = Named::of(letter);
        let seconds = letter.died_at.and_then(|seconds| i64::try_from(seconds).ok());
        Self {
            reason: malformed.as_ref().map_or_else(broker_reason, |malformed| malformed.reason().to_owned()),
            detail: malformed.map(|malformed| malformed.to_string()),
            time: seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()),
            id: Some(named.id),
            event_type: Some(named.event_type),
            size: Some(letter.body.len()),
            payload: None,
        }
    }

    fn showing(self, letter: &DeadLetter) -> Self {
        Self { payload: Some(String::from_utf8_lossy(&letter.body).into_owned()), ..self }
    }

    /// Stands for the one that cannot be read and hides what is behind it.
    fn unreadable() -> Self {
        let detail = Some("its properties cannot be read, nor what stands behind it".to_owned());
        let (time, id, event_type, size, payload) = (None, None, None, None, None);
        Self { reason: "unreadable".to_owned(), detail, time, id, event_type, size, payload }
    }
}

/// What a dead letter goes by: what its body says if it says anything, else what its properties say. One without any
/// name is named after its body's hash, so that it can be told from others.
struct Named {
    id: String,
    event_type: String,
}

impl Named {
    fn of(letter: &DeadLetter) -> Self {
        #[derive(Default, Deserialize)]
        struct Said {
            #[serde(default)]
            id: Value,
            #[serde(default, rename = "type")]
            event_type: Value,
        }
        let said: Said = serde_json::from_slice(&letter.body).unwrap_or_default();
        let text = |value: Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let message_id = || letter.properties.message_id.clone().filter(|id| !id.is_empty());
        let hash = || format!("body-{}", hex::encode(&Sha256::digest(&letter.body)[..8]));
        Self {
            id: text(said.id).or_else(message_id).unwrap_or_else(hash),
            event_type: text(said.event_type).unwrap_or_else(|| letter.routing_key.clone()),
        }
    }
}

async fn list(settings: &Settings, limit: u32, show: bool, json: bool) -> Outcome {
    let mut letters = DeadLetters::connect(&settings.amqp, &settings.queue).await?;
    letters.count().await?;
    let (mut rows, mut unreadable) = (Vec::new(), false);
    while rows.len() < limit as usize && !unreadable {
        match letters.next().await {
            Ok(Some(letter)) => {
                let row = Row::of(&letter, &settings.events);
                rows.push(if show { row.showing(&letter) } else { row });
            }
            Ok(None) => break,
            Err(QueueError::Unreadable(_)) => {
                rows.push(Row::unreadable());
                unreadable = true;
            }
            Err(error) => return Err(error.into()),
        }
    }
    // An unreadable one has closed it already, with everything back in its place.
    letters.close().await.or_else(|error| if unreadable { Ok(()) } else { Err(error) })?;
    match &rows[..] {
        rows if json => output::json(&json!({ "data": rows }))?,
        [] => output::line("there are no dead letters")?,
        rows => output::dead_letters(rows)?,
    }
    if unreadable { Err(cannot_be_read()) } else { Ok(()) }
}

fn cannot_be_read() -> Failure {
    let line =
        "a dead letter cannot be read, nor what stands behind it; `dead-letters discard --unreadable` removes it";
    Failure::Failed(anyhow::anyhow!(line))
}

async fn discard_the_unreadable(settings: &Settings, json: bool) -> Outcome {
    if !discard_unreadable(&settings.amqp, &settings.queue).await? {
        return Err(Failure::Failed(anyhow::anyhow!("there is no dead letter that cannot be read")));
    }
    if json {
        return output::json(&json!({ "discarded": 1 }));
    }
    output::line("discarded the dead letter that could not be read")
}

enum Selection {
    All,
    Id(String),
    Reason(String),
}

impl Selection {
    fn takes(&self, letter: &DeadLetter, parser: &EventParser) -> bool {
        match self {
            Self::All => true,
            Self::Id(id) => Named::of(letter).id == *id,
            Self::Reason(reason) => Row::of(letter, parser).reason == *reason,
        }
    }

    fn nothing(&self) -> String {
        match self {
            Self::All => "there are no dead letters".to_owned(),
            Self::Id(id) => format!("there is no dead letter {}", printable(id, 200)),
            Self::Reason(reason) => format!("there is no dead letter of the reason {}", printable(reason, 200)),
        }
    }
}

enum Fate {
    Requeued(Box<Publisher>),
    Discarded,
}

impl Fate {
    fn done(&self) -> &'static str {
        match self {
            Self::Requeued(_) => "requeued",
            Self::Discarded => "discarded",
        }
    }
}

/// One walk over the dead letters that are there when it begins. What comes later, such as a requeued one that is
/// still no event, stands behind them and is not looked at.
struct Pass<'a> {
    settings: &'a Settings,
    selection: Selection,
    fate: Fate,
    done: u32,
    progress: ProgressBar,
}

/// What was read in one go: those selected, and how many there were with the others.
struct Batch {
    selected: Vec<DeadLetter>,
    read: u32,
    end: End,
}

enum End {
    Full,
    Empty,
    Unreadable,
}

impl<'a> Pass<'a> {
    fn new(settings: &'a Settings, selection: Selection, fate: Fate) -> Self {
        Self { settings, selection, fate, done: 0, progress: ProgressBar::hidden() }
    }

    async fn run(mut self, json: bool) -> Outcome {
        let walked = self.walk().await;
        self.progress.finish_and_clear();
        let done = self.fate.done();
        let unreadable = match walked {
            Ok(unreadable) => unreadable,
            Err(error) if self.done == 0 => return Err(error.into()),
            Err(error) => {
                let so_far = format!("only {} were {done}", self.done);
                return Err(Failure::Failed(anyhow::Error::from(error).context(so_far)));
            }
        };
        if let Fate::Requeued(publisher) = self.fate {
            publisher.close().await;
        }
        match self.done {
            0 if unreadable => return Err(cannot_be_read()),
            0 => return Err(Failure::Failed(anyhow::anyhow!(self.selection.nothing()))),
            count if json => output::json(&json!({ done: count }))?,
            1 => output::line(format_args!("{done} 1 dead letter"))?,
            count => output::line(format_args!("{done} {count} dead letters"))?,
        }
        if unreadable { Err(cannot_be_read()) } else { Ok(()) }
    }

    /// Whether it ended at one that cannot be read.
    async fn walk(&mut self) -> Result<bool, PublishError> {
        let (amqp, queue) = (&self.settings.amqp, &self.settings.queue);
        let mut letters = DeadLetters::connect(amqp, queue).await?;
        let present = letters.count().await?;
        self.progress = output::progress(u64::from(present));
        let (mut left, mut passed_over, mut unreadable) = (present, 0, false);
        while left > 0 {
            let Batch { selected, read, end } = self.read(&mut letters, left).await?;
            if matches!(end, End::Unreadable) {
                // What we held went back with the connection: once more, only as far as can be read.
                unreadable = true;
                left = passed_over + read;
                passed_over = 0;
                letters = DeadLetters::connect_again(amqp, queue, present - self.done).await?;
                continue;
            }
            left = if matches!(end, End::Empty) { 0 } else { left - read };
            passed_over += read - u32::try_from(selected.len()).expect("no more than were read");
            if let Err(error) = self.settle(&letters, selected).await {
                // So that what was removed is, although the rest failed.
                letters.close().await.ok();
                return Err(error);
            }
        }
        letters.close().await?;
        Ok(unreadable)
    }

    async fn read(&self, letters: &mut DeadLetters, left: u32) -> Result<Batch, QueueError> {
        let (mut batch, mut bytes) = (Batch { selected: Vec::new(), read: 0, end: End::Full }, 0);
        while batch.read < left && batch.selected.len() < BATCH && bytes < BATCH_BYTES {
            match letters.next().await {
                Ok(Some(letter)) => {
                    batch.read += 1;
                    if self.selection.takes(&letter, &self.settings.events) {
                        bytes += letter.body.len();
                        batch.selected.push(letter);
                    }
                }
                Ok(None) => return Ok(Batch { end: End::Empty, ..batch }),
                Err(QueueError::Unreadable(_)) => return Ok(Batch { end: End::Unreadable, ..batch }),
                Err(error) => return Err(error),
            }
        }
        Ok(batch)
    }

    async fn settle(&mut self, letters: &DeadLetters, selected: Vec<DeadLetter>) -> Result<(), PublishError> {
        let Fate::Requeued(publisher) = &self.fate else {
            for letter in selected {
                letters.remove(&letter).await?;
                self.done += 1;
                self.progress.inc(1);
            }
            return Ok(());
        };
        let (mut unconfirmed, mut failed) = (FuturesUnordered::new(), Ok(()));
        for letter in selected {
            match publisher.send_again(&self.settings.queue.worker_queue, &letter, Headers::WithoutDeath).await {
                Ok(sent) => unconfirmed.push(async move { sent.confirmed().await.map(|()| letter) }),
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
        while let Some(confirmed) = unconfirmed.next().await {
            match confirmed {
                // Only now: losing it is worse than sending it twice.
                Ok(letter) => letters.remove(&letter).await?,
                Err(error) => {
                    failed = Err(error);
                    continue;
                }
            }
            self.done += 1;
            self.progress.inc(1);
        }
        failed
    }
}
