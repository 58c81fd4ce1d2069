//! Publishes the lines of standard input, each a whole event, byte for byte. However the run ends, it says up to which event all
//! are confirmed, so that the next run can go on behind that one.

use std::fs::File;
use std::io::{self, Seek as _, stdin};
use std::os::fd::AsFd as _;
use std::pin::pin;

use indicatif::ProgressBar;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::LAST_CONFIRMS;
use super::window::{Answer, Window};
use crate::cli::json_lines::{Line, Lines};
use crate::cli::signals::{SignalReceiver, Signals};
use crate::cli::{CommandResult, Failure, nearest, output};
use crate::config::Settings;
use crate::event::{Malformed, Properties};
use crate::ids::EventId;
use crate::queue::{EventAddress, Publisher};

/// Batches of lines that are read and not yet sent, beside the one that is being sent. Each has 64 KiB and one line at most.
const BATCHES_AHEAD: usize = 2;

pub(super) async fn publish(
    after: Option<EventId>,
    settings: &Settings,
    json: bool,
    signals: &Signals,
) -> CommandResult {
    let mut signal = signals.receiver()?.with_hangups()?;
    let (input, progress) = open()?;
    let mut stream = Stream {
        settings,
        lines: read(input, settings.events.max_event_bytes),
        after: after.clone(),
        unconfirmed: Window::new(),
        confirmed: Confirmed { count: 0, skipped: 0, last: after },
        progress,
        stop: CancellationToken::new(),
    };
    let ended = stream.until_signal(&mut signal).await;
    stream.progress.finish_and_clear();
    // From here on a signal ends the process at once: nobody may read what is printed.
    drop(signal);
    let reported = stream.confirmed.report(json);
    ended.and(reported)
}

/// What is known to be in a queue.
struct Confirmed {
    /// Events of this run.
    count: u64,
    /// Events that were left out, for a run before this one has published them.
    skipped: u64,
    /// It and all before it are confirmed. In the beginning that of `--after`.
    last: Option<EventId>,
}

impl Confirmed {
    /// Prints it on stdout, or on stderr if stdout does not take it: nobody reads it any more, or its disk is full.
    fn report(&self, json: bool) -> CommandResult {
        let last = self.last.as_ref().map(EventId::as_str);
        let said = match json {
            true => json!({ "published": self.count, "last_confirmed_id": last, "skipped": self.skipped }).to_string(),
            false => {
                let (events, skipped) = (events(self.count), output::thousands(self.skipped));
                let skipped =
                    if self.skipped > 0 { format!(" after {skipped} that were left out") } else { String::new() };
                format!("published {events}{skipped}; last confirmed: {}", last.unwrap_or("none"))
            }
        };
        let written = output::try_line(&said);
        if written.is_err() {
            output::complaint(said);
        }
        output::unless_closed(written)
    }
}

/// So many events, in words.
fn events(count: u64) -> String {
    match count {
        1 => "1 event".to_owned(),
        count => format!("{} events", output::thousands(count)),
    }
}

/// An event that was sent.
struct Sent {
    id: EventId,
    line: u64,
    /// The end of its line in the input.
    end: u64,
}

struct Stream<'a> {
    settings: &'a Settings,
    lines: mpsc::Receiver<io::Result<Vec<Line>>>,
    /// The event to come after which lines are published.
    after: Option<EventId>,
    unconfirmed: Window<Sent>,
    confirmed: Confirmed,
    progress: ProgressBar,
    /// Nothing more is sent.
    stop: CancellationToken,
}

