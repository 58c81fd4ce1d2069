//! Says what a worker would do with messages, and to which webhooks they would go. Publishes nothing.

use std::io::{IsTerminal as _, stdin};
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use self::input::Input;
use self::repeated::SeenIds;
use self::subscribers::{Finder, Subscriber, Subscribers};
use self::verdict::{Fate, Verdict};
use super::{CommandResult, Failure, nearest, output};
use crate::config::Settings;

mod input;
mod repeated;
mod subscribers;
mod verdict;

pub(super) use verdict::Outside;

/// Ids of which it is known whether they stand twice. Each needs 30 bytes or so.
const MOST_IDS: usize = 1_000_000;

/// Checks the messages of a file, or of standard input for `-`.
pub(super) async fn file(path: &Path, outside: &Outside, settings: &Settings, json: bool) -> CommandResult {
    let unreadable = |error| Failure::Usage(format!("--check: {} cannot be read: {error}", path.display()));
    let input = Input::open(path, settings.events.max_event_bytes).map_err(unreadable)?;
    let mut check = Check::of(outside, settings)?;
    let mut list = json.then(output::JsonList::begin).transpose()?;
    let mut show = |checked: &Checked| match &mut list {
        Some(list) => list.push(checked),
        None => checked.print(),
    };
    match input {
        Input::Message(body) => show(&check.message(None, &body).await?)?,
        Input::Lines(mut lines) => {
            while let Some(line) = lines.next().map_err(unreadable)? {
                show(&check.message(Some(line.number), &line.body).await?)?;
            }
            if !json {
                let (all, delivered) = (check.messages, check.messages - check.not_delivered);
                let [all, delivered] = [all, delivered].map(output::thousands);
                output::line(format_args!("{all} messages, {delivered} would be delivered"))?;
            }
        }
    }
    match list {
        Some(list) => list.end("notes", &check.notes())?,
        None => check.print_notes()?,
    }
    check.result()
}

/// Checks the only message on standard input.
pub(super) async fn message(outside: &Outside, settings: &Settings, json: bool) -> CommandResult {
    #[derive(Serialize)]
    struct Document<'a> {
        #[serde(flatten)]
        checked: Checked,
        notes: Vec<&'a str>,
    }
    if stdin().is_terminal() {
        output::complaint("reads one message from standard input, until Ctrl-D");
    }
    let Input::Message(body) = Input::expect_message(settings.events.max_event_bytes)? else {
        let several = "there are several messages, one in a line: penr-webhooks publish --check - takes them";
        return Err(Failure::Usage(several.to_owned()));
    };
    let mut check = Check::of(outside, settings)?;
    let checked = check.message(None, &body).await?;
    match json {
        true => output::json(&Document { checked, notes: check.notes() })?,
        false => checked.print().and_then(|()| check.print_notes())?,
    }
    check.result()
}

/// A message that was checked, as programs see it.
#[derive(Debug, Serialize)]
struct Checked {
    /// Null for a message that is not one of several lines.
    line: Option<u64>,
    /// `deliver`, `dead_letter` or `unrouted`.
    verdict: &'static str,
    /// Of a dead letter.
    reason: Option<&'static str>,
    /// Why it is not delivered.
    text: Option<String>,
    event: Option<CheckedEvent>,
    /// Of the message's body; null if it is too large and was not read to its end.
    bytes: Option<usize>,
    /// One of these takes the message.
    queues: Vec<String>,
    warnings: Vec<String>,
    /// Null if it is not delivered, or if there is no database to ask.
    webhooks: Option<Vec<Subscriber>>,
    /// Why `webhooks` is empty.
    nobody: Option<String>,
}

#[derive(Debug, Serialize)]
struct CheckedEvent {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    account_id: String,
    /// As it is sent. Null: the time at which a worker takes the message.
    timestamp: Option<String>,
    /// Of the body that is sent.
    bytes: usize,
}

