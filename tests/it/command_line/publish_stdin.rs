//! `publish --stdin` publishes whole events byte for byte, and however it ends, the next run can go on without a gap.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};

use super::{ACCOUNT, TYPE, assert_fails};
use crate::support::amqp::Taken;
use crate::support::*;

const STDIN: [&str; 2] = ["publish", "--stdin"];
const STDIN_JSON: [&str; 3] = ["publish", "--stdin", "--json"];

/// An exchange and a queue that nobody consumes.
async fn site_with_queue() -> Site {
    let site = Site::new().await;
    site.worker().await.kill9();
    site
}

fn id(number: usize) -> String {
    format!("evt_{number}")
}

fn line(number: usize) -> String {
    event(&id(number), TYPE)
}

fn event(id: &str, event_type: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"{event_type}","account_id":"{ACCOUNT}","occurred_at":"2026-11-23T10:00:00Z","data":{{}}}}"#
    )
}

fn lines(numbers: impl Iterator<Item = usize>) -> String {
    numbers.map(|number| line(number) + "\n").collect()
}

/// All messages of the worker queue.
async fn taken(site: &Site) -> Vec<Taken> {
    let (mut amqp, mut taken) = (site.own_amqp().await, Vec::new());
    while let Some(message) = amqp.take(site.worker_queue()).await.unwrap() {
        taken.push(message);
    }
    taken
}

/// Their message ids.
async fn ids(site: &Site) -> Vec<String> {
    let message_id = |message: Taken| message.properties.message_id().as_ref().unwrap().to_string();
    taken(site).await.into_iter().map(message_id).collect()
}

/// What a run that failed printed: its report, which is the last line of stdout, and its error.
#[track_caller]
fn report_and_error(output: &Output) -> (Value, String) {
    let report = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("no report: {output:?}"));
    let errors: Vec<&str> = output.stderr.lines().filter(|line| !line.starts_with('{')).collect();
    let [error] = errors[..] else { panic!("not one line on stderr: {output:?}") };
    (report, error.to_owned())
}

fn report(published: usize, last: Option<&str>, skipped: usize) -> Value {
    json!({"published": published, "last_confirmed_id": last, "skipped": skipped})
}

/// A run whose standard input the test writes.
struct Running {
    child: Child,
    input: Option<ChildStdin>,
}

impl Running {
    fn start(site: &Site, arguments: &[&str]) -> Self {
        let mut running = Self::with_input(site, arguments, Stdio::piped());
        running.input = running.child.stdin.take();
        running
    }

    fn with_input(site: &Site, arguments: &[&str], input: Stdio) -> Self {
        // The tests themselves may run under `nohup`, whose ignored SIGHUP a child would inherit.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_penr-webhooks")]).args(arguments);
        Self::of(command, site, input)
    }

    fn of(mut command: Command, site: &Site, input: Stdio) -> Self {
        command.current_dir(site.folder()).kill_on_drop(true);
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        site.settings().give_to(&mut command);
        Self { child: command.spawn().unwrap(), input: None }
    }

