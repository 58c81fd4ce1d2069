//! Prints for people and for programs.
//!
//! A reader of stdout may close it early (`| head`). The rest of the output is then dropped, and the command goes on and
//! ends with the exit code that it would have had.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _, stderr, stdout};

use comfy_table::{Cell, Color, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use super::CommandResult;
use crate::scrub::scrub;
use crate::store::LogRow;
use crate::text::printable;
use crate::webhook::Webhook;

/// One JSON document on stdout.
pub(super) fn json(document: &impl Serialize) -> CommandResult {
    let mut stdout = stdout().lock();
    let written = serde_json::to_writer(&mut stdout, document).map_err(io::Error::from);
    unless_closed(written.and_then(|()| writeln!(stdout)))
}

/// One line on stdout, or several in one text.
pub(super) fn line(text: impl Display) -> CommandResult {
    unless_closed(try_line(text))
}

/// One line on stdout, for a command that only prints.
///
/// # Errors
///
/// The reader has closed stdout.
pub(super) fn try_line(text: impl Display) -> io::Result<()> {
    writeln!(stdout().lock(), "{text}")
}

fn unless_closed(written: io::Result<()>) -> CommandResult {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// One line on stderr, with secrets removed. A closed stderr is ignored.
pub(super) fn complaint(text: impl Display) {
    let _ = writeln!(stderr(), "{}", scrub(&text.to_string()));
}

pub(super) fn webhooks(webhooks: &[Webhook]) -> CommandResult {
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

pub(super) fn webhook(webhook: &Webhook) -> CommandResult {
    webhooks(std::slice::from_ref(webhook))?;
    for warning in &webhook.warnings {
        line(format_args!("warning: {warning}"))?;
    }
    Ok(())
}

pub(super) fn log(rows: &[LogRow]) -> CommandResult {
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

/// A progress bar on stderr, if that is a terminal and there are at least 1,000 steps.
pub(super) fn progress(length: u64) -> ProgressBar {
    if length < 1000 || !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    ProgressBar::new(length).with_style(style.expect("the template is valid"))
}

/// A time in UTC, without the year.
pub(super) fn short(time: Timestamp) -> String {
    time.strftime("%m-%d %H:%M:%S").to_string()
}

fn status(webhook: &Webhook) -> Cell {
    match (&webhook.disabled_reason, webhook.active) {
        (_, true) => Cell::new("active").fg(Color::Green),
        (Some(reason), _) => Cell::new(format!("disabled: {reason}")).fg(Color::Red),
        (None, _) => Cell::new("inactive"),
    }
}

pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    if stdout().is_terminal() {
        table.enforce_styling();
    }
    table
}
