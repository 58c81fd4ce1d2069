//! `Retry-After` can delay an attempt beyond the schedule, by a day at most, and can do nothing else.

use std::time::{Duration, SystemTime};

use crate::support::{Receiver, Reply, Site};

const SCHEDULE: f64 = 30.0;
const DAY: f64 = 86_400.0;
/// An attempt takes part of it, and a date has whole seconds.
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

fn table() -> Vec<Asked> {
    let hour = Duration::from_secs(3600);
    let east = date("%a, %d %b %Y %H:%M:%S +0200", 3 * hour);
    let west = date("%a, %d %b %Y %H:%M:%S -0100", Duration::ZERO);
    vec![
        asked(429, "120", 120.0),
        asked(503, "120", 120.0),
        asked(500, "120", 120.0),
        asked(404, "120", 120.0),
        asked(301, "120", 120.0),
        asked(429, "  120\t", 120.0),
        asked(429, date("%a, %d %b %Y %H:%M:%S GMT", hour), 3600.0),
        asked(429, date("%A, %d-%b-%y %H:%M:%S GMT", hour), 3600.0),
        asked(429, date("%a %b %e %H:%M:%S %Y", hour), 3600.0),
        asked(429, east, 3600.0),
        asked(429, west, 3600.0),
        asked(429, "Wed, 21 Oct 2015 07:28:00 GMT", SCHEDULE),
        asked(429, "Thu, 01 Jan 1970 00:00:00 GMT", SCHEDULE),
        asked(429, "0", SCHEDULE),
        asked(429, "1", SCHEDULE),
        asked(429, "86400", DAY),
        asked(429, "86401", DAY),
        asked(429, "99999999999999999999", DAY),
        asked(429, "18446744073709551615", DAY),
        asked(429, "Fri, 31 Dec 9999 23:59:59 GMT", DAY),
        asked(429, "9".repeat(64), DAY),
        asked(429, "9".repeat(10_000), SCHEDULE),
        asked(429, "inf", SCHEDULE),
        asked(429, "NaN", SCHEDULE),
        asked(429, "1e300", SCHEDULE),
        asked(429, "-1", SCHEDULE),
        asked(429, "+600", SCHEDULE),
        asked(429, "600.5", SCHEDULE),
        asked(429, "600 s", SCHEDULE),
        asked(429, "", SCHEDULE),
        asked(429, "soon", SCHEDULE),
        asked(429, b"\xff\xfe", SCHEDULE),
        asked(429, "６００", SCHEDULE),
        asked(429, "600\r\nRetry-After: 900", SCHEDULE),
        asked(429, "600, 900", SCHEDULE),
        asked(429, "Sun, 99 Foo 2099 25:61:61 GMT", SCHEDULE),
    ]
}

#[tokio::test]
async fn retry_after_pushes_later_within_a_day_and_absurd_values_do_nothing() {
    let site = Site::new().await.set("retry.schedule", r#"["30s", "1h"]"#).set("retry.jitter", "0.0");
    let table = table();
    let receiver = Receiver::start().await;
    let replies: Vec<Reply> = table.iter().map(Asked::reply).collect();
    receiver.answer(move |request| replies[request.path[1..].parse::<usize>().expect("a row's number")].clone());
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
