//! The metrics of a process, rendered as OpenMetrics 1.0 text. Labels use the words of the log.

use std::fmt;
use std::sync::{Arc, Mutex};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tracing_appender::non_blocking::ErrorCounter;

use crate::lanes::HeldBackBy;

/// The content type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one process. All clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Broker messages that were events.
    pub events: Counter,
    /// Broker messages that were no events, by reason.
    pub dead_letters: Family<Reason, Counter>,
    /// HTTP requests by result: `success` or an error of the webhook log.
    pub attempts: Family<AttemptLabel, Counter>,
    /// Seconds from an attempt's start to its result.
    pub attempt_duration: Histogram,
    /// Requests in flight now.
    pub in_flight: Gauge,
    /// Deliveries that ended without a success, by reason.
    pub closed: Family<Reason, Counter>,
    /// Fresh deliveries put into the database because their receiver could not take them soon.
    pub parked: Counter,
    /// How often a webhook's lane was looked at and had no room, by what limited it: the table in [`lanes`](crate::lanes).
    pub lane_held_back: Family<HeldBackLabel, Counter>,
    /// Results written to the database.
    pub recorded: Counter,
    /// Seconds of one transaction that wrote results.
    pub record_duration: Histogram,
    /// 1 while this process takes events.
    pub consumer_attached: Gauge,
    /// No metric: of a worker with several queues, those from which it takes no events now, for `/readyz`.
    pub queues_away: Arc<Mutex<Vec<String>>>,
    /// How often the broker, its channel or its consumer was lost.
    pub consumer_losses: Counter,
    /// 1 while the worker queue does not answer though its broker does.
    pub queue_without_quorum: Gauge,
    /// 1 while messages are taken one at a time, since one could not be read or may have ended the process.
    pub isolated: Gauge,
    /// 1 while this worker's user lacks a right at the broker.
    pub rights_missing: Gauge,
    /// 1 while no receiver can be reached from here.
    pub egress_out: Gauge,
    /// 1 while something waits for the database.
    pub database_waiting: Gauge,
    /// 1 while the database may only be read.
    pub database_read_only: Gauge,
    /// Deliveries waiting in the database, as counted by this worker's last sweep.
    pub pending: Gauge,
    /// Seconds by which the delivery that has waited longest is overdue, as of the last look at all webhooks. Deliveries that
    /// wait for their webhook's pace are left out.
    pub due_lag: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// Webhooks with due deliveries that wait for their pace, as far as this worker knows.
    pub pace_waiting: Gauge,
    /// Webhooks whose deliveries wait because their secret or headers cannot be decrypted, of those that this worker has met.
    pub secrets_unopened: Gauge,
    /// Seconds since the oldest transaction began that keeps the database from removing dead rows.
    pub oldest_transaction: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// Transactions begun since the oldest snapshot that a session, a replication slot or a prepared transaction keeps.
    pub oldest_snapshot: Gauge,
    /// Days from today on that have all their partitions, when this process last looked.
    pub partition_days: Gauge,
    /// Runs of the partitions' upkeep that failed, by reason: `make`, `drop`, `locked` by another session, `clocks` that
    /// differ.
    pub upkeep_failures: Family<Reason, Counter>,
    /// The API's answers.
    pub api_requests: Family<ApiRequest, Counter>,
    /// Seconds from the head of a request to the head of its answer.
    pub api_request_duration: Family<ApiRoute, Histogram>,
    /// Idle connections of the API that were closed to make room for others.
    pub api_connections_closed: Counter,
    registry: std::sync::Arc<Registry>,
}

/// A request in flight: counted until this is dropped.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabel {
    pub outcome: &'static str,
}

/// `by` is a reason of the table in [`lanes`](crate::lanes).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HeldBackLabel {
    by: &'static str,
}

impl From<HeldBackBy> for HeldBackLabel {
    fn from(by: HeldBackBy) -> Self {
        Self { by: by.as_str() }
    }
}

/// `route` is its template, `status` such as `2xx`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiRequest {
    pub method: &'static str,
    pub route: String,
    pub status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiRoute {
    pub route: String,
}

