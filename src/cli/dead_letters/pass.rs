//! Goes through the dead letters and the unrouted events once, and requeues or discards the selected ones.

use std::pin::pin;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use indicatif::ProgressBar;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::look::{self, DISCARD_UNREADABLE};
use super::row::Labels;
use super::why::Why;
use crate::cli::signals::{SignalReceiver, Signals};
use crate::cli::{CommandResult, Failure, output};
use crate::config::Settings;
use crate::event::EventParser;
use crate::queue::{
    BATCH, BATCH_BYTES, Counted, DeadLetter, DeadLetters, LetterQueue, PublishError, Publisher, QueueError,
};
use crate::text::printable;

fn not_requeued() -> Failure {
    Failure::Failed(anyhow::anyhow!(DISCARD_UNREADABLE))
}

/// The dead letters that a command is for.
pub(super) enum Selection {
    All,
    /// The one with this id.
    Id(String),
    /// Those with this reason.
    Reason(String),
    /// The first one whose properties cannot be read.
    OneUnreadable,
}

impl Selection {
    fn takes(&self, letter: &DeadLetter, parser: &EventParser) -> bool {
        match self {
            Self::All => true,
            Self::Id(id) => Labels::of(letter).id == *id,
            Self::Reason(reason) => Why::of(letter, parser).reason == *reason,
            Self::OneUnreadable => letter.unreadable,
        }
    }

    fn none_found(&self) -> String {
        match self {
            Self::All => "there are no dead letters".to_owned(),
            Self::Id(id) => format!("there is no dead letter {}", printable(id, 200)),
            Self::Reason(reason) => format!("there is no dead letter of the reason {}", printable(reason, 200)),
            Self::OneUnreadable => "there is no dead letter that cannot be read".to_owned(),
        }
    }
}

/// The way in which selected letters leave the queue.
pub(super) enum Fate {
    /// They are sent to the workers again, then removed.
    Requeued(Box<Publisher>),
    /// They are removed.
    Discarded,
}

impl Fate {
    fn past_tense(&self) -> &'static str {
        match self {
            Self::Requeued(_) => "requeued",
            Self::Discarded => "discarded",
        }
    }
}

/// One walk over the dead letters that are in their queue when it begins, and then over the unrouted events. A letter that comes
/// later, such as a requeued one that is still no event, stands behind them and is not read.
///
/// A signal ends the walk after the batch in hand. A second signal, or a kill, at worst sends a letter twice.
pub(super) struct Pass<'a> {
    settings: &'a Settings,
    selection: Selection,
    fate: Fate,
    done: u32,
    /// Selected letters that were left because their properties cannot be read: those cannot be sent again.
    not_requeued: u32,
    progress: ProgressBar,
    stop: CancellationToken,
}

impl<'a> Pass<'a> {
    pub(super) fn new(settings: &'a Settings, selection: Selection, fate: Fate) -> Self {
        let (progress, stop) = (ProgressBar::hidden(), CancellationToken::new());
        Self { settings, selection, fate, done: 0, not_requeued: 0, progress, stop }
    }

    pub(super) async fn run(mut self, json: bool, signals: &Signals) -> CommandResult {
        let (walked, exit_code) = self.until_signal(&mut signals.receiver()?).await;
        self.progress.finish_and_clear();
        let done = self.fate.past_tense();
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
        if let Some(code) = exit_code {
            if json {
                output::json(&json!({ done: self.done }))?;
            }
            return Err(Failure::Stopped(format!("{} dead letters were {done}", self.done), code));
        }
        match self.done {
            0 if self.not_requeued > 0 => return look::report_costs(counted).and(Err(not_requeued())),
            0 => {
                return look::report_costs(counted)
                    .and(Err(Failure::Failed(anyhow::anyhow!(self.selection.none_found()))));
            }
            count if json => output::json(&json!({ done: count }))?,
            1 => output::line(format_args!("{done} 1 dead letter"))?,
            count => output::line(format_args!("{done} {count} dead letters"))?,
        }
        look::report_costs(counted)?;
        if self.not_requeued > 0 { Err(not_requeued()) } else { Ok(()) }
    }

