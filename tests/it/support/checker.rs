//! Compares what was published and confirmed with what was received and recorded: nothing lost, nothing made up.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::cli::Webhook;
use super::request::Request;
use super::site::Site;

/// An event whose publish was confirmed.
#[derive(Debug, Clone)]
pub struct Published {
    pub event_id: String,
    pub account: String,
    pub event_type: String,
}

/// What one webhook's receiver got and what the database has of it.
pub struct Books {
    pub webhook: Webhook,
    pub requests: Vec<Arc<Request>>,
    pub log: Vec<LogLine>,
    /// Ids of events that still wait, or ended as exhausted or cancelled where an operator sees them.
    pub kept: HashSet<String>,
}

#[derive(Debug, Clone)]
pub struct LogLine {
    pub event_id: String,
    pub attempt: u32,
    pub answered: bool,
    pub succeeded: bool,
}

/// What is wrong, each with the webhook and the event it concerns.
#[derive(Debug, Default)]
pub struct Report {
    /// Events that were published for the webhook, are not kept, and were not both received and recorded as a success.
    pub lost: Vec<String>,
    /// Attempts of a delivery that were made more than once.
    pub duplicated: Vec<String>,
    /// Requests for events that were not published for the webhook, and log rows of requests that never came.
    pub unexpected: Vec<String>,
    /// A signature that is not right.
    pub unverified: Vec<String>,
    /// Attempts of a delivery that were answered and recorded more than once.
    pub recorded_twice: Vec<String>,
}

impl Books {
    /// The webhook's rows from the database, beside the requests its receiver got.
    pub async fn read(site: &Site, webhook: &Webhook, requests: Vec<Arc<Request>>) -> Self {
        let attempts = "SELECT event_id, attempt, http_status IS NOT NULL, error IS NULL
            FROM attempts WHERE webhook_id::text = $1";
        let kept = "SELECT e.event_id FROM events e JOIN
            (SELECT webhook_id, event_day, event_key FROM pending_deliveries
             UNION ALL SELECT webhook_id, event_day, event_key FROM closed_deliveries) d
            ON e.day = d.event_day AND e.key = d.event_key WHERE d.webhook_id::text = $1";
        let sql = site.sql().await;
        let attempts = sql.query(attempts, &[&webhook.id]).await.expect("the log is readable");
        let kept = sql.query(kept, &[&webhook.id]).await.expect("deliveries are readable");
        let log = attempts.iter().map(|row| LogLine {
            event_id: row.get(0),
            attempt: row.get::<_, i32>(1) as u32,
            answered: row.get(2),
            succeeded: row.get(3),
        });
        let kept = kept.iter().map(|row| row.get(0));
        Self { webhook: webhook.clone(), requests, log: log.collect(), kept: kept.collect() }
    }
}

/// To be called when the system is quiet: what is still on its way counts as lost.
pub fn check(published: &[Published], books: &[Books]) -> Report {
    let mut report = Report::default();
    for book in books {
        let expected: HashSet<&str> = subscribed_by(&book.webhook, published).collect();
        report.look_for_losses(book, &expected);
        report.look_at_requests(book, &expected);
        report.look_at_log(book);
    }
    report
}

fn subscribed_by<'a>(webhook: &'a Webhook, published: &'a [Published]) -> impl Iterator<Item = &'a str> {
    let subscribed =
        |event: &&Published| event.account == webhook.account && webhook.events.contains(&event.event_type);
    published.iter().filter(subscribed).map(|event| event.event_id.as_str())
}

impl Report {
    fn look_for_losses(&mut self, book: &Books, expected: &HashSet<&str>) {
        let received: HashSet<&str> = book.requests.iter().map(|request| request.event_id()).collect();
        let succeeded = book.log.iter().filter(|line| line.succeeded).map(|line| line.event_id.as_str());
        let done: HashSet<&str> = succeeded.filter(|event| received.contains(event)).collect();
        let lost = expected.iter().filter(|&&event| !done.contains(event) && !book.kept.contains(event));
        self.lost.extend(lost.map(|event| book.about(event)));
    }

    fn look_at_requests(&mut self, book: &Books, expected: &HashSet<&str>) {
        let mut attempts = HashSet::new();
        for request in &book.requests {
            let event = request.event_id();
            if !expected.contains(event) {
                self.unexpected.push(book.about(event));
            }
            if !attempts.insert((event, request.attempt())) {
                self.duplicated.push(book.about(event));
            }
            if !request.verify(&book.webhook.secret).is_genuine() {
                self.unverified.push(book.about(event));
            }
        }
    }

    fn look_at_log(&mut self, book: &Books) {
        let mut unwritten: HashMap<(&str, u32), usize> = HashMap::new();
        for request in &book.requests {
            *unwritten.entry((request.event_id(), request.attempt())).or_default() += 1;
        }
        let mut written = HashSet::new();
        for line in book.log.iter().filter(|line| line.answered) {
            if !written.insert((&line.event_id, line.attempt)) {
                self.recorded_twice.push(book.about(&line.event_id));
            }
            match unwritten.get_mut(&(line.event_id.as_str(), line.attempt)) {
                Some(count) if *count > 0 => *count -= 1,
                _ => self.unexpected.push(format!("{} in the log", book.about(&line.event_id))),
            }
        }
    }

    /// The four counts in this order: lost, duplicated, unexpected, unverified.
    pub fn counts(&self) -> [usize; 4] {
        [&self.lost, &self.duplicated, &self.unexpected, &self.unverified].map(Vec::len)
    }

    /// In one line.
    pub fn summary(&self) -> String {
        let [lost, duplicated, unexpected, unverified] = self.counts();
        let twice = self.recorded_twice.len();
        format!(
            "lost {lost}, duplicated {duplicated} (recorded twice {twice}), unexpected {unexpected}, \
             unverified {unverified}, dead letters 0"
        )
    }

    /// Nothing lost, unexpected or unverified, and no more duplicates than the test's crashes explain.
    #[track_caller]
    pub fn assert_sound(&self, duplicates_allowed: usize) {
        let [lost, duplicated, unexpected, unverified] = self.counts();
        let sound = lost + unexpected + unverified == 0 && duplicated <= duplicates_allowed;
        assert!(sound, "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("unexpected", &self.unexpected),
            ("unverified", &self.unverified),
        ];
        for (kind, found) in kinds {
            writeln!(out, "{} {kind}: {}", found.len(), found[..found.len().min(5)].join(", "))?;
        }
        Ok(())
    }
}

impl Books {
    fn about(&self, event: &str) -> String {
        format!("{event} to {}", self.webhook.id)
    }
}