impl Checked {
    fn print(&self) -> CommandResult {
        let line = self.line.map_or_else(String::new, |line| format!("line {line}: "));
        let bytes = self.bytes.map_or_else(|| "too many bytes".to_owned(), |bytes| format!("{bytes} bytes"));
        let text = self.text.as_deref().unwrap_or_default();
        match (&self.event, self.reason) {
            (Some(CheckedEvent { id, event_type, account_id, timestamp, .. }), _) => {
                let time = timestamp.as_deref().unwrap_or("the time of taking it");
                output::line(format_args!(
                    "{line}deliver: event {id}, {event_type} of account {account_id}, timestamp {time}, {bytes}"
                ))?;
            }
            (None, Some(reason)) => output::line(format_args!("{line}dead letter: {reason}: {text} ({bytes})"))?,
            (None, None) => output::line(format_args!("{line}unrouted: {text} ({bytes})"))?,
        }
        self.warnings.iter().try_for_each(|warning| output::line(format_args!("  warning: {warning}")))?;
        let subscribers = self.webhooks.iter().flatten();
        subscribers.map(Subscriber::line).try_for_each(|subscriber| output::line(format_args!("  to {subscriber}")))?;
        self.nobody.iter().try_for_each(|nobody| output::line(format_args!("  to nobody: {nobody}")))
    }
}

/// One run over messages.
struct Check<'a> {
    outside: &'a Outside,
    settings: &'a Settings,
    /// `None` without a database.
    finder: Option<Finder<'a>>,
    messages: u64,
    not_delivered: u64,
    seen: SeenIds,
}

impl<'a> Check<'a> {
    fn of(outside: &'a Outside, settings: &'a Settings) -> Result<Self, Failure> {
        Ok(Self {
            outside,
            settings,
            finder: Finder::of(settings)?,
            messages: 0,
            not_delivered: 0,
            seen: SeenIds::new(MOST_IDS),
        })
    }

    async fn message(&mut self, line: Option<u64>, body: &[u8]) -> Result<Checked, Failure> {
        let Settings { events: parser, queue, .. } = self.settings;
        let Verdict { fate, queues, warnings } = Verdict::of(body, self.outside, parser, queue, Timestamp::now());
        self.messages += 1;
        self.not_delivered += u64::from(!matches!(fate, Fate::Deliver { .. }));
        let bytes = Some(body.len()).filter(|bytes| *bytes <= parser.max_event_bytes);
        let checked = Checked {
            line,
            verdict: "deliver",
            reason: None,
            text: None,
            event: None,
            bytes,
            queues,
            warnings,
            webhooks: None,
            nobody: None,
        };
        Ok(match fate {
            Fate::DeadLetter(malformed) => Checked {
                verdict: "dead_letter",
                reason: Some(malformed.reason()),
                text: Some(nearest::refusal(&malformed, body, &self.outside.properties(), parser)),
                ..checked
            },
            Fate::Unrouted(text) => Checked { verdict: "unrouted", text: Some(text), ..checked },
            Fate::Deliver { event, time } => {
                let found = match &mut self.finder {
                    Some(finder) => Some(finder.find(&event.account_id, &event.event_type).await?),
                    None => None,
                };
                let (webhooks, nobody) = found.map(|Subscribers { webhooks, nobody }| (webhooks, nobody)).unzip();
                let mut warnings = checked.warnings;
                let earlier = line.and_then(|line| self.seen.earlier(event.id.as_str(), line));
                warnings.extend(earlier.map(|line| {
                    format!("the id stood in line {line} already: many receivers drop the second event of an id")
                }));
                let event = CheckedEvent {
                    id: event.id.to_string(),
                    event_type: event.event_type.to_string(),
                    account_id: event.account_id.to_string(),
                    timestamp: time,
                    bytes: event.body.len(),
                };
                Checked { event: Some(event), webhooks, nobody: nobody.flatten(), warnings, ..checked }
            }
        })
    }

    /// What is not known, and why.
    fn notes(&self) -> Vec<&'static str> {
        let no_database = "DATABASE_URL is not set: to which webhooks messages would go is not known";
        let no_keys = "security.encryption_keys is not set: whether secrets and headers of webhooks can be decrypted is not known";
        let too_many_ids = "there are more than 1,000,000 ids: whether later ones stand twice is not known";
        let missing = match &self.finder {
            None => Some(no_database),
            Some(_) if self.settings.keyring.is_none() => Some(no_keys),
            Some(_) => None,
        };
        missing.into_iter().chain(self.seen.is_full.then_some(too_many_ids)).collect()
    }

    fn print_notes(&self) -> CommandResult {
        self.notes().iter().try_for_each(|note| output::line(format_args!("note: {note}")))
    }

    /// Fails unless all are delivered, be it to nobody.
    fn result(&self) -> CommandResult {
        match (self.not_delivered, self.messages) {
            (0, _) => Ok(()),
            (_, 1) => Err(anyhow::anyhow!("the message would not be delivered").into()),
            (count, all) => {
                let (count, all) = (output::thousands(count), output::thousands(all));
                Err(anyhow::anyhow!("{count} of {all} messages would not be delivered").into())
            }
        }
    }
}