const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            events: Counter::default(),
            dead_letters: Family::default(),
            attempts: Family::default(),
            attempt_duration: Histogram::new(SECONDS),
            in_flight: Gauge::default(),
            closed: Family::default(),
            parked: Counter::default(),
            lane_held_back: Family::default(),
            recorded: Counter::default(),
            record_duration: Histogram::new(SECONDS),
            consumer_attached: Gauge::default(),
            queues_away: Arc::default(),
            consumer_losses: Counter::default(),
            queue_without_quorum: Gauge::default(),
            isolated: Gauge::default(),
            rights_missing: Gauge::default(),
            egress_out: Gauge::default(),
            database_waiting: Gauge::default(),
            database_read_only: Gauge::default(),
            pending: Gauge::default(),
            due_lag: Gauge::default(),
            pace_waiting: Gauge::default(),
            secrets_unopened: Gauge::default(),
            oldest_transaction: Gauge::default(),
            oldest_snapshot: Gauge::default(),
            partition_days: Gauge::default(),
            upkeep_failures: Family::default(),
            api_requests: Family::default(),
            api_request_duration: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            api_connections_closed: Counter::default(),
            registry: std::sync::Arc::default(),
        };
        // Every reason is shown from the start, at 0.
        HeldBackBy::ALL.into_iter().for_each(|by| drop(metrics.lane_held_back.get_or_create(&by.into())));
        metrics.registry = metrics.register().into();
        metrics
    }
}

/// Lines that the log dropped, as its writer counts them.
#[derive(Debug)]
struct LogLinesDropped(ErrorCounter);

impl Collector for LogLinesDropped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let dropped = ConstCounter::new(self.0.dropped_lines() as u64);
        let help = "Log lines dropped because nobody read them fast enough";
        dropped.encode(encoder.encode_descriptor("log_lines_dropped", help, None, MetricType::Counter)?)
    }
}

impl Metrics {
    /// Has the lines that the log drops counted, too.
    pub fn with_log(dropped_lines: ErrorCounter) -> Self {
        let mut metrics = Self::default();
        let mut registry = metrics.register();
        registry.register_collector(Box::new(LogLinesDropped(dropped_lines)));
        metrics.registry = registry.into();
        metrics
    }

