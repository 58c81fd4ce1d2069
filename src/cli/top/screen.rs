//! Draws the overview on a terminal.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::overview::{MOST, Overview, Process};
use super::room::{Wish, least, share};
use super::table::{Listing, text, whole};
use crate::cli::output::thousands;
use crate::cli::webhooks::held_name;
use crate::hold::Hold;
use crate::store::{Waiting, WaitingAccount, WaitingWebhook};
use crate::text::printable;

/// A delivery that is due for longer than this is shown in red, and so is a first verdict that took longer.
const LATE_SECONDS: f64 = 60.0;
/// The longest text that is put into a cell, before the table shortens it for its room.
const TEXT_BYTES: usize = 256;
/// The column of the head where what stands after a label begins.
const LABEL: usize = 12;

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
        let lines = self.head(frame.area().width);
        // An empty line stands below it.
        let height = u16::try_from(lines.len() + 1).unwrap_or(u16::MAX);
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(height), Constraint::Min(0), Constraint::Length(1)])
                .areas(frame.area());
        frame.render_widget(Paragraph::new(lines), head);
        if let Some(overview) = &self.overview {
            self.tables(overview, frame, body);
        }
        let foot_line = match &self.problem {
            Some(problem) => Line::styled(printable(problem, 200), self.colour(Color::Red)),
            None => Line::from("q quits"),
        };
        frame.render_widget(Paragraph::new(foot_line), foot);
    }

    fn head(&self, width: u16) -> Vec<Line<'static>> {
        let Some(overview) = &self.overview else { return vec![Line::from("penr-webhooks top: asking the database")] };
        let (first, rates, in_flight) = (overview.first_verdict, overview.rates, overview.in_flight);
        let waiting = &overview.waiting.all;
        let about = if overview.waiting.estimated { "about " } else { "" };
        let late = |seconds: Option<f64>| seconds.is_some_and(|seconds| seconds > LATE_SECONDS);
        let title = Line::from(vec![
            Span::styled("penr-webhooks top", Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!("   {} UTC   {}", overview.time.strftime("%H:%M:%S"), overview.who())),
        ]);
        let events = [
            format!("{}/s in", rate(rates.events_per_second)),
            format!("{}/s attempts", rate(rates.attempts_per_second)),
            format!("{}/s of them failed", rate(rates.failed_per_second)),
        ];
        let verdicts = [
            self.unless_well(format!("first after p50 {}", seconds(first.p50_seconds)), late(first.p50_seconds)),
            self.unless_well(format!("p99 {}", seconds(first.p99_seconds)), late(first.p99_seconds)),
            Span::raw(format!("{} in the last minute", thousands(first.count))),
        ];
        let flying = format!("{} of {}", thousands(in_flight.now), thousands(in_flight.limit));
        let oldest = format!("oldest due {}", seconds(waiting.oldest_due_seconds));
        let waits = [
            Span::raw(format!("{about}{}", thousands(waiting.pending))),
            Span::raw(format!("{} due", thousands(waiting.due))),
            Span::raw(format!("{} not attempted yet", thousands(waiting.parked))),
            Span::raw(format!("{} held", thousands(waiting.held))),
            self.unless_well(oldest, late(waiting.oldest_due_seconds)),
        ];
        let mut lines = vec![title];
        lines.extend(folded("events", events.map(Span::raw), width));
        lines.extend(folded("verdicts", verdicts, width));
        lines.extend(folded("in flight", [Span::raw(flying)], width));
        lines.extend(folded("waiting", waits, width));
        lines
    }

    /// As many tables as there is room for, those first that matter most.
    fn tables(&self, overview: &Overview, frame: &mut Frame<'_>, area: Rect) {
        let mut tables = Vec::new();
        if !overview.failing.is_empty() {
            tables.push(self.failing(overview));
        }
        if !overview.holds.is_empty() {
            tables.push(holds(&overview.holds, overview.time));
        }
        if !overview.waiting.webhooks.is_empty() {
            tables.push(waiting_webhooks(&overview.waiting.webhooks));
            tables.push(waiting_accounts(&overview.waiting.accounts));
        }
        tables.push(self.processes(&overview.processes));
        // A table with content is shown if there is room for its first row.
        let mut heights: Vec<Wish> = tables.iter().map(Listing::height).collect();
        while heights.len() > 1 && least(&heights) > area.height {
            heights.pop();
        }
        let areas = Layout::vertical(share(area.height, &heights).into_iter().map(Constraint::Length)).split(area);
        for (table, area) in tables.into_iter().zip(areas.iter()) {
            frame.render_widget(table.fitted(*area), *area);
        }
    }

    fn failing(&self, overview: &Overview) -> Listing {
        let rows = overview.failing.iter().map(|webhook| {
            let since = overview.time.duration_since(webhook.failing_since).as_secs_f64();
            let error = webhook.last_error.as_deref().unwrap_or_default();
            let cells = vec![
                seconds(Some(since)),
                webhook.failures.to_string(),
                printable(error, TEXT_BYTES),
                webhook.webhook_id.to_string(),
                printable(&webhook.account_id, TEXT_BYTES),
                printable(&webhook.name, TEXT_BYTES),
            ];
            (self.colour(Color::Red), cells)
        });
        let columns = vec![
            whole("FOR"),
            whole("FAILURES"),
            text("LAST ERROR", 10),
            whole("WEBHOOK"),
            text("ACCOUNT", 8),
            text("NAME", 8),
        ];
        Listing { title: "Failing", in_all: thousands(overview.failing_count), columns, rows: rows.collect() }
    }

    fn processes(&self, processes: &[Process]) -> Listing {
        // An API writes neither of the two numbers.
        let of = |number: Option<u64>, limit: Option<u64>| match (number, limit) {
            (None, None) => "-".to_owned(),
            (number, limit) => [number, limit].map(|of| of.map_or_else(|| "?".to_owned(), thousands)).join(" of "),
        };
        let rows = processes.iter().map(|process| {
            let well = process.seen_seconds_ago < 15.0 && process.figures.attached != Some(false);
            let style = if well { Style::new() } else { self.colour(Color::Red) };
            let cells = vec![
                process.role.clone(),
                printable(&process.version, TEXT_BYTES),
                printable(&process.host, TEXT_BYTES),
                format!("{:.0} s ago", process.seen_seconds_ago),
                of(process.figures.in_flight, process.figures.in_flight_limit),
                of(process.figures.unacknowledged, process.figures.prefetch),
                match process.figures.attached {
                    Some(true) => "attached".to_owned(),
                    Some(false) => "no events".to_owned(),
                    None => String::new(),
                },
                process.id.to_string(),
            ];
            (style, cells)
        });
        let columns = vec![
            whole("ROLE"),
            text("VERSION", 8),
            text("HOST", 8),
            whole("SEEN"),
            whole("IN FLIGHT"),
            whole("IN HAND"),
            whole("CONSUMER"),
            whole("ID"),
        ];
        Listing { title: "Processes", in_all: processes.len().to_string(), columns, rows: rows.collect() }
    }

    fn unless_well(&self, text: String, bad: bool) -> Span<'static> {
        Span::styled(text, if bad { self.colour(Color::Red) } else { Style::new() })
    }

    fn colour(&self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }
}

