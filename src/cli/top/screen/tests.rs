use ratatui::Terminal;
use ratatui::backend::TestBackend;
use uuid::Uuid;

use super::super::overview::{FirstVerdict, InFlight, Rates};
use super::*;
use crate::figures::Figures;
use crate::hold::Held;
use crate::store::{Backlog, FailingWebhook};

const HOUR: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// An installation in trouble, so that every table is there.
fn overview() -> Overview {
    let time = Timestamp::UNIX_EPOCH + 24 * HOUR;
    let waiting = Waiting { pending: 7, due: 5, parked: 3, held: 0, oldest_due_seconds: Some(300.0) };
    let failing = FailingWebhook {
        webhook_id: Uuid::from_u128(1),
        account_id: "acc_42".to_owned(),
        name: "orders".to_owned(),
        failing_since: time - HOUR,
        failures: 12,
        last_error: Some("http_status".to_owned()),
    };
    let webhook = WaitingWebhook {
        webhook_id: Uuid::from_u128(1),
        account_id: Some("acc_42".to_owned()),
        name: Some("orders".to_owned()),
        waiting,
    };
    let hold = Hold {
        id: Uuid::from_u128(2),
        held: Held::All,
        since: time - HOUR,
        reason: Some("ticket 7".to_owned()),
        release: None,
    };
    Overview {
        time,
        processes: vec![worker()],
        rates: Rates { events_per_second: 5000.0, attempts_per_second: 5000.0, failed_per_second: 50.0 },
        first_verdict: FirstVerdict { p50_seconds: Some(0.02), p99_seconds: Some(0.2), count: 300_000 },
        in_flight: InFlight { now: 1, limit: 1000 },
        waiting: Backlog {
            estimated: false,
            all: waiting,
            webhooks: vec![webhook],
            accounts: vec![WaitingAccount { account_id: "acc_42".to_owned(), waiting }],
        },
        failing: vec![failing],
        failing_count: 1,
        holds: vec![hold],
    }
}

fn worker() -> Process {
    let figures = Figures {
        in_flight: Some(1),
        in_flight_limit: Some(1000),
        unacknowledged: Some(3),
        prefetch: Some(2000),
        attached: Some(true),
        ..Figures::default()
    };
    Process {
        id: Uuid::from_u128(3),
        role: "worker".to_owned(),
        version: "1.2.3".to_owned(),
        host: "host-1".to_owned(),
        started_at: Timestamp::UNIX_EPOCH,
        seen_seconds_ago: 2.0,
        figures,
    }
}

/// The lines of a screen of this size, without the blanks at their ends.
fn shown(overview: Overview, columns: u16, rows: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    let screen = Screen { overview: Some(overview), problem: None, colours: false };
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    let cells = terminal.backend().buffer().content();
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    cells.chunks(columns.into()).map(|cells| line(cells).trim_end().to_owned()).collect()
}

/// The first line that has this text.
fn line<'a>(lines: &'a [String], text: &str) -> &'a str {
    lines.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text} in {lines:#?}"))
}

#[test]
fn every_table_is_shown_on_24_rows() {
    let mut overview = overview();
    for _ in 0..5 {
        overview.failing.extend(overview.failing.first().cloned());
        overview.waiting.webhooks.extend(overview.waiting.webhooks.first().cloned());
    }
    let lines = shown(overview, 120, 24);
    for title in ["Failing", "Held", "Waiting, by webhook", "Waiting, by account", "Processes"] {
        let at =
            lines.iter().position(|line| line.starts_with(title)).unwrap_or_else(|| panic!("no {title} in {lines:#?}"));
        assert!(!lines[at + 2].is_empty(), "{title} has no row: {lines:#?}");
    }
    // All rows are used: only the one below the numbers of the head is empty.
    assert_eq!(lines.iter().filter(|line| line.is_empty()).count(), 1, "{lines:#?}");
}

#[test]
fn a_table_that_lacks_room_for_a_row_is_left_out() {
    // Beside the head and the foot there are 8 rows.
    let lines = shown(overview(), 120, 15);
    let titles =
        ["Failing", "Held", "Waiting, by webhook"].map(|title| lines.iter().any(|line| line.starts_with(title)));
    assert_eq!(titles, [true, true, false], "{lines:#?}");
}

