//! Prints for people and for programs.
//!
//! A reader of stdout may close it early (`| head`). The rest of the output is then dropped, and the command goes on and
//! ends with the exit code that it would have had.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _, stderr, stdout};

use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use super::{CommandResult, Failure, terminal};
use crate::delivery::ErrorDetail;
use crate::scrub::scrub;
use crate::store::{COUNTED_FOR_ONE, LogRow};
use crate::text::{printable, printable_lines};
use crate::webhook::{MaxPerSecond, Webhook};

mod escaped;

/// One JSON document on stdout. It may hold what receivers and publishers wrote, and stdout may be a terminal: see `escaped`.
pub(super) fn json(document: &impl Serialize) -> CommandResult {
    let mut stdout = stdout().lock();
    let written = escaped::write(&mut stdout, document);
    unless_closed(written.and_then(|()| writeln!(stdout)))
}

/// One JSON document `{"data":[…],…}` on stdout that is written piece by piece, for a list without bound.
pub(super) struct JsonList {
    is_empty: bool,
}

impl JsonList {
    pub(super) fn begin() -> Result<Self, Failure> {
        unless_closed(write!(stdout(), "{{\"data\":["))?;
        Ok(Self { is_empty: true })
    }

    pub(super) fn push(&mut self, piece: &impl Serialize) -> CommandResult {
        let comma = if std::mem::take(&mut self.is_empty) { "" } else { "," };
        let mut stdout = stdout().lock();
        unless_closed(write!(stdout, "{comma}").and_then(|()| escaped::write(&mut stdout, piece)))
    }

    /// With one more field behind the list.
    pub(super) fn end(self, name: &str, field: &impl Serialize) -> CommandResult {
        let mut stdout = stdout().lock();
        let written = write!(stdout, "],\"{name}\":").and_then(|()| escaped::write(&mut stdout, field));
        unless_closed(written.and_then(|()| writeln!(stdout, "}}")))
    }
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

/// That nobody reads stdout any more is no failure.
pub(super) fn unless_closed(written: io::Result<()>) -> CommandResult {
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
    let more = More::of(webhooks);
    let mut table = table(["ID", "NAME", "URL", "EVENTS", "STATUS"].into_iter().chain(more.columns()));
    for webhook in webhooks {
        table.add_row(webhook_cells(webhook).into_iter().chain(more.cells(webhook)));
    }
    keep_whole(&mut table, 0);
    show(&table)
}

/// The same for webhooks of several accounts.
pub(super) fn webhooks_of_all(webhooks: &[Webhook]) -> CommandResult {
    let more = More::of(webhooks);
    let mut table = table(["ACCOUNT", "ID", "NAME", "URL", "EVENTS", "STATUS"].into_iter().chain(more.columns()));
    for webhook in webhooks {
        let account = Cell::new(webhook.account_id.as_str());
        table.add_row(std::iter::once(account).chain(webhook_cells(webhook)).chain(more.cells(webhook)));
    }
    keep_whole(&mut table, 1);
    show(&table)
}

/// Columns that a table of webhooks has only if one of them has something to show there.
struct More {
    headers: bool,
    pace: bool,
}

impl More {
    fn of(webhooks: &[Webhook]) -> Self {
        Self {
            headers: webhooks.iter().any(|webhook| !webhook.headers.0.is_empty()),
            pace: webhooks.iter().any(|webhook| webhook.max_per_second.is_some()),
        }
    }

    fn columns(&self) -> impl Iterator<Item = &'static str> {
        [self.headers.then_some("HEADERS"), self.pace.then_some("PACE")].into_iter().flatten()
    }

    fn cells(&self, webhook: &Webhook) -> impl Iterator<Item = Cell> {
        let hidden = |name: &String| format!("{}: [hidden]", printable(name, usize::MAX));
        let headers = || Cell::new(webhook.headers.0.iter().map(hidden).collect::<Vec<_>>().join("\n"));
        let pace = || Cell::new(webhook.max_per_second.map(pace).unwrap_or_default());
        [self.headers.then(headers), self.pace.then(pace)].into_iter().flatten()
    }
}

/// A pace in words.
fn pace(pace: MaxPerSecond) -> String {
    format!("{} a second", thousands(pace.get().get().into()))
}

fn webhook_cells(webhook: &Webhook) -> [Cell; 5] {
    // In full: what may be saved is not long.
    let shown = |text: &str| printable(text, usize::MAX);
    [
        Cell::new(webhook.id.to_string()),
        Cell::new(shown(&webhook.name)),
        Cell::new(shown(&webhook.url)),
        Cell::new(webhook.events.join("\n")),
        status(webhook),
    ]
}

pub(super) fn webhook(webhook: &Webhook) -> CommandResult {
    webhooks(std::slice::from_ref(webhook))?;
    for warning in &webhook.warnings {
        line(format_args!("warning: {warning}"))?;
    }
    if let Some(since) = webhook.held_since {
        line(format_args!(
            "held since {} UTC: nothing is sent, everything is kept. See: webhooks holds",
            short(since)
        ))?;
    }
    webhook.previous_valid_until.map_or(Ok(()), |until| line(previous_secret(until)))
}

