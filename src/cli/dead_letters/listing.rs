//! Lists the oldest dead letters.

use serde_json::json;

use super::look::{self, DISCARD_UNREADABLE};
use super::row::{self, DeadLetterRow, UNREADABLE};
use crate::cli::{CommandResult, output};
use crate::config::Settings;

/// At least so many are read to find the oldest ones. Reading one costs the broker a write to its disk.
const LOOKED_AT: u32 = 1000;

pub(super) async fn print(settings: &Settings, limit: u32, show: bool, json: bool) -> CommandResult {
    let mut letters = look::connect(settings).await?;
    let total = letters.count().await?;
    let mut oldest = Oldest { limit: limit as usize, rows: Vec::new() };
    let mut read = 0;
    while read < total.min(LOOKED_AT.max(limit)) {
        let Some(letter) = letters.next().await? else { break };
        read += 1;
        let row = DeadLetterRow::of(&letter, &settings.events);
        oldest.add(if show { row.with_payload(&letter) } else { row });
        letters.give_back(letter).await?;
    }
    let counted = letters.close().await?;
    if read == 0 && counted.is_some() {
        return look::report_cost(counted);
    }
    let rows = oldest.into_rows();
    let hidden = (total as usize).saturating_sub(rows.len());
    if json {
        output::json(&json!({ "data": rows, "total": total, "hidden": hidden }))?;
    } else if rows.is_empty() && total == 0 {
        output::line("there are no dead letters")?;
    } else {
        row::print_table(&rows)?;
        output::line(summary(rows.len(), total, read))?;
    }
    if rows.iter().any(|row| row.reason == UNREADABLE) {
        output::complaint(format_args!("note: {DISCARD_UNREADABLE}"));
    }
    look::report_cost(counted)
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

/// The line below the table: how many dead letters there are, and why not all are shown.
fn summary(shown: usize, total: u32, read: u32) -> String {
    match total {
        1 if shown == 1 => "1 dead letter".to_owned(),
        _ if shown == total as usize => format!("{total} dead letters"),
        _ if read == total => format!("the oldest {shown} of {total} dead letters: --limit shows more"),
        _ => format!("{shown} of {total} dead letters, the oldest of {read} looked at: --limit shows more"),
    }
}
