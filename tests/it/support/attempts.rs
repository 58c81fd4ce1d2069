//! A webhook's attempts as the database has them: quicker to ask than the command line.

use super::cli::Webhook;
use super::site::Site;
use super::wait::eventually;

#[derive(Debug, Clone, PartialEq)]
pub struct LoggedAttempt {
    pub attempt: i32,
    pub trigger: String,
    pub http_status: Option<i32>,
    pub error: Option<String>,
    pub detail: Option<String>,
    pub snippet: Option<String>,
    /// From its beginning to the next attempt.
    pub wait_seconds: Option<f64>,
}

impl LoggedAttempt {
    /// `ok 200`, `http_status 503`, `timeout` …
    pub fn verdict(&self) -> String {
        let error = self.error.as_deref().unwrap_or("ok");
        self.http_status.map_or_else(|| error.to_owned(), |status| format!("{error} {status}"))
    }

    /// `tls certificate_expired`, or the verdict if no more is known.
    pub fn cause(&self) -> String {
        self.detail.as_ref().map_or_else(|| self.verdict(), |detail| format!("{} {detail}", self.verdict()))
    }
}

impl Site {
    /// All attempts of the webhook, the oldest first. Older schemas have no column `error_detail`.
    pub async fn attempts(&self, webhook: &Webhook) -> Vec<LoggedAttempt> {
        let query = "SELECT attempt, trigger, http_status, error, response_snippet,
            extract(epoch FROM next_attempt_at - created_at)::float8, to_jsonb(attempts) ->> 'error_detail'
            FROM attempts WHERE webhook_id::text = $1 ORDER BY created_at, id";
        let rows = self.sql().await.query(query, &[&webhook.id]).await.expect("the log is readable");
        let attempts = rows.iter().map(|row| LoggedAttempt {
            attempt: row.get(0),
            trigger: row.get(1),
            http_status: row.get(2),
            error: row.get(3),
            snippet: row.get(4),
            wait_seconds: row.get(5),
            detail: row.get(6),
        });
        attempts.collect()
    }

    /// Waits until that many attempts are recorded, and returns all there are.
    pub async fn wait_for_attempts(&self, webhook: &Webhook, count: usize) -> Vec<LoggedAttempt> {
        eventually(&format!("{} has {count} attempts", webhook.url), async || {
            Some(self.attempts(webhook).await).filter(|attempts| attempts.len() >= count)
        })
        .await
    }
}
