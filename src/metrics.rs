//! The metrics of a process. `docs/metrics.md` lists them. Labels use the words of the log.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing_appender::non_blocking::ErrorCounter;

use crate::delivery::ClosedReason;
use crate::durations::Durations;
use crate::event::{Catalogue, Malformed};
use crate::lanes::HeldBackBy;
use crate::store::Store;

mod format;
mod histogram;
mod labels;
mod optional;
mod pools;
mod process;
mod register;

pub use format::Format;
pub use histogram::{observe_since, observe_size};
pub use labels::{
    ApiRequest, ApiRoute, AttemptCounts, ByReason, EventCounter, EventCounts, HeldBackLabel, QueueLabel, RoleLabel,
    UpkeepFailure,
};

pub use optional::OptionalGauge;

/// The metrics of one process. All clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Broker messages that were events, by queue.
    pub events: EventCounts,
    /// Broker messages that were no events, by reason.
    pub dead_letters: ByReason,
    /// HTTP requests by result (`success` or an error of the webhook log) and event type.
    pub attempts: AttemptCounts,
    /// Seconds from an attempt's start to its result.
    pub attempt_duration: Histogram,
    /// From when a worker received an event to the first result of its delivery.
    pub first_verdict: Durations,
    /// Requests in flight now.
    pub in_flight: Gauge,
    /// The most requests in flight that there can be.
    pub in_flight_limit: Gauge,
    /// Broker messages that the worker has in hand.
    pub unacknowledged: Gauge,
    /// The most broker messages that the worker may have in hand.
    pub prefetch: Gauge,
    /// Deliveries that ended without a success, by reason.
    pub closed: ByReason,
    /// Fresh deliveries put into the database because their receiver could not take them soon.
    pub parked: Counter,
    /// How often a webhook's lane was looked at and had no room, by what limited it: the table in [`lanes`](crate::lanes).
    pub lane_held_back: Family<HeldBackLabel, Counter>,
    /// Seconds of one statement that looked webhooks up, and how many pairs of account and event type it was asked for.
    pub lookup_duration: Histogram,
    pub lookup_batch_size: Histogram,
    /// Results written to the database.
    pub recorded: Counter,
    /// Seconds of one transaction that wrote results, and how many it wrote.
    pub record_duration: Histogram,
    pub record_batch_size: Histogram,
    /// Seconds from when results were recorded until the acks that could follow were written, and how many messages they settled.
    pub ack_duration: Histogram,
    pub ack_batch_size: Histogram,
    /// 1 while this process takes events.
    pub consumer_attached: Gauge,
    /// No metric: of a worker with several queues, those from which it takes no events now, for `/readyz`.
    pub queues_away: Arc<Mutex<Vec<String>>>,
    /// How often the broker, its channel or its consumer was lost.
    pub consumer_losses: Counter,
    /// Messages that wait in a queue and that no worker has, and the queue's consumers.
    pub queue_messages: Family<QueueLabel, Gauge>,
    pub queue_consumers: Family<QueueLabel, Gauge>,
    /// Messages that no queue took.
    pub unrouted: OptionalGauge,
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
    /// Those of them that are due, and those that had no attempt yet. Webhooks that are off are left out.
    pub due: Gauge,
    pub parked_waiting: Gauge,
    /// Those of them whose webhooks are held, as counted by the same sweep.
    pub held: Gauge,
    /// Holds that are in force, those that are being released too.
    pub holds: Gauge,
    /// Seconds since the oldest of them began; 0 without holds.
    pub oldest_hold: Gauge<f64, AtomicU64>,
    /// Holds that are being released.
    pub releases: Gauge,
    /// 1 while everything is held.
    pub held_all: Gauge,
    /// Seconds by which the delivery that has waited longest is overdue, as of the last look at all webhooks. Deliveries that
    /// wait for their webhook's pace are left out, and so are webhooks that are off.
    pub due_lag: Gauge<f64, AtomicU64>,
    /// Webhooks with due deliveries that wait for their pace, as far as this worker knows.
    pub pace_waiting: Gauge,
    /// Webhooks whose deliveries wait because their secret or headers cannot be decrypted, of those that this worker has met.
    pub secrets_unopened: Gauge,
    /// Notices that wait to be published.
    pub notices_waiting: Gauge,
    /// Seconds since the oldest transaction began that keeps the database from removing dead rows.
    pub oldest_transaction: Gauge<f64, AtomicU64>,
    /// Transactions begun since the oldest snapshot that a session, a replication slot or a prepared transaction keeps.
    pub oldest_snapshot: Gauge,
    /// Days from today on that have all their partitions, when this process last looked.
    pub partitions_ahead: Gauge,
    /// Runs of the partitions' upkeep that failed, by reason.
    pub upkeep_failures: ByReason,
    /// Processes seen lately, by role. Kept by workers.
    pub processes: Family<RoleLabel, Gauge>,
    /// The API's answers.
    pub api_requests: Family<ApiRequest, Counter>,
    /// Seconds from the head of a request to the head of its answer.
    pub api_request_duration: Family<ApiRoute, Histogram>,
    /// Idle connections of the API that were closed to make room for others.
    pub api_connections_closed: Counter,
    pools: pools::Pools,
    registries: Arc<Registries>,
    /// Spans that could not be sent to the collector of traces.
    pub spans_dropped: Counter,
}

