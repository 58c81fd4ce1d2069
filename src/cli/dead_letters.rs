//! Shows dead letters, sends them again, removes them. A signal ends it after the batch in hand; a second one, or a kill, at
//! worst sends a message twice.

use std::pin::pin;

use clap::Subcommand;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::signals::{Heard, Signals};
use super::{Failure, Outcome, broker_address, output};
use crate::config::Settings;
use crate::error_chain;
use crate::event::EventParser;
use crate::management;
use crate::queue::{
    BATCH, BATCH_BYTES, Counted, DeadLetter, DeadLetters, PublishError, Publisher, QueueError, RewriteError,
};
use crate::text::printable;

/// At least so many are looked at to find the oldest ones. Reading one takes the broker a write to its disk.
const LOOKED_AT: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the oldest, each with the reason it would be refused for now
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
    /// One of those whose properties cannot be read
    #[arg(long)]
    unreadable: bool,
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool, signals: &Signals) -> Outcome {
    broker_address(settings)?;
    match command {
        Command::List { limit, show } => list(settings, limit, show, json).await,
        Command::Requeue(Requeued { id, reason, .. }) => {
            let selection = match (id, reason) {
                (Some(id), _) => Selection::Id(id),
                (None, Some(reason)) => Selection::Reason(reason),
                (None, None) => Selection::All,
            };
            let publisher = Publisher::connect(&settings.amqp, &settings.queue).await?;
            Pass::new(settings, selection, Fate::Requeued(Box::new(publisher))).run(json, signals).await
        }
        Command::Discard(Discarded { id: Some(id), .. }) => {
            Pass::new(settings, Selection::Id(id), Fate::Discarded).run(json, signals).await
        }
        Command::Discard(Discarded { id: None, .. }) => {
            Pass::new(settings, Selection::OneUnreadable, Fate::Discarded).run(json, signals).await
        }
    }
}

/// The reason of those whose properties cannot be read.
const UNREADABLE: &str = "unreadable";

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
        let (reason, detail) = why_dead(letter, parser);
        let named = Named::of(letter);
        let seconds = letter.died_at.and_then(|seconds| i64::try_from(seconds).ok());
        Self {
            reason,
            detail,
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

    /// What rows are listed by: the oldest first, those without a time last.
    fn place(&self) -> impl Ord + use<> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        (self.time.is_none(), self.time, text(&self.id), self.reason.clone(), self.size, text(&self.event_type))
    }
}

