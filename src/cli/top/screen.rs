//! Draws the overview on a terminal.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};

use super::overview::{Overview, Process};
use super::room::{Wish, least, share};
use crate::cli::output::thousands;
use crate::cli::webhooks::held_name;
use crate::hold::Hold;
use crate::store::{FailingWebhook, Waiting, WaitingAccount, WaitingWebhook};
use crate::text::printable;

/// A delivery that is due for longer than this is shown in red, and so is a first verdict that took longer.
const LATE_SECONDS: f64 = 60.0;
/// The rows of a table beside those of its content: the title and the header.
const TABLE_HEAD: u16 = 2;

/// What the screen shows.
pub(super) struct Screen {
    /// Empty until the first answer.
    pub(super) overview: Option<Overview>,
    /// Why the last question had no answer.
    pub(super) problem: Option<String>,
    pub(super) colours: bool,
}

impl Screen {
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(6), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
        frame.render_widget(Paragraph::new(self.head()), head);
        if let Some(overview) = &self.overview {
            self.tables(overview, frame, body);
        }
        let foot_line = match &self.problem {
            Some(problem) => Line::styled(printable(problem, 200), self.colour(Color::Red)),
            None => Line::from("q quits"),
        };
        frame.render_widget(Paragraph::new(foot_line), foot);
    }

    fn head(&self) -> Vec<Line<'static>> {
        let Some(overview) = &self.overview else { return vec![Line::from("penr-webhooks top: asking the database")] };
        let first = overview.first_verdict;
        let waiting = &overview.waiting.all;
        let about = if overview.waiting.estimated { "about " } else { "" };
        let late = |seconds: Option<f64>| seconds.is_some_and(|seconds| seconds > LATE_SECONDS);
        vec![
            Line::from(vec![
                Span::styled("penr-webhooks top", Style::new().add_modifier(Modifier::BOLD)),
                Span::raw(format!("   {} UTC   {}", overview.time.strftime("%H:%M:%S"), overview.who())),
            ]),
            Line::from(format!(
                "events      {}/s in, {}/s attempts, {}/s of them failed",
                rate(overview.rates.events_per_second),
                rate(overview.rates.attempts_per_second),
                rate(overview.rates.failed_per_second),
            )),
            Line::from(vec![
                Span::raw("verdicts    first after "),
                self.unless_well(format!("p50 {}", seconds(first.p50_seconds)), late(first.p50_seconds)),
                Span::raw(", "),
                self.unless_well(format!("p99 {}", seconds(first.p99_seconds)), late(first.p99_seconds)),
                Span::raw(format!(" of {} in the last minute", thousands(first.count))),
            ]),
            Line::from(format!(
                "in flight   {} of {}",
                thousands(overview.in_flight.now),
                thousands(overview.in_flight.limit)
            )),
            Line::from(vec![
                Span::raw(format!(
                    "waiting     {about}{}, {} due, {} not attempted yet, {} held   oldest due ",
                    thousands(waiting.pending),
                    thousands(waiting.due),
                    thousands(waiting.parked),
                    thousands(waiting.held),
                )),
                self.unless_well(seconds(waiting.oldest_due_seconds), late(waiting.oldest_due_seconds)),
            ]),
        ]
    }

    /// As many tables as there is room for, those first that matter most.
    fn tables(&self, overview: &Overview, frame: &mut Frame<'_>, area: Rect) {
        let mut tables = Vec::new();
        if !overview.failing.is_empty() {
            tables.push((overview.failing.len(), self.failing(&overview.failing, overview.time)));
        }
        if !overview.holds.is_empty() {
            tables.push((overview.holds.len(), holds(&overview.holds, overview.time)));
        }
        if !overview.waiting.webhooks.is_empty() {
            tables.push((overview.waiting.webhooks.len(), waiting_webhooks(&overview.waiting.webhooks)));
            tables.push((overview.waiting.accounts.len(), waiting_accounts(&overview.waiting.accounts)));
        }
        tables.push((overview.processes.len(), self.processes(&overview.processes)));
        // A table with content is shown if there is room for its first row.
        let rows = |rows: usize, most: u16| TABLE_HEAD + u16::try_from(rows).unwrap_or(u16::MAX - TABLE_HEAD).min(most);
        let mut heights: Vec<Wish> = tables
            .iter()
            .map(|(count, _)| Wish { least: rows(*count, 1), most: rows(*count, u16::MAX - TABLE_HEAD) })
            .collect();
        while heights.len() > 1 && least(&heights) > area.height {
            heights.pop();
        }
        let areas = Layout::vertical(share(area.height, &heights).into_iter().map(Constraint::Length)).split(area);
        for ((_, table), area) in tables.into_iter().zip(areas.iter()) {
            frame.render_widget(table, *area);
        }
    }

    fn failing(&self, failing: &[FailingWebhook], now: Timestamp) -> Table<'static> {
        let rows = failing.iter().map(|webhook| {
            let since = now.duration_since(webhook.failing_since).as_secs_f64();
            let error = webhook.last_error.as_deref().unwrap_or_default();
            Row::new([
                seconds(Some(since)),
                webhook.failures.to_string(),
                printable(error, 40),
                printable(&webhook.account_id, 40),
                webhook.webhook_id.to_string(),
                printable(&webhook.name, 60),
            ])
            .style(self.colour(Color::Red))
        });
        let widths = [
            Constraint::Length(9),
            Constraint::Length(8),
            Constraint::Length(16),
            Constraint::Length(16),
            Constraint::Length(36),
            Constraint::Min(8),
        ];
        table("Failing", ["FOR", "FAILURES", "LAST ERROR", "ACCOUNT", "WEBHOOK", "NAME"], rows.collect(), &widths)
    }

    fn processes(&self, processes: &[Process]) -> Table<'static> {
        // An API writes neither of the two numbers.
        let of = |number: Option<u64>, limit: Option<u64>| match (number, limit) {
            (None, None) => "-".to_owned(),
            (number, limit) => [number, limit].map(|of| of.map_or_else(|| "?".to_owned(), thousands)).join(" of "),
        };
        let rows = processes.iter().map(|process| {
            let well = process.seen_seconds_ago < 15.0 && process.figures.attached != Some(false);
            let style = if well { Style::new() } else { self.colour(Color::Red) };
            Row::new([
                process.role.clone(),
                printable(&process.version, 16),
                printable(&process.host, 40),
                format!("{:.0} s ago", process.seen_seconds_ago),
                of(process.figures.in_flight, process.figures.in_flight_limit),
                of(process.figures.unacknowledged, process.figures.prefetch),
                match process.figures.attached {
                    Some(true) => "attached".to_owned(),
                    Some(false) => "no events".to_owned(),
                    None => String::new(),
                },
                process.id.to_string(),
            ])
            .style(style)
        });
        let widths = [
            Constraint::Length(7),
            Constraint::Length(9),
            Constraint::Length(20),
            Constraint::Length(9),
            Constraint::Length(14),
            Constraint::Length(14),
            Constraint::Length(10),
            Constraint::Min(36),
        ];
        let header = ["ROLE", "VERSION", "HOST", "SEEN", "IN FLIGHT", "IN HAND", "CONSUMER", "ID"];
        table("Processes", header, rows.collect(), &widths)
    }

    fn unless_well(&self, text: String, bad: bool) -> Span<'static> {
        Span::styled(text, if bad { self.colour(Color::Red) } else { Style::new() })
    }

    fn colour(&self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }
}