/// A request in flight: counted until this is dropped.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Of the time to the first verdict: an attempt takes seconds at most, and a delivery that is parked may wait for minutes.
const TO_FIRST_VERDICT: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const BATCH_SIZES: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0];

/// What is rendered: our own metrics, and those that every exporter has of its process, whose names have no prefix of ours.
#[derive(Debug, Default)]
struct Registries {
    ours: Registry,
    of_process: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::of(&Catalogue::new(Vec::new()), None)
    }
}

impl Metrics {
    /// Counts attempts by the event types of the catalogue, and the lines that the log drops.
    pub fn new(catalogue: &Catalogue, dropped_lines: ErrorCounter) -> Self {
        Self::of(catalogue, Some(dropped_lines))
    }

    fn of(catalogue: &Catalogue, dropped_lines: Option<ErrorCounter>) -> Self {
        let mut metrics = Self {
            events: EventCounts::default(),
            dead_letters: ByReason::new(Malformed::REASONS),
            attempts: AttemptCounts::new(catalogue),
            attempt_duration: Histogram::new(SECONDS),
            first_verdict: Durations::new(&TO_FIRST_VERDICT),
            in_flight: Gauge::default(),
            in_flight_limit: Gauge::default(),
            unacknowledged: Gauge::default(),
            prefetch: Gauge::default(),
            closed: ByReason::new(ClosedReason::ALL.map(ClosedReason::as_str)),
            parked: Counter::default(),
            lane_held_back: Family::default(),
            lookup_duration: Histogram::new(SECONDS),
            lookup_batch_size: Histogram::new(BATCH_SIZES),
            recorded: Counter::default(),
            record_duration: Histogram::new(SECONDS),
            record_batch_size: Histogram::new(BATCH_SIZES),
            ack_duration: Histogram::new(SECONDS),
            ack_batch_size: Histogram::new(BATCH_SIZES),
            consumer_attached: Gauge::default(),
            queues_away: Arc::default(),
            consumer_losses: Counter::default(),
            queue_messages: Family::default(),
            queue_consumers: Family::default(),
            unrouted: OptionalGauge::default(),
            queue_without_quorum: Gauge::default(),
            isolated: Gauge::default(),
            rights_missing: Gauge::default(),
            egress_out: Gauge::default(),
            database_waiting: Gauge::default(),
            database_read_only: Gauge::default(),
            pending: Gauge::default(),
            due: Gauge::default(),
            parked_waiting: Gauge::default(),
            held: Gauge::default(),
            holds: Gauge::default(),
            oldest_hold: Gauge::default(),
            releases: Gauge::default(),
            held_all: Gauge::default(),
            due_lag: Gauge::default(),
            pace_waiting: Gauge::default(),
            secrets_unopened: Gauge::default(),
            notices_waiting: Gauge::default(),
            oldest_transaction: Gauge::default(),
            oldest_snapshot: Gauge::default(),
            partitions_ahead: Gauge::default(),
            upkeep_failures: ByReason::new(UpkeepFailure::ALL.map(<&str>::from)),
            processes: Family::default(),
            api_requests: Family::default(),
            api_request_duration: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            api_connections_closed: Counter::default(),
            pools: pools::Pools::default(),
            registries: Arc::default(),
            spans_dropped: Counter::default(),
        };
        // Every reason is shown from the start, at 0.
        HeldBackBy::ALL.into_iter().for_each(|by| drop(metrics.lane_held_back.get_or_create(&by.into())));
        let mut registries = Registries { ours: metrics.register(), of_process: Registry::default() };
        if let Some(dropped_lines) = dropped_lines {
            registries.ours.register_collector(Box::new(LogLinesDropped(dropped_lines)));
        }
        registries.of_process.register_collector(Box::new(process::ThisProcess));
        metrics.registries = registries.into();
        metrics
    }