/// How many deliveries wait, and the pace at which they are sent.
pub(super) fn waiting(count: u64, at: Option<MaxPerSecond>) -> CommandResult {
    let count = match count {
        0 => return line("nothing waiting"),
        // It was not counted further.
        COUNTED_FOR_ONE.. => format!("{} or more", thousands(count)),
        count => thousands(count),
    };
    let at = at.map(|at| format!(", at {}", pace(at))).unwrap_or_default();
    line(format_args!("{count} waiting{at}"))
}

/// A number with a comma before each three digits.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// That the secret before the newest one also signs.
pub(super) fn previous_secret(until: Timestamp) -> String {
    format!(
        "the old secret also signs until {} UTC, unless you end it: webhooks secret ID --end-previous",
        short(until)
    )
}

pub(super) fn log(rows: &[LogRow]) -> CommandResult {
    let header = ["TIME (UTC)", "STATUS", "EVENT TYPE", "EVENT", "ATTEMPT", "HTTP", "DURATION", "ERROR", "NEXT (UTC)"];
    let mut table = table(header.into_iter().chain(["DELIVERY"]));
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
            Cell::new(cause(row.error.as_deref(), row.error_detail.map(ErrorDetail::as_str))),
            Cell::new(row.next_attempt_at.map_or_else(String::new, short)),
            Cell::new(row.delivery_id),
        ]);
    }
    keep_whole(&mut table, 9);
    show(&table)
}

/// One attempt, and below it the answer that was kept.
pub(super) fn attempt(row: &LogRow) -> CommandResult {
    log(std::slice::from_ref(row))?;
    answer(row)
}

/// What went wrong, with the detail if it is known: `tls (certificate_expired)`.
pub(super) fn cause(error: Option<&str>, detail: Option<&str>) -> String {
    match (error, detail) {
        (None, _) => String::new(),
        (Some(error), None) => error.to_owned(),
        (Some(error), Some(detail)) => format!("{error} ({detail})"),
    }
}

/// The answer of an attempt, as far as it was kept. Each of its lines is marked: otherwise a receiver could write lines that look
/// like those of the command.
pub(super) fn answer(row: &LogRow) -> CommandResult {
    let Some(snippet) = &row.response_snippet else { return Ok(()) };
    line("answer:")?;
    printable_lines(snippet, usize::MAX).text.lines().try_for_each(|text| line(format_args!("  | {text}")))
}

/// So many deliveries, in words.
pub(super) fn deliveries(count: u64) -> String {
    match count {
        1 => "1 delivery".to_owned(),
        count => format!("{count} deliveries"),
    }
}

/// A progress bar on stderr, if that is a terminal and there are at least 1,000 steps.
pub(super) fn progress(length: u64) -> ProgressBar {
    if length < 1000 || !terminal::can_draw() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    ProgressBar::new(length).with_style(style.expect("the template is valid"))
}

/// A progress bar on stderr, if that is a terminal, over an input of so many bytes; without a length it counts events.
pub(super) fn progress_of_input(bytes: Option<u64>) -> ProgressBar {
    if !terminal::can_draw() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}"),
        None => (ProgressBar::no_length(), "{pos} events {per_sec}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is valid"))
}

/// A time in UTC, to the second. The header of its column says that it is UTC.
pub(super) fn short(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn status(webhook: &Webhook) -> Cell {
    match (&webhook.disabled_reason, webhook.active) {
        (_, true) if webhook.held_since.is_some() => Cell::new("held").fg(Color::Yellow),
        (_, true) => Cell::new("active").fg(Color::Green),
        (Some(reason), _) => Cell::new(format!("disabled: {reason}")).fg(Color::Red),
        (None, _) => Cell::new("inactive"),
    }
}

/// An empty table. On a terminal its cells are wrapped to fit the width; elsewhere every text stands in one line.
pub(super) fn table(header: impl IntoIterator<Item = &'static str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    if stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        // The table library would ask for a width of 0 columns where a terminal does not say how wide it is.
        if table.width() == Some(0) {
            table.set_width(USUAL_WIDTH);
        }
    }
    if terminal::has_colours(&stdout()) {
        table.enforce_styling();
    } else {
        // Also keeps the width, which the library looks up only for a terminal.
        let width = table.width();
        table.force_no_tty();
        width.map(|width| table.set_width(width));
    }
    table
}

/// Keeps the ids of a column in one piece, which can be copied, on a terminal that is wide enough.
pub(super) fn keep_whole(table: &mut Table, column: usize) {
    if table.width().is_some_and(|width| width < WIDE) {
        return;
    }
    if let Some(column) = table.column_mut(column) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
}

/// Prints a table, or that it would be empty.
pub(super) fn show(table: &Table) -> CommandResult {
    match table.is_empty() {
        true => line("none"),
        // A terminal may break a line that is as wide as itself, so without blanks at the ends.
        false => line(table.trim_fmt()),
    }
}

/// The columns of a terminal that does not say how many it has.
const USUAL_WIDTH: u16 = 80;

/// In so many columns, a table has room for the 36 characters of an id.
const WIDE: u16 = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_commas_between_thousands() {
        let shown = [0, 7, 999, 1000, 12_400, 100_000, 1_234_567].map(thousands);
        assert_eq!(shown, ["0", "7", "999", "1,000", "12,400", "100,000", "1,234,567"]);
    }
}