impl Stream<'_> {
    /// Publishes all lines, or as many as are sent before a signal. A second signal ends the wait for the last confirms.
    async fn until_signal(&mut self, signal: &mut SignalReceiver) -> CommandResult {
        let stop = self.stop.clone();
        let code = {
            let mut publishing = pin!(self.connect_and_publish());
            let code = tokio::select! {
                biased;
                code = signal.next() => code,
                ended = &mut publishing => return ended,
            };
            stop.cancel();
            tokio::select! {
                _ = signal.next() => {}
                // Events without a confirm do not count, for whatever reason.
                _ = timeout(LAST_CONFIRMS, publishing) => {}
            }
            code
        };
        Err(Failure::Stopped(format!("{} were confirmed", events(self.confirmed.count)), code))
    }

    async fn connect_and_publish(&mut self) -> CommandResult {
        let publisher = Publisher::connect(&self.settings.amqp, &self.settings.queue).await?;
        let ended = self.publish(&publisher).await;
        // Whatever ended it: what was sent before is confirmed first. An event that is not is nearer to the beginning.
        let ended = self.confirm_all().await.and(ended);
        publisher.close().await;
        ended
    }

    async fn publish(&mut self, publisher: &Publisher) -> CommandResult {
        while let Some(lines) = self.next_lines().await? {
            for line in lines {
                // Not within a send: the confirm of an event that is half sent would be lost, and with it perhaps a return.
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                match self.after.take() {
                    Some(after) => self.skip(&line, after),
                    None => self.send(publisher, line).await?,
                }
            }
        }
        match &self.after {
            Some(after) if !self.stop.is_cancelled() => {
                Err(failure(format!("no line has the id {after} of --after: nothing was published")))
            }
            _ => Ok(()),
        }
    }

    /// Waits for lines; `None` after the last ones, and after a stop. Meanwhile it takes the broker's answers, so that a failure does not wait for a
    /// further line.
    async fn next_lines(&mut self) -> Result<Option<Vec<Line>>, Failure> {
        loop {
            let answer = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(None),
                lines = self.lines.recv() => {
                    let unreadable = |error| failure(format!("standard input cannot be read: {error}"));
                    return lines.transpose().map_err(unreadable);
                }
                Some(answer) = self.unconfirmed.next(), if !self.unconfirmed.is_empty() => answer,
            };
            self.note(answer)?;
        }
    }

    /// Leaves out a line that was published by a run before. It is not checked: the catalogue may have changed since.
    fn skip(&mut self, line: &Line, after: EventId) {
        #[derive(Deserialize)]
        struct WithId {
            id: String,
        }
        self.confirmed.skipped += 1;
        self.show_progress(line.end);
        let event = serde_json::from_slice::<WithId>(&line.body);
        if event.is_ok_and(|event| event.id == after.as_str()) {
            return;
        }
        self.after = Some(after);
    }

    async fn send(&mut self, publisher: &Publisher, Line { number, body, end }: Line) -> CommandResult {
        let event = self.settings.events.parse(&body, &Properties::default(), Timestamp::now());
        let told =
            |malformed: &Malformed| nearest::refusal(malformed, &body, &Properties::default(), &self.settings.events);
        let event = event.map_err(|malformed| refused(number, &malformed, told(&malformed)))?;
        let address = EventAddress {
            event_type: event.event_type.as_str(),
            id: event.id.as_str(),
            account: event.account_id.as_str(),
        };
        let sent = publisher.send_event(&self.settings.queue.events_exchange, address, &body).await;
        let sent = sent.map_err(|error| at_line(number, &event.id, error))?;
        self.unconfirmed.push(event.id.to_string(), Sent { id: event.id, line: number, end }, sent);
        while self.unconfirmed.is_full() {
            self.confirm_next().await?;
        }
        Ok(())
    }

    /// Stops at the first event that is not confirmed: those behind it do not count.
    async fn confirm_all(&mut self) -> CommandResult {
        while !self.unconfirmed.is_empty() {
            self.confirm_next().await?;
        }
        Ok(())
    }

    async fn confirm_next(&mut self) -> CommandResult {
        match self.unconfirmed.next().await {
            Some(answer) => self.note(answer),
            None => Ok(()),
        }
    }

    fn note(&mut self, (sent, confirmed): Answer<Sent>) -> CommandResult {
        if let Err(error) = confirmed {
            self.unconfirmed = Window::new();
            return Err(at_line(sent.line, &sent.id, error));
        }
        self.confirmed.count += 1;
        self.confirmed.last = Some(sent.id);
        self.show_progress(sent.end);
        Ok(())
    }

    fn show_progress(&self, end: u64) {
        match self.progress.length() {
            Some(_) => self.progress.set_position(end),
            None => self.progress.inc(1),
        }
    }
}

fn failure(text: String) -> Failure {
    Failure::Failed(anyhow::Error::msg(text))
}

fn refused(line: u64, malformed: &Malformed, told: String) -> Failure {
    match malformed {
        Malformed::Missing("id") => failure(format!("line {line} has no `id`: each line needs one of its own")),
        _ => failure(format!("line {line} is no event: {told}")),
    }
}

/// Why the event of a line was not published.
fn at_line(line: u64, id: &EventId, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Failed(anyhow::Error::new(error).context(format!("line {line}, event {id}")))
}

/// Standard input, and a progress bar: over its bytes if it is a file, else over events.
fn open() -> io::Result<(File, ProgressBar)> {
    let mut input = File::from(stdin().as_fd().try_clone_to_owned()?);
    let metadata = input.metadata()?;
    let length = match metadata.is_file() {
        // Something before us may have read the first lines.
        true => Some(metadata.len().saturating_sub(input.stream_position()?)),
        false => None,
    };
    Ok((input, output::progress_of_input(length)))
}

/// Reads the lines in a thread of its own, which waits for each. It is not waited for: a read cannot be interrupted.
fn read(input: File, most: usize) -> mpsc::Receiver<io::Result<Vec<Line>>> {
    let (batches, lines) = mpsc::channel(BATCHES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut input = Lines::of(input, most);
        let next = || input.next_batch().map(|batch| (!batch.is_empty()).then_some(batch)).transpose();
        for batch in std::iter::from_fn(next) {
            let is_last = batch.is_err();
            if batches.blocking_send(batch).is_err() || is_last {
                break;
            }
        }
    });
    lines
}