    fn register(&self) -> Registry {
        let mut all = Registry::with_prefix("penr_webhooks");
        all.register("build", "This program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        all.register("events", "Broker messages that were events", self.events.clone());
        all.register("dead_letters", "Broker messages that were no events", self.dead_letters.clone());
        all.register("attempts", "HTTP requests by result", self.attempts.clone());
        let duration = self.attempt_duration.clone();
        all.register_with_unit("attempt_duration", "From an attempt's start to its result", Unit::Seconds, duration);
        all.register("in_flight", "Requests in flight", self.in_flight.clone());
        all.register("closed", "Deliveries that ended without a success", self.closed.clone());
        all.register("parked", "Fresh deliveries put into the database for their receiver's sake", self.parked.clone());
        let held_back = self.lane_held_back.clone();
        all.register(
            "lane_held_back",
            "How often a webhook's lane was looked at and had no room, by what limited it",
            held_back,
        );
        all.register("recorded", "Results written to the database", self.recorded.clone());
        let duration = self.record_duration.clone();
        all.register_with_unit("record_duration", "One transaction that wrote results", Unit::Seconds, duration);
        all.register("consumer_attached", "1 while this process takes events", self.consumer_attached.clone());
        all.register("consumer_losses", "Losses of the broker, a channel or a consumer", self.consumer_losses.clone());
        let quorum = self.queue_without_quorum.clone();
        all.register("queue_without_quorum", "1 while the worker queue has no quorum", quorum);
        all.register("isolated", "1 while broker messages are taken one at a time", self.isolated.clone());
        all.register("rights_missing", "1 while the broker refuses what a worker needs", self.rights_missing.clone());
        all.register("egress_out", "1 while no receiver can be reached from here", self.egress_out.clone());
        all.register("database_waiting", "1 while something waits for the database", self.database_waiting.clone());
        all.register("database_read_only", "1 while the database refuses writes", self.database_read_only.clone());
        all.register("pending", "Deliveries waiting in the database", self.pending.clone());
        let lag = self.due_lag.clone();
        all.register_with_unit(
            "due_lag",
            "Lateness of the longest-waiting due delivery, those that wait for their webhook's pace left out",
            Unit::Seconds,
            lag,
        );
        all.register("pace_waiting", "Webhooks of which deliveries wait for their pace", self.pace_waiting.clone());
        let unopened = self.secrets_unopened.clone();
        all.register(
            "secrets_unopened",
            "Webhooks whose secret or headers cannot be decrypted, as far as met",
            unopened,
        );
        let oldest = self.oldest_transaction.clone();
        all.register_with_unit("oldest_transaction", "Age of the database's oldest transaction", Unit::Seconds, oldest);
        let snapshot = self.oldest_snapshot.clone();
        all.register("oldest_snapshot", "Transactions begun since the database's oldest snapshot", snapshot);
        let days = self.partition_days.clone();
        all.register("partition_days", "Days from today on that have all their partitions", days);
        let failures = self.upkeep_failures.clone();
        all.register("upkeep_failures", "Runs of the partitions' upkeep that failed", failures);
        all.register("api_requests", "The API's answers", self.api_requests.clone());
        let duration = self.api_request_duration.clone();
        all.register_with_unit("api_request_duration", "From a request to its answer", Unit::Seconds, duration);
        let closed = self.api_connections_closed.clone();
        all.register("api_connections_closed", "Waiting connections of the API closed to make room for others", closed);
        all
    }

    pub fn count_in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// All metrics as text of the type [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to memory does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tracing_appender::non_blocking::NonBlockingBuilder;

    #[test]
    fn what_is_counted_is_rendered_under_one_prefix() {
        let metrics = Metrics::default();
        metrics.attempts.get_or_create(&AttemptLabel { outcome: "timeout" }).inc();
        metrics.consumer_attached.set(1);
        metrics.attempt_duration.observe(0.003);
        let text = metrics.render();
        assert!(text.contains("penr_webhooks_attempts_total{outcome=\"timeout\"} 1\n"), "{text}");
        assert!(text.contains("penr_webhooks_consumer_attached 1\n"), "{text}");
        assert!(text.contains("penr_webhooks_attempt_duration_seconds_count 1\n"), "{text}");
        let names = text.lines().filter(|line| !line.starts_with('#'));
        assert!(names.into_iter().all(|line| line.starts_with("penr_webhooks_")), "{text}");
    }

    #[test]
    fn every_reason_to_hold_a_lane_back_stands_at_0_from_the_start() {
        let metrics = Metrics::default();
        metrics.lane_held_back.get_or_create(&HeldBackBy::Share.into()).inc_by(3);
        let text = metrics.render();
        for by in HeldBackBy::ALL {
            let count = if by == HeldBackBy::Share { 3 } else { 0 };
            let line = format!("\npenr_webhooks_lane_held_back_total{{by=\"{}\"}} {count}\n", by.as_str());
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    /// Blocks every write until the other end is dropped.
    struct Unread(std::sync::mpsc::Receiver<()>);

    impl Write for Unread {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_the_log_dropped_are_counted() {
        let (read, unread) = std::sync::mpsc::channel();
        let lossy = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(2);
        let (mut log, _until) = lossy.finish(Unread(unread));
        let metrics = Metrics::with_log(log.error_counter());
        assert!(metrics.render().contains("\npenr_webhooks_log_lines_dropped_total 0\n"), "{}", metrics.render());
        for _ in 0..10 {
            log.write_all(b"a line\n").unwrap();
        }
        let dropped = log.error_counter().dropped_lines();
        // Two wait, and one more may be with the writer.
        assert!([7, 8].contains(&dropped), "{dropped}");
        let counted = format!("\npenr_webhooks_log_lines_dropped_total {dropped}\n");
        assert!(metrics.render().contains(&counted), "{}", metrics.render());
        drop(read);
    }
}