    /// Fails if the command has ended, as it may.
    async fn write(&mut self, text: &str) {
        let _ = self.input.as_mut().unwrap().write_all(text.as_bytes()).await;
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for its end, with its standard input open.
    async fn end(self) -> Output {
        let Self { child, input } = self;
        let output = within("the run ends", PATIENCE, child.wait_with_output()).await.unwrap();
        drop(input);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

#[tokio::test]
async fn lines_are_published_byte_for_byte_as_penr_ais_services_publish() {
    let site = site_with_queue().await;
    let odd = r#" {"data": { "b": 1e400, "a": "\u00fc" },  "id":"evt_odd", "account_id":"acc_\"7\"", "type":"site.connected"} "#;
    let input = format!("\r\n{}\r\n \t\n{odd}\n{}", line(1), line(2));
    let output = site.cli_with_input(&STDIN_JSON, &input).await;
    assert_eq!((output.code, output.stdout.parse::<Value>().unwrap()), (0, report(3, Some("evt_2"), 0)), "{output:?}");
    let taken = taken(&site).await;
    let bodies: Vec<&[u8]> = taken.iter().map(|message| &message.body[..]).collect();
    assert_eq!(bodies, [line(1).as_bytes(), odd.as_bytes(), line(2).as_bytes()]);
    let odd = &taken[1];
    assert_eq!((odd.routing_key.as_str(), odd.header("account_id").as_deref()), ("site.connected", Some("acc_\"7\"")));
    assert_eq!(odd.properties.message_id().as_ref().unwrap().as_str(), "evt_odd");
    assert_eq!(odd.properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(*odd.properties.delivery_mode(), Some(2), "persistent");
}

#[tokio::test]
async fn what_is_published_from_standard_input_is_delivered() {
    let site = Site::new().await;
    let (receiver, _) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let _worker = site.worker().await;
    let output = site.cli_with_input(&STDIN, &lines(0..1500)).await;
    assert_eq!((output.code, &output.stdout[..]), (0, "published 1,500 events; last confirmed: evt_1499\n"));
    let mut received: Vec<String> =
        receiver.wait_for(1500).await.iter().map(|request| request.event_id().to_owned()).collect();
    let mut sent: Vec<String> = (0..1500).map(id).collect();
    received.sort();
    sent.sort();
    assert_eq!(received, sent);
}

#[tokio::test]
async fn a_line_is_published_before_the_next_one_comes() {
    let site = site_with_queue().await;
    let mut running = Running::start(&site, &STDIN);
    for number in 1..=3 {
        running.write(&lines(number..number + 1)).await;
        let there = async || site.queue_depth(site.worker_queue()).await as usize == number;
        wait_until("the line is published", there).await;
    }
    running.input = None;
    assert_eq!(running.end().await.stdout, "published 3 events; last confirmed: evt_3\n");
}

#[tokio::test]
async fn a_line_that_a_worker_would_refuse_ends_the_run_behind_what_is_confirmed() {
    let site = site_with_queue().await;
    let too_large = event("evt_large", TYPE).replace("{}", &format!("\"{}\"", "x".repeat(256 * 1024)));
    let cases = [
        ("{", "not valid JSON"),
        ("not JSON", "not valid JSON"),
        ("[]", "a JSON array"),
        (&event("evt 1", TYPE), "`id`"),
        (&event("", TYPE), "has no `id`: each line needs one of its own"),
        (&event("evt_1", "content.exploded"), "(it is `content.exploded`; did you mean `content."),
        (&too_large, "event.max_event_bytes"),
    ];
    for (bad, said) in cases {
        let input = format!("{}\n{bad}\n{}", lines(1..4), lines(4..6));
        let (report_of_run, error) = report_and_error(&site.cli_with_input(&STDIN_JSON, &input).await);
        assert_eq!(report_of_run, report(3, Some("evt_3"), 0), "{bad}");
        assert!(error.starts_with("error: line 5 ") && error.contains(said), "{bad}: {error}");
        assert_eq!(ids(&site).await, ["evt_1", "evt_2", "evt_3"], "{bad}");
    }
    let first = site.cli_with_input(&STDIN, "{}").await;
    assert_eq!((first.code, &first.stdout[..]), (1, "published 0 events; last confirmed: none\n"));
    assert!(first.stderr.contains("line 1 is no event"), "{}", first.stderr);
}

#[tokio::test]
async fn a_line_that_is_too_long_is_refused_before_its_end_comes() {
    let site = site_with_queue().await.set("event.max_event_bytes", "2000");
    let around = event("evt_longest", TYPE).len();
    let longest = event("evt_longest", TYPE).replace("{}", &format!("\"{}\"", "x".repeat(2000 - around)));
    let mut running = Running::start(&site, &STDIN_JSON);
    running.write(&format!("{longest}\r\n{}", "x".repeat(2002))).await;
    let (report_of_run, error) = report_and_error(&running.end().await);
    assert_eq!(report_of_run, report(1, Some("evt_longest"), 0));
    assert!(error.contains("line 2") && error.contains("event.max_event_bytes"), "{error}");
    assert_eq!(taken(&site).await[0].body, longest.as_bytes());
}

#[tokio::test]
async fn a_run_after_an_id_begins_with_the_line_behind_it() {
    let site = site_with_queue().await;
    // What was published before may be no event of today's catalogue.
    let input = format!("{}\n{}", event("evt_old", "content.exploded"), lines(1..6));
    let after = |id| [&STDIN_JSON[..], &["--after", id]].concat();
    let output = site.cli_with_input(&after("evt_3"), &input).await;
    assert_eq!(output.stdout.parse::<Value>().unwrap(), report(2, Some("evt_5"), 4), "{output:?}");
    assert_eq!(ids(&site).await, ["evt_4", "evt_5"]);
    let output = site.cli_with_input(&after("evt_5"), &input).await;
    assert_eq!((output.code, output.stdout.parse().unwrap()), (0, report(0, Some("evt_5"), 6)));
    let output = site.cli_with_input(&[&STDIN[..], &["--after", "evt_3"]].concat(), &input).await;
    assert_eq!(output.stdout, "published 2 events after 4 that were left out; last confirmed: evt_5\n");
}

#[tokio::test]
async fn an_id_that_never_comes_is_an_error_that_says_that_nothing_was_published() {
    let site = site_with_queue().await;
    let output = site.cli_with_input(&[&STDIN_JSON[..], &["--after", "evt_9"]].concat(), &lines(1..4)).await;
    let (report_of_run, error) = report_and_error(&output);
    assert_eq!((output.code, report_of_run), (1, report(0, Some("evt_9"), 3)));
    assert!(error.contains("evt_9") && error.contains("nothing was published"), "{error}");
    assert_eq!(ids(&site).await, [""; 0]);
}

#[tokio::test]
async fn a_signal_while_it_waits_for_a_line_counts_all_that_came_before() {
    let site = site_with_queue().await;
    // SIGHUP comes when a connection to the machine is lost.
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut running = Running::start(&site, &STDIN_JSON);
        running.write(&lines(0..300)).await;
        let there = async || site.queue_depth(site.worker_queue()).await == 300;
        wait_until("all lines are published", there).await;
        running.signal(signal);
        let output = running.end().await;
        let (report_of_run, error) = report_and_error(&output);
        assert_eq!((output.code, report_of_run), (code, report(300, Some("evt_299"), 0)));
        assert_eq!(error, "stopped by a signal: 300 events were confirmed");
        assert_eq!(ids(&site).await.len(), 300);
    }
}

#[tokio::test]
async fn a_run_under_nohup_outlives_its_terminal() {
    let site = site_with_queue().await;
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" HUP; exec "$@""#, "sh", env!("CARGO_BIN_EXE_penr-webhooks")]).args(STDIN);
    let mut running = Running::of(command, &site, Stdio::piped());
    running.input = running.child.stdin.take();
    for number in 1..=2 {
        running.write(&lines(number..number + 1)).await;
        let there = async || site.queue_depth(site.worker_queue()).await as usize == number;
        wait_until("the line is published", there).await;
        running.signal("HUP");
    }
    running.input = None;
    let output = running.end().await;
    assert_eq!((output.code, output.stdout.as_str()), (0, "published 2 events; last confirmed: evt_2\n"));
}

#[tokio::test]
async fn a_run_that_is_cut_short_in_any_way_can_go_on_without_a_gap() {
    const EVENTS: usize = 1500;
    let site = site_with_queue().await;
    let proxy = Proxy::to(site.amqp_address()).await;
    let path = site.folder().join("events.jsonl");
    std::fs::write(&path, lines(0..EVENTS)).unwrap();
    let slowed = site.amqp_through(&proxy.addr());
    for cause in ["INT", "TERM", "lost connection"] {
        taken(&slowed).await;
        let mut after: Option<String> = None;
        for cut in [true, false] {
            let flags = after.iter().flat_map(|id| ["--after", id]);
            let arguments: Vec<&str> = STDIN_JSON.into_iter().chain(flags).collect();
            // About a second for all of it: it does not end before it is cut short.
            let pace = if cut { (1024, Duration::from_millis(2)) } else { (16_384, Duration::ZERO) };
            proxy.trickle(pace.0, pace.1);
            let before = slowed.queue_depth(slowed.worker_queue()).await;
            let running = Running::with_input(&slowed, &arguments, File::open(&path).unwrap().into());
            if cut {
                let there = async || slowed.queue_depth(slowed.worker_queue()).await > before + 300;
                wait_until("some are published", there).await;
                match cause {
                    "lost connection" => proxy.cut().await,
                    signal => running.signal(signal),
                }
            }
            let output = running.end().await;
            assert_eq!(output.code == 0, !cut, "{cause}: {output:?}");
            let report: Value = output.stdout.parse().unwrap();
            let last = report["last_confirmed_id"].as_str().unwrap().to_owned();
            let skipped = after.map_or(0, |id| id[4..].parse::<u64>().unwrap() + 1);
            assert_eq!(report["skipped"], skipped);
            assert_eq!(last, id((skipped + report["published"].as_u64().unwrap() - 1) as usize));
            after = Some(last);
            if cut {
                let there = slowed.queue_depth(slowed.worker_queue()).await;
                let published = report["published"].as_u64().unwrap() as u32;
                assert!((published..=published + 257).contains(&there), "{there} are there of {published}");
            }
        }
        let mut all: Vec<usize> = ids(&slowed).await.iter().map(|id| id[4..].parse().unwrap()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all, (0..EVENTS).collect::<Vec<_>>(), "{cause}");
    }
}

#[tokio::test]
async fn an_event_that_no_queue_takes_ends_the_run_and_is_named() {
    let site = site_with_queue().await;
    let settings = site.folder().join("settings.toml");
    std::fs::write(&settings, "[event_types.\"site.removed\"]\nname = \"Removed\"\ndescription = \"Later\"\n").unwrap();
    let site = site.env("PENR_WEBHOOKS_CONFIG", settings.to_str().unwrap());
    // Its return comes in between confirms of the others, at another place each time.
    for before in [1, 2, 5, 20, 50, 100, 150, 200, 250, 300] {
        let lost = event("evt_lost", "site.removed");
        let input = format!("{}{lost}\n{}", lines(0..before), lines(before..before + 300));
        let output = site.cli_with_input(&STDIN_JSON, &input).await;
        let (report_of_run, error) = report_and_error(&output);
        assert_eq!((output.code, report_of_run), (1, report(before, Some(&id(before - 1)), 0)));
        let named = error.contains(&format!("line {}, event evt_lost: ", before + 1));
        assert!(named && error.contains("routed to no queue"), "{error}");
    }
}

#[tokio::test]
async fn an_event_that_no_queue_takes_ends_the_run_also_while_no_further_line_comes() {
    let site = site_with_queue().await;
    site.delete_worker_queue().await;
    let mut running = Running::start(&site, &STDIN_JSON);
    running.write(&lines(1..2)).await;
    let (report_of_run, error) = report_and_error(&running.end().await);
    assert_eq!(report_of_run, report(0, None, 0));
    assert!(error.contains("line 1, event evt_1: "), "{error}");
}

#[tokio::test]
async fn a_run_without_a_broker_says_that_nothing_was_published() {
    let site = Site::new().await;
    let proxy = Proxy::to(site.amqp_address()).await;
    proxy.refuse(true).await;
    let site = site.amqp_through(&proxy.addr());
    let (report_of_run, error) = report_and_error(&site.cli_with_input(&STDIN_JSON, &lines(1..3)).await);
    assert_eq!(report_of_run, report(0, None, 0));
    assert!(error.contains("the broker is not available"), "{error}");
}

#[tokio::test]
async fn the_last_confirmed_id_stands_on_stderr_if_stdout_does_not_take_it() {
    let site = site_with_queue().await;
    for (arguments, said) in [
        (&STDIN[..], "published 3 events; last confirmed: evt_3"),
        (&STDIN_JSON, r#"{"last_confirmed_id":"evt_3","published":3,"skipped":0}"#),
    ] {
        let path = site.folder().join("events.jsonl");
        std::fs::write(&path, lines(1..4)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_penr-webhooks"));
        command.args(arguments).stdin(File::open(&path).unwrap()).current_dir(site.folder());
        command.stdout(cli::closed_pipe()).stderr(Stdio::piped()).kill_on_drop(true);
        site.settings().give_to(&mut command);
        let running = Running { child: command.spawn().unwrap(), input: None };
        let output = running.end().await;
        assert!(output.code == 0 && output.stderr.lines().any(|line| line == said), "{output:?}");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_penr-webhooks"));
        command.args(arguments).stdin(File::open(&path).unwrap()).current_dir(site.folder());
        command.stdout(full).stderr(Stdio::piped()).kill_on_drop(true);
        site.settings().give_to(&mut command);
        let output = Running { child: command.spawn().unwrap(), input: None }.end().await;
        assert!(output.code == 1 && output.stderr.lines().any(|line| line == said), "{output:?}");
    }
}

#[tokio::test]
async fn a_terminal_sees_how_far_it_came() {
    let site = site_with_queue().await;
    let path = site.folder().join("events.jsonl");
    std::fs::write(&path, lines(0..5000)).unwrap();
    let redirect = format!("exec < '{}'", path.display());
    let output = site.cli_on_terminal(&STDIN, 100, &redirect, "").await;
    assert!(output.stdout.contains("KiB/") && output.stdout.contains("/s"), "{output:?}");
    assert!(output.stdout.contains("published 5,000 events"), "{output:?}");
}

#[tokio::test]
async fn what_makes_an_event_of_flags_is_refused_beside_standard_input() {
    let site = Site::new().await;
    let cases: [&[&str]; 7] = [
        &["--account", ACCOUNT],
        &["--type", TYPE],
        &["--data", "{}"],
        &["--id", "evt_1"],
        &["--count", "2"],
        &["--after", "no id"],
        &["--after", ""],
    ];
    for flags in cases {
        assert_fails(&site.cli(&[&STDIN[..], flags].concat()).await, 2, &[flags[0]]);
    }
    let made = ["publish", "--account", ACCOUNT, "--type", TYPE, "--after", "evt_1"];
    assert_fails(&site.cli(&made).await, 2, &["--after"]);
    assert_fails(&site.cli(&["publish", "--after", "evt_1"]).await, 2, &["--stdin"]);
    assert_fails(&site.cli(&["publish"]).await, 2, &["--account", "--type"]);
}

#[tokio::test]
async fn no_input_is_no_event() {
    let site = site_with_queue().await;
    for input in ["", "\n\r\n  \n"] {
        let output = site.cli_with_input(&STDIN_JSON, input).await;
        assert_eq!((output.code, output.stdout.parse::<Value>().unwrap()), (0, report(0, None, 0)));
    }
}