fn holds(holds: &[Hold], now: Timestamp) -> Table<'static> {
    let rows = holds.iter().map(|hold| {
        let state = if hold.release.is_some() { "being released" } else { "held" };
        let reason = hold.reason.as_deref().unwrap_or_default();
        let since = now.duration_since(hold.since).as_secs_f64();
        Row::new([
            seconds(Some(since)),
            state.to_owned(),
            printable(&held_name(&hold.held), 140),
            printable(reason, 200),
        ])
    });
    let widths = [Constraint::Length(9), Constraint::Length(14), Constraint::Length(45), Constraint::Min(8)];
    table("Held", ["FOR", "STATE", "WHAT", "REASON"], rows.collect(), &widths)
}

fn waiting_webhooks(webhooks: &[WaitingWebhook]) -> Table<'static> {
    let rows = webhooks.iter().map(|webhook| {
        let account = printable(webhook.account_id.as_deref().unwrap_or("deleted"), 40);
        let name = printable(webhook.name.as_deref().unwrap_or_default(), 60);
        Row::new(numbers(&webhook.waiting).into_iter().chain([account, webhook.webhook_id.to_string(), name]))
    });
    let widths = [WIDTHS.as_slice(), &[Constraint::Length(16), Constraint::Length(36), Constraint::Min(8)]].concat();
    let header = ["DUE", "WAITING", "HELD", "OLDEST", "ACCOUNT", "WEBHOOK", "NAME"];
    table("Waiting, by webhook", header, rows.collect(), &widths)
}

fn waiting_accounts(accounts: &[WaitingAccount]) -> Table<'static> {
    let rows = accounts
        .iter()
        .map(|account| Row::new(numbers(&account.waiting).into_iter().chain([printable(&account.account_id, 128)])));
    let widths = [WIDTHS.as_slice(), &[Constraint::Min(16)]].concat();
    table("Waiting, by account", ["DUE", "WAITING", "HELD", "OLDEST", "ACCOUNT"], rows.collect(), &widths)
}

/// Of [`numbers`].
const WIDTHS: [Constraint; 4] =
    [Constraint::Length(10), Constraint::Length(10), Constraint::Length(10), Constraint::Length(9)];

fn numbers(waiting: &Waiting) -> [String; 4] {
    [thousands(waiting.due), thousands(waiting.pending), thousands(waiting.held), seconds(waiting.oldest_due_seconds)]
}

fn table<const N: usize>(
    title: &'static str,
    header: [&'static str; N],
    rows: Vec<Row<'static>>,
    widths: &[Constraint],
) -> Table<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let dim = Style::new().add_modifier(Modifier::DIM);
    Table::new(rows, widths.iter().copied())
        .header(Row::new(header).style(dim))
        .block(Block::new().borders(Borders::NONE).title(Line::styled(title, bold)))
}

/// A number of events or attempts in a second.
fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// A duration, short: `3.4 ms`, `12.0 s`, `5 min`, `3 h`, `2 d`; a dash if there is none.
pub(super) fn seconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds.max(0.0) * 1000.0),
        Some(seconds) if seconds < 120.0 => format!("{seconds:.1} s"),
        Some(seconds) if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        Some(seconds) if seconds < 172_800.0 => format!("{:.0} h", seconds / 3600.0),
        Some(seconds) => format!("{:.0} d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests;
