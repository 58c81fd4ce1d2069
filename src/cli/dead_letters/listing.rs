//! Lists the oldest dead letters and unrouted events.

use serde_json::json;

use super::look::{self, DISCARD_UNREADABLE};
use super::row::{self, DeadLetterRow};
use super::why::UNREADABLE;
use crate::cli::{CommandResult, output};
use crate::config::Settings;
use crate::queue::{Counted, LetterQueue, QueueError};

/// At least so many are read of each queue to find the oldest ones. Reading one costs the broker a write to its disk.
const LOOKED_AT: u32 = 1000;

pub(super) async fn print(settings: &Settings, limit: u32, show: bool, json: bool) -> CommandResult {
    let look = Look { settings, limit, show };
    let (mut rows, mut seen, mut counted, mut failed) = (Vec::new(), Seen::default(), Vec::new(), Ok(()));
    for queue in LetterQueue::ALL {
        match look.through(queue).await {
            Ok((of_queue, in_queue, cost)) => {
                rows.extend(of_queue);
                let unrouted = if queue == LetterQueue::Unrouted { in_queue.total } else { 0 };
                seen = Seen { total: seen.total + in_queue.total, read: seen.read + in_queue.read, unrouted };
                counted.extend(cost);
            }
            Err(error) if look::is_left_out(queue, &error) => {}
            // The dead letters have been read: they are shown all the same.
            Err(error) if queue == LetterQueue::Unrouted => failed = Err(error.into()),
            Err(error) => return Err(error.into()),
        }
    }
    if seen.read == 0 && !counted.is_empty() {
        return look::report_costs(counted).and(failed);
    }
    rows.sort_by_cached_key(DeadLetterRow::sort_key);
    let hidden = (seen.total as usize).saturating_sub(rows.len());
    if json {
        output::json(&json!({ "data": rows, "total": seen.total, "hidden": hidden }))?;
    } else if rows.is_empty() && seen.total == 0 {
        output::line("there are no dead letters")?;
    } else {
        row::print_table(&rows)?;
        output::line(summary(rows.len(), seen))?;
    }
    if rows.iter().any(|row| row.reason == UNREADABLE) {
        output::complaint(format_args!("note: {DISCARD_UNREADABLE}"));
    }
    look::report_costs(counted).and(failed)
}

/// What is read of each queue.
struct Look<'a> {
    settings: &'a Settings,
    limit: u32,
    show: bool,
}

/// How many messages a queue has, and how many of them were read.
#[derive(Default, Clone, Copy)]
struct Seen {
    total: u32,
    read: u32,
    /// How many of `total` are unrouted events.
    unrouted: u32,
}

impl Look<'_> {
    /// The oldest of a queue. Each queue has its own limit: unrouted events often have no time, and would come last behind dead
    /// letters.
    async fn through(&self, queue: LetterQueue) -> Result<(Vec<DeadLetterRow>, Seen, Option<Counted>), QueueError> {
        let mut letters = look::connect(self.settings, queue).await?;
        let mut oldest = Oldest { limit: self.limit as usize, rows: Vec::new() };
        let mut seen = Seen { total: letters.count().await?, ..Seen::default() };
        while seen.read < seen.total.min(LOOKED_AT.max(self.limit)) {
            let Some(letter) = letters.next().await? else { break };
            seen.read += 1;
            let row = DeadLetterRow::of(&letter, self.settings);
            oldest.add(if self.show { row.with_payload(&letter) } else { row });
            letters.give_back(letter).await?;
        }
        Ok((oldest.into_rows(), seen, letters.close().await?))
    }
}

/// Collects rows and keeps the oldest `limit` of them.
struct Oldest {
    limit: usize,
    rows: Vec<DeadLetterRow>,
}

impl Oldest {
    fn add(&mut self, row: DeadLetterRow) {
        self.rows.push(row);
        // Sorts only when twice as many have come, so that sorting costs little per row.
        if self.rows.len() >= 2 * self.limit.max(1000) {
            self.cut();
        }
    }

    fn into_rows(mut self) -> Vec<DeadLetterRow> {
        self.cut();
        self.rows
    }

    fn cut(&mut self) {
        self.rows.sort_by_cached_key(DeadLetterRow::sort_key);
        self.rows.truncate(self.limit);
    }
}

/// The line below the table: how many there are, and why not all are shown.
fn summary(shown: usize, Seen { total, read, unrouted }: Seen) -> String {
    let what = match unrouted {
        0 => "dead letters",
        all if all == total => "unrouted events",
        _ => "dead letters and unrouted events",
    };
    match total {
        1 if shown == 1 => format!("1 {}", what.trim_end_matches('s')),
        _ if shown == total as usize => format!("{total} {what}"),
        _ if read == total => format!("the oldest {shown} of {total} {what}: --limit shows more"),
        _ => format!("{shown} of {total} {what}, the oldest of {read} looked at: --limit shows more"),
    }
}
