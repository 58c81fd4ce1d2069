//! Prints for people and for programs.
//!
//! A reader of stdout may go early (`| head`): what it does not read any more is left out, and the command goes on and
//! ends as it would have. What it did is done, and there is nobody to tell.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _, stderr, stdout};

use comfy_table::{Cell, Color, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use super::Outcome;
use super::dead_letters::Row;
use crate::scrub::scrub;
use crate::store::LogRow;
use crate::text::printable;
use crate::webhook::Webhook;

/// One JSON document on stdout.
pub(super) fn json(document: &impl Serialize) -> Outcome {
    let mut stdout = stdout().lock();
    let written = serde_json::to_writer(&mut stdout, document).map_err(io::Error::from);
    heard_or_gone(written.and_then(|()| writeln!(stdout)))
}

/// One line on stdout, or several in one text.
pub(super) fn line(text: impl Display) -> Outcome {
    heard_or_gone(try_line(text))
}

/// For what has no other purpose than to be read: fails when the reader has gone.
pub(super) fn try_line(text: impl Display) -> io::Result<()> {
    writeln!(stdout().lock(), "{text}")
}

fn heard_or_gone(written: io::Result<()>) -> Outcome {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// One line on stderr, if anybody reads it.
pub(super) fn complaint(text: impl Display) {
    let _ = writeln!(stderr(), "{}", scrub(&text.to_string()));
}

pub(super) fn webhooks(webhooks: &[Webhook]) -> Outcome {
    let mut table = table(["ID", "NAME", "URL", "EVENTS", "STATUS"]);
    for webhook in webhooks {
        let id = webhook.id.to_string();
        let shown = |text: &str| printable(text, 200);
        table.add_row([
            Cell::new(id),
            Cell::new(shown(&webhook.name)),
            Cell::new(shown(&webhook.url)),
            Cell::new(webhook.events.join("\n")),
            status(webhook),
        ]);
    }
    line(table)
}

pub(super) fn webhook(webhook: &Webhook) -> Outcome {
    webhooks(std::slice::from_ref(webhook))?;
    for warning in &webhook.warnings {
        line(format_args!("warning: {warning}"))?;
    }
    Ok(())
}

pub(super) fn log(rows: &[LogRow]) -> Outcome {
    let mut table = table(["TIME", "STATUS", "EVENT TYPE", "EVENT", "ATTEMPT", "HTTP", "DURATION", "ERROR", "NEXT"]);
    for row in rows {
        let color = if row.error.is_none() { Color::Green } else { Color::Red };
        table.add_row([
            Cell::new(short(row.created_at)),
            Cell::new(row.status).fg(color),
            Cell::new(&row.event_type),
            Cell::new(&row.event_id),
            Cell::new(row.attempt),
            Cell::new(row.http_status.map_or_else(String::new, |status| status.to_string())),
            Cell::new(format!("{} ms", row.duration_ms)),
            Cell::new(row.error.as_deref().unwrap_or_default()),
            Cell::new(row.next_attempt_at.map_or_else(String::new, short)),
        ]);
    }
    line(table)
}

pub(super) fn dead_letters(rows: &[Row]) -> Outcome {
    let mut table = table(["TIME", "REASON", "ID", "TYPE", "SIZE"]);
    let shown = |text: Option<&str>| Cell::new(printable(text.unwrap_or_default(), 200));
    for row in rows {
        table.add_row([
            Cell::new(row.time.map_or_else(String::new, short)),
            shown(Some(&row.reason)),
            shown(row.id.as_deref()),
            shown(row.event_type.as_deref()),
            Cell::new(row.size.map_or_else(String::new, |bytes| format!("{bytes} B"))),
        ]);
    }
    line(table)?;
    for row in rows {
        let name = printable(row.id.as_deref().unwrap_or_default(), 200);
        if let Some(payload) = &row.payload {
            line(format_args!("{name}: {}", printable(payload, usize::MAX)))?;
        }
    }
    Ok(())
}

/// A bar on a terminal, for work long enough to be watched.
pub(super) fn progress(length: u64) -> ProgressBar {
    if length < 1000 || !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    ProgressBar::new(length).with_style(style.expect("the template is valid"))
}

/// UTC, as everything we print.
fn short(time: Timestamp) -> String {
    time.strftime("%m-%d %H:%M:%S").to_string()
}

fn status(webhook: &Webhook) -> Cell {
    match (&webhook.disabled_reason, webhook.active) {
        (_, true) => Cell::new("active").fg(Color::Green),
        (Some(reason), _) => Cell::new(format!("disabled: {reason}")).fg(Color::Red),
        (None, _) => Cell::new("inactive"),
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    if stdout().is_terminal() {
        table.enforce_styling();
    }
    table
}
