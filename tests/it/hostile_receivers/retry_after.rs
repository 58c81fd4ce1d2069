//! `Retry-After` can delay an attempt beyond the schedule, by a day at most, and can do nothing else.

use std::time::{Duration, SystemTime};

use crate::support::{Configure, Receiver, Reply, Site};

const SCHEDULE: f64 = 30.0;
const DAY: f64 = 86_400.0;
/// How many seconds a wait may differ: the attempt takes time, and a date has whole seconds.
const SLACK: f64 = 60.0;

struct Asked {
    status: u16,
    lines: Vec<u8>,
    /// Seconds from the attempt to the next one.
    wait: f64,
}

fn asked(status: u16, value: impl AsRef<[u8]>, wait: f64) -> Asked {
    Asked { status, lines: [b"Retry-After: ", value.as_ref()].concat(), wait }
}

fn date(format: &str, ahead: Duration) -> String {
    let time = jiff::Timestamp::try_from(SystemTime::now() + ahead).expect("a date of our times");
    time.strftime(format).to_string()
}

/// Values of a day or more.
const OVER_A_DAY: [&str; 5] =
    ["86400", "86401", "99999999999999999999", "18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"];

/// Values that are in the past, sooner than the schedule, or invalid.
const OF_NO_USE: [&[u8]; 18] = [
    b"Wed, 21 Oct 2015 07:28:00 GMT",
    b"Thu, 01 Jan 1970 00:00:00 GMT",
    b"0",
    b"1",
    b"inf",
    b"NaN",
    b"1e300",
    b"-1",
    b"+600",
    b"600.5",
    b"600 s",
    b"",
    b"soon",
    b"\xff\xfe",
    "６００".as_bytes(),
    b"600\r\nRetry-After: 900",
    b"600, 900",
    b"Sun, 99 Foo 2099 25:61:61 GMT",
];

fn table() -> Vec<Asked> {
    let hour = Duration::from_secs(3600);
    let in_an_hour = [
        date("%a, %d %b %Y %H:%M:%S GMT", hour),
        date("%A, %d-%b-%y %H:%M:%S GMT", hour),
        date("%a %b %e %H:%M:%S %Y", hour),
        date("%a, %d %b %Y %H:%M:%S +0200", 3 * hour),
        date("%a, %d %b %Y %H:%M:%S -0100", Duration::ZERO),
    ];
    let mut table = Vec::new();
    table.extend([429, 503, 500, 404, 301].map(|status| asked(status, "120", 120.0)));
    table.push(asked(429, "  120\t", 120.0));
    table.extend(in_an_hour.map(|value| asked(429, value, 3600.0)));
    table.extend(OVER_A_DAY.map(|value| asked(429, value, DAY)));
    table.push(asked(429, "9".repeat(64), DAY));
    table.extend(OF_NO_USE.map(|value| asked(429, value, SCHEDULE)));
    table.push(asked(429, "9".repeat(10_000), SCHEDULE));
    table
}

#[tokio::test]
async fn retry_after_pushes_later_within_a_day_and_absurd_values_do_nothing() {
    let site = Site::new().await.set("retry.schedule", r#"["30s", "1h"]"#).set("retry.jitter", "0.0");
    let table = table();
    let receiver = Receiver::start().await;
    // Made for each request, since the table has dates that are an hour ahead.
    receiver.answer(|request| self::table()[request.path[1..].parse::<usize>().expect("a row's number")].reply());
    let mut webhooks = Vec::new();
    for row in 0..table.len() {
        webhooks.push(site.create_webhook("acc_1", &receiver.url_at(&format!("/{row}")), &["content.created"]).await);
    }
    let mut worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    for (row, webhook) in table.iter().zip(&webhooks) {
        let first = site.wait_for_attempts(webhook, 1).await.remove(0);
        assert_eq!(first.verdict(), format!("http_status {}", row.status));
        let wait = first.wait_seconds.expect("a failure is followed up");
        let lines = String::from_utf8_lossy(&row.lines);
        // Some time has passed before the date is read, so the wait is a little shorter.
        let earliest = if row.wait == SCHEDULE { SCHEDULE } else { row.wait - SLACK };
        assert!(wait >= earliest.max(SCHEDULE) && wait <= row.wait + SLACK, "{lines}: {wait} s, not {}", row.wait);
    }
    assert!(worker.is_running());
    assert!(!worker.log().contains("panicked"));
}

impl Asked {
    fn reply(&self) -> Reply {
        let head = format!("HTTP/1.1 {} Scripted\r\nContent-Length: 0\r\n", self.status);
        Reply::raw([head.as_bytes(), &self.lines, b"\r\n\r\n"].concat())
    }
}

#[tokio::test]
async fn retry_after_on_a_success_asks_for_nothing() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    receiver.always(Reply::with_headers(200, &["Retry-After: 120"]));
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    let attempts = site.wait_for_attempts(&webhook, 1).await;
    assert_eq!((attempts[0].verdict().as_str(), attempts[0].wait_seconds), ("ok 200", None));
}