/// The reason it would be refused for now, or was, and that in words, where it is ours.
fn why_dead(letter: &DeadLetter, parser: &EventParser) -> (String, Option<String>) {
    if letter.unreadable {
        return (UNREADABLE.to_owned(), Some("the properties of its message cannot be read".to_owned()));
    }
    match parser.parse(&letter.body, &letter.properties, Timestamp::now()) {
        Err(malformed) => (malformed.reason().to_owned(), Some(malformed.to_string())),
        Ok(_) => (letter.broker_reason.clone().unwrap_or_else(|| "unknown".to_owned()), None),
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
    let mut letters = connect(settings).await?;
    let total = letters.count().await?;
    let mut oldest = Oldest { limit: limit as usize, rows: Vec::new() };
    let mut read = 0;
    while read < total.min(LOOKED_AT.max(limit)) {
        let Some(letter) = letters.next().await? else { break };
        read += 1;
        let row = Row::of(&letter, &settings.events);
        oldest.add(if show { row.showing(&letter) } else { row });
        letters.give_back(letter).await?;
    }
    let counted = letters.close().await?;
    if read == 0 && counted.is_some() {
        return tell(counted);
    }
    let rows = oldest.rows();
    let hidden = (total as usize).saturating_sub(rows.len());
    if json {
        output::json(&json!({ "data": rows, "total": total, "hidden": hidden }))?;
    } else if rows.is_empty() && total == 0 {
        output::line("there are no dead letters")?;
    } else {
        output::dead_letters(&rows)?;
        output::line(shown_of(rows.len(), total, read))?;
    }
    if rows.iter().any(|row| row.reason == UNREADABLE) {
        output::complaint(format_args!("note: {DISCARD_UNREADABLE}"));
    }
    tell(counted)
}

/// The first rows of those that came, by their place.
struct Oldest {
    limit: usize,
    rows: Vec<Row>,
}

impl Oldest {
    fn add(&mut self, row: Row) {
        self.rows.push(row);
        // Now and then, so that they are sorted a few times only.
        if self.rows.len() >= 2 * self.limit.max(1000) {
            self.cut();
        }
    }

    fn rows(mut self) -> Vec<Row> {
        self.cut();
        self.rows
    }

    fn cut(&mut self) {
        self.rows.sort_by_cached_key(Row::place);
        self.rows.truncate(self.limit);
    }
}

/// How many there are, and why not all are shown.
fn shown_of(shown: usize, total: u32, read: u32) -> String {
    match total {
        1 if shown == 1 => "1 dead letter".to_owned(),
        _ if shown == total as usize => format!("{total} dead letters"),
        _ if read == total => format!("the oldest {shown} of {total} dead letters: --limit shows more"),
        _ => format!("{shown} of {total} dead letters, the oldest of {read} looked at: --limit shows more"),
    }
}

const DISCARD_UNREADABLE: &str = "what cannot be read is not requeued: `dead-letters discard --unreadable` removes one";

/// A policy may lower the limit that the dead queue was declared with, and only the management plugin tells.
async fn connect(settings: &Settings) -> Result<DeadLetters, QueueError> {
    let limit = management::delivery_limit(&settings.amqp, &settings.queue.dead_queue).await;
    let limit = limit.unwrap_or_else(|error| {
        let why = error_chain(&error);
        output::complaint(format_args!(
            "note: amqp.management_url cannot be read, so that a lower delivery limit of a policy is not known: {why}"
        ));
        None
    });
    DeadLetters::connect(&settings.amqp, &settings.queue, limit).await
}

/// What looking has cost the letters, if anything.
fn tell(counted: Option<Counted>) -> Outcome {
    let Some(counted) = counted else { return Ok(()) };
    let ends_reading = counted.ends_reading();
    let Counted { error, near_limit } = counted;
    let them = match error {
        RewriteError::Every(_) => "they",
        RewriteError::TooLarge { .. } | RewriteError::Cut => "one of them",
    };
    let why = error_chain(&error);
    if !near_limit {
        output::complaint(format_args!(
            "note: the broker counts this look, and a delivery-limit of a policy may remove letters that were looked at \
             often: {them} cannot be written anew: {why}"
        ));
        return Ok(());
    }
    let stopped = if ends_reading { "stopped reading: " } else { "" };
    Err(Failure::Failed(anyhow::anyhow!(
        "{stopped}the broker's delivery limit removes dead letters that are read too often, and {them} cannot be written \
         anew: {why}"
    )))
}

fn not_requeued() -> Failure {
    Failure::Failed(anyhow::anyhow!(DISCARD_UNREADABLE))
}

enum Selection {
    All,
    Id(String),
    Reason(String),
    /// The first that comes.
    OneUnreadable,
}

impl Selection {
    fn takes(&self, letter: &DeadLetter, parser: &EventParser) -> bool {
        match self {
            Self::All => true,
            Self::Id(id) => Named::of(letter).id == *id,
            Self::Reason(reason) => why_dead(letter, parser).0 == *reason,
            Self::OneUnreadable => letter.unreadable,
        }
    }

    fn nothing(&self) -> String {
        match self {
            Self::All => "there are no dead letters".to_owned(),
            Self::Id(id) => format!("there is no dead letter {}", printable(id, 200)),
            Self::Reason(reason) => format!("there is no dead letter of the reason {}", printable(reason, 200)),
            Self::OneUnreadable => "there is no dead letter that cannot be read".to_owned(),
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
    /// Selected, but what cannot be read cannot be sent again.
    not_requeued: u32,
    progress: ProgressBar,
    stop: CancellationToken,
}

impl<'a> Pass<'a> {
    fn new(settings: &'a Settings, selection: Selection, fate: Fate) -> Self {
        let (progress, stop) = (ProgressBar::hidden(), CancellationToken::new());
        Self { settings, selection, fate, done: 0, not_requeued: 0, progress, stop }
    }

    async fn run(mut self, json: bool, signals: &Signals) -> Outcome {
        let (walked, heard) = self.until_heard(&mut signals.hear()?).await;
        self.progress.finish_and_clear();
        let done = self.fate.done();
        let counted = match walked {
            Ok(counted) => counted,
            Err(error) if self.done == 0 => return Err(error.into()),
            Err(error) => {
                let so_far = format!("only {} were {done}", self.done);
                return Err(Failure::Failed(anyhow::Error::from(error).context(so_far)));
            }
        };
        if let Fate::Requeued(publisher) = self.fate {
            publisher.close().await;
        }
        if let Some(code) = heard {
            if json {
                output::json(&json!({ done: self.done }))?;
            }
            return Err(Failure::Stopped(format!("{} dead letters were {done}", self.done), code));
        }
        match self.done {
            0 if self.not_requeued > 0 => return tell(counted).and(Err(not_requeued())),
            0 => return tell(counted).and(Err(Failure::Failed(anyhow::anyhow!(self.selection.nothing())))),
            count if json => output::json(&json!({ done: count }))?,
            1 => output::line(format_args!("{done} 1 dead letter"))?,
            count => output::line(format_args!("{done} {count} dead letters"))?,
        }
        tell(counted)?;
        if self.not_requeued > 0 { Err(not_requeued()) } else { Ok(()) }
    }

    /// A signal ends the walk after the batch in hand; its exit code comes with what the walk returns.
    async fn until_heard(&mut self, heard: &mut Heard) -> (Result<Option<Counted>, PublishError>, Option<u8>) {
        let (stop, mut code) = (self.stop.clone(), None);
        let mut walk = pin!(self.walk());
        loop {
            tokio::select! {
                walked = &mut walk => return (walked, code),
                first = heard.first(), if code.is_none() => {
                    code = Some(first);
                    stop.cancel();
                }
            }
        }
    }

    async fn walk(&mut self) -> Result<Option<Counted>, PublishError> {
        let Some(letters) = self.stop.run_until_cancelled(connect(self.settings)).await else { return Ok(None) };
        let mut letters = letters?;
        let mut left = letters.count().await?;
        self.progress = output::progress(u64::from(left));
        while left > 0 && !self.stop.is_cancelled() {
            let (selected, read) = self.read(&mut letters, left).await?;
            let nothing_more = read == 0 || matches!(self.selection, Selection::OneUnreadable) && !selected.is_empty();
            left = if nothing_more { 0 } else { left - read };
            if let Err(error) = self.settle(&mut letters, selected).await {
                // So that what was removed is, although the rest failed.
                letters.close().await.ok();
                return Err(error);
            }
        }
        Ok(letters.close().await?)
    }

    /// Those selected, and how many were read with the others; none if no more can be.
    async fn read(&mut self, letters: &mut DeadLetters, left: u32) -> Result<(Vec<DeadLetter>, u32), QueueError> {
        let (mut selected, mut read, mut bytes) = (Vec::new(), 0, 0);
        let most = if matches!(self.selection, Selection::OneUnreadable) { 1 } else { BATCH };
        while read < left && selected.len() < most && bytes < BATCH_BYTES && !self.stop.is_cancelled() {
            let Some(letter) = letters.next().await? else { break };
            read += 1;
            let is_selected = self.selection.takes(&letter, &self.settings.events);
            let can_be = !letter.unreadable || matches!(self.fate, Fate::Discarded);
            if is_selected && can_be {
                bytes += letter.body.len();
                selected.push(letter);
            } else {
                self.not_requeued += u32::from(is_selected);
                letters.give_back(letter).await?;
            }
        }
        Ok((selected, read))
    }

    async fn settle(&mut self, letters: &mut DeadLetters, selected: Vec<DeadLetter>) -> Result<(), PublishError> {
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
            match letter.requeue(publisher, &self.settings.queue.worker_queue).await {
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