/// The parts behind their label, on as many lines as they need.
fn folded(label: &str, parts: impl IntoIterator<Item = Span<'static>>, width: u16) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut line = Line::from(format!("{label:LABEL$}"));
    let mut parts = parts.into_iter().peekable();
    let mut is_first = true;
    while let Some(part) = parts.next() {
        let comma = if parts.peek().is_some() { ", " } else { "" };
        if !is_first && line.width() + part.width() + comma.trim_end().len() > width.into() {
            lines.push(std::mem::replace(&mut line, Line::from(" ".repeat(LABEL))));
        }
        line.extend([part, Span::raw(comma)]);
        is_first = false;
    }
    lines.push(line);
    lines
}

fn holds(holds: &[Hold], now: Timestamp) -> Listing {
    let rows = holds.iter().map(|hold| {
        let state = if hold.release.is_some() { "being released" } else { "held" };
        let reason = hold.reason.as_deref().unwrap_or_default();
        let since = now.duration_since(hold.since).as_secs_f64();
        let cells = vec![
            seconds(Some(since)),
            state.to_owned(),
            printable(&held_name(&hold.held), TEXT_BYTES),
            printable(reason, TEXT_BYTES),
        ];
        (Style::new(), cells)
    });
    // `webhook` and its id have 44 characters.
    let columns = vec![whole("FOR"), whole("STATE"), text("WHAT", 44), text("REASON", 8)];
    Listing { title: "Held", in_all: holds.len().to_string(), columns, rows: rows.collect() }
}

fn waiting_webhooks(webhooks: &[WaitingWebhook]) -> Listing {
    let rows = webhooks.iter().map(|webhook| {
        let account = printable(webhook.account_id.as_deref().unwrap_or("deleted"), TEXT_BYTES);
        let name = printable(webhook.name.as_deref().unwrap_or_default(), TEXT_BYTES);
        let names = [webhook.webhook_id.to_string(), account, name];
        (Style::new(), numbers(&webhook.waiting).into_iter().chain(names).collect())
    });
    let columns = vec![
        whole("DUE"),
        whole("WAITING"),
        whole("HELD"),
        whole("OLDEST"),
        whole("WEBHOOK"),
        text("ACCOUNT", 8),
        text("NAME", 8),
    ];
    Listing { title: "Waiting, by webhook", in_all: in_all(webhooks.len()), columns, rows: rows.collect() }
}

fn waiting_accounts(accounts: &[WaitingAccount]) -> Listing {
    let rows = accounts.iter().map(|account| {
        let name = printable(&account.account_id, TEXT_BYTES);
        (Style::new(), numbers(&account.waiting).into_iter().chain([name]).collect())
    });
    let columns = vec![whole("DUE"), whole("WAITING"), whole("HELD"), whole("OLDEST"), text("ACCOUNT", 8)];
    Listing { title: "Waiting, by account", in_all: in_all(accounts.len()), columns, rows: rows.collect() }
}

/// How many there are, if the database gave so many and [`MOST`] at most.
fn in_all(given: usize) -> String {
    if given < MOST as usize { given.to_string() } else { format!("{given} or more") }
}

fn numbers(waiting: &Waiting) -> [String; 4] {
    [thousands(waiting.due), thousands(waiting.pending), thousands(waiting.held), seconds(waiting.oldest_due_seconds)]
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