    /// Shows the use of a store's connections, too.
    pub fn watch_pool(&self, store: &Store) {
        self.pools.add(store.clone());
    }

    /// Shows an answer of the API from the start, at 0.
    pub fn expect_answer(&self, method: &'static str, route: &str, status: &'static str) {
        drop(self.api_requests.get_or_create(&ApiRequest { method, route: route.to_owned(), status }));
        drop(self.api_request_duration.get_or_create(&ApiRoute { route: route.to_owned() }));
    }

    pub fn count_in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// All metrics as text.
    pub fn render(&self, format: Format) -> String {
        let (mut text, Registries { ours, of_process }) = (String::new(), &*self.registries);
        encode_registry(&mut text, ours)
            .and_then(|()| encode_registry(&mut text, of_process))
            .and_then(|()| encode_eof(&mut text))
            .expect("writing to memory does not fail");
        match format {
            Format::OpenMetrics => text,
            Format::Classic => format::classic(&text),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::EventType;
    use std::io::Write;
    use tracing_appender::non_blocking::NonBlockingBuilder;

    #[test]
    fn what_is_counted_is_rendered_under_one_prefix() {
        let metrics = Metrics::default();
        metrics.attempts.count(Some("timeout"), &EventType::parse("content.created").unwrap());
        metrics.consumer_attached.set(1);
        metrics.attempt_duration.observe(0.003);
        let text = metrics.render(Format::OpenMetrics);
        assert!(text.contains("penr_webhooks_attempts_total{outcome=\"timeout\",event_type=\"other\"} 1\n"), "{text}");
        assert!(text.contains("penr_webhooks_consumer_attached 1\n"), "{text}");
        assert!(text.contains("penr_webhooks_attempt_duration_seconds_count 1\n"), "{text}");
        let names = text.lines().filter(|line| !line.starts_with('#'));
        assert!(
            names.into_iter().all(|line| line.starts_with("penr_webhooks_") || line.starts_with("process_")),
            "{text}"
        );
    }

    #[test]
    fn every_reason_to_hold_a_lane_back_stands_at_0_from_the_start() {
        let metrics = Metrics::default();
        metrics.lane_held_back.get_or_create(&HeldBackBy::Share.into()).inc_by(3);
        let text = metrics.render(Format::OpenMetrics);
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
        let metrics = Metrics::new(&Catalogue::new(Vec::new()), log.error_counter());
        assert!(
            metrics.render(Format::OpenMetrics).contains("\npenr_webhooks_log_lines_dropped_total 0\n"),
            "{}",
            metrics.render(Format::OpenMetrics)
        );
        for _ in 0..10 {
            log.write_all(b"a line\n").unwrap();
        }
        let dropped = log.error_counter().dropped_lines();
        // Two wait, and one more may be with the writer.
        assert!([7, 8].contains(&dropped), "{dropped}");
        let counted = format!("\npenr_webhooks_log_lines_dropped_total {dropped}\n");
        assert!(metrics.render(Format::OpenMetrics).contains(&counted), "{}", metrics.render(Format::OpenMetrics));
        drop(read);
    }
}