    /// Walks until the end or a signal. Returns what the walk returned, and the exit code if there was a signal.
    async fn until_signal(&mut self, signal: &mut SignalReceiver) -> (Result<Vec<Counted>, PublishError>, Option<u8>) {
        let (stop, mut code) = (self.stop.clone(), None);
        let mut walk = pin!(self.walk());
        loop {
            tokio::select! {
                walked = &mut walk => return (walked, code),
                first = signal.first(), if code.is_none() => {
                    code = Some(first);
                    stop.cancel();
                }
            }
        }
    }

    async fn walk(&mut self) -> Result<Vec<Counted>, PublishError> {
        let mut counted = Vec::new();
        for queue in LetterQueue::ALL {
            let is_over = matches!(self.selection, Selection::OneUnreadable) && self.done > 0;
            if is_over || self.stop.is_cancelled() {
                break;
            }
            counted.extend(self.walk_through(queue).await?);
        }
        Ok(counted)
    }

    async fn walk_through(&mut self, queue: LetterQueue) -> Result<Option<Counted>, PublishError> {
        let connect = look::connect(self.settings, queue);
        let Some(letters) = self.stop.run_until_cancelled(connect).await else { return Ok(None) };
        let mut letters = letters?;
        let mut left = match letters.count().await {
            Err(error) if look::is_left_out(queue, &error) => return Ok(None),
            count => count?,
        };
        self.progress.finish_and_clear();
        self.progress = output::progress(u64::from(left));
        while left > 0 && !self.stop.is_cancelled() {
            let (selected, read) = match self.read(&mut letters, left).await {
                Err(error) if look::is_left_out(queue, &error) => return Ok(None),
                read => read?,
            };
            let nothing_more = read == 0 || matches!(self.selection, Selection::OneUnreadable) && !selected.is_empty();
            left = if nothing_more { 0 } else { left - read };
            if let Err(error) = self.settle(&mut letters, selected).await {
                // Closing makes sure that what was removed before the failure stays removed.
                letters.close().await.ok();
                return Err(error);
            }
        }
        Ok(letters.close().await?)
    }

    /// Reads a batch: the selected letters, and how many were read with the others. `read` is 0 when the queue is empty.
    async fn read(&mut self, letters: &mut DeadLetters, left: u32) -> Result<(Vec<DeadLetter>, u32), QueueError> {
        let (mut selected, mut read, mut bytes) = (Vec::new(), 0, 0);
        let most = if matches!(self.selection, Selection::OneUnreadable) { 1 } else { BATCH };
        while read < left && selected.len() < most && bytes < BATCH_BYTES && !self.stop.is_cancelled() {
            let Some(letter) = letters.next().await? else { break };
            read += 1;
            let is_selected = self.selection.takes(&letter, &self.settings.events);
            let can_be_done = !letter.unreadable || matches!(self.fate, Fate::Discarded);
            if is_selected && can_be_done {
                bytes += letter.body.len();
                selected.push(letter);
            } else {
                self.not_requeued += u32::from(is_selected);
                letters.give_back(letter).await?;
            }
        }
        Ok((selected, read))
    }

    /// Sends the letters again or removes them.
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
            match letter.requeue(publisher, &self.settings.queue).await {
                Ok(sent) => unconfirmed.push(async move { (letter, sent.confirmed().await) }),
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
        let (mut requeued, mut is_one_returned) = (Vec::new(), false);
        while let Some((letter, confirmed)) = unconfirmed.next().await {
            is_one_returned |= matches!(confirmed, Err(PublishError::Unroutable));
            match confirmed {
                Ok(()) => requeued.push(letter),
                Err(error) => failed = Err(error),
            }
        }
        if is_one_returned {
            // Nobody knows which: the return of one may have come with the confirm of another. Sending all twice is better than
            // losing one.
            return failed;
        }
        for letter in requeued {
            letters.remove(&letter).await?;
            self.done += 1;
            self.progress.inc(1);
        }
        failed
    }
}