/// An overview with large numbers. No number is the beginning of another.
fn large() -> Overview {
    let mut overview = overview();
    let waiting = Waiting {
        pending: 9_876_543,
        due: 8_765_432,
        parked: 7_654_321,
        held: 6_543_210,
        oldest_due_seconds: Some(118.0 * 60.0),
    };
    overview.waiting.all = waiting;
    overview.waiting.webhooks[0].waiting = waiting;
    overview.waiting.webhooks[0].webhook_id = Uuid::from_u128(u128::MAX);
    overview.waiting.accounts[0].waiting = waiting;
    overview.failing[0].webhook_id = Uuid::from_u128(u128::MAX);
    overview.failing[0].name = "a name of many words that no narrow terminal shows".to_owned();
    let figures = &mut overview.processes[0].figures;
    (figures.in_flight, figures.in_flight_limit) = (Some(2345), Some(45_678));
    (figures.unacknowledged, figures.prefetch) = (Some(34_567), Some(56_789));
    overview
}

#[test]
fn no_number_and_no_id_is_cut_at_any_width() {
    let numbers = |columns| {
        let words = shown(large(), columns, 30).join(" ");
        let words = words.split_whitespace().map(|word| word.trim_end_matches(',').to_owned());
        // What is shortened says so.
        let numbers = words.filter(|word| word.contains(|c: char| c.is_ascii_digit()) && !word.contains('…'));
        numbers.collect::<std::collections::BTreeSet<_>>()
    };
    let all = numbers(250);
    for columns in 50..140 {
        let cut: Vec<_> = numbers(columns).difference(&all).cloned().collect();
        assert!(cut.is_empty(), "at {columns} columns: {cut:?} are none of {all:?}");
    }
}

#[test]
fn what_matters_is_shown_on_80_columns() {
    let lines = shown(large(), 80, 40);
    let id = Uuid::from_u128(u128::MAX).to_string();
    assert!(line(&lines, "60 min").contains(&id), "{lines:#?}");
    assert!(line(&lines, "60 min").contains('…'), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("8,765,432 9,876,543 6,543,210") && line.contains(&id)));
    let process = line(&lines, "host-1");
    assert!(process.contains("2,345 of 45,678") && process.contains("34,567 of 56,789"), "{lines:#?}");
    assert!(process.contains("attached"), "{lines:#?}");
    for number in ["9,876,543,", "8,765,432 due", "7,654,321 not attempted yet", "6,543,210 held", "oldest due 118 min"]
    {
        line(&lines[..7], number);
    }
}

#[test]
fn an_api_has_nothing_in_flight_and_nothing_in_hand() {
    let mut overview = overview();
    let api = Process { role: "api".to_owned(), figures: Figures::default(), ..worker() };
    overview.processes = vec![worker(), api];
    let lines = shown(overview, 120, 40);
    let words = |start| line(&lines, start).split_whitespace().skip(6).collect::<Vec<_>>().join(" ");
    assert!(words("worker ").starts_with("1 of 1,000 3 of 2,000 attached"), "{lines:#?}");
    assert!(words("api ").starts_with("- - 0000"), "{lines:#?}");
}

#[test]
fn each_table_says_how_many_rows_there_are_beside_those_that_it_shows() {
    let mut overview = overview();
    overview.failing = vec![overview.failing[0].clone(); 20];
    overview.failing_count = 4000;
    overview.waiting.webhooks = vec![overview.waiting.webhooks[0].clone(); 20];
    overview.processes = vec![worker(); 3];
    let titles = |rows| {
        let lines = shown(overview.clone(), 120, rows);
        lines.into_iter().filter(|line| line.contains(" of ") && !line.contains("  ")).collect::<Vec<_>>()
    };
    let all = [
        "Failing, 20 of 4,000",
        "Held, 1 of 1",
        "Waiting, by webhook, 20 of 20 or more",
        "Waiting, by account, 1 of 1",
    ];
    assert_eq!(titles(70)[..4], all);
    assert_eq!(titles(70)[4], "Processes, 3 of 3");
    assert_eq!(titles(24)[0], "Failing, 2 of 4,000");
}
