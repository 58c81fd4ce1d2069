//! Gives each metric its name, its help and its unit. `docs/metrics.md` says more of each.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

impl Metrics {
    pub(super) fn register(&self) -> Registry {
        let mut all = Registry::with_prefix("penr_webhooks");
        all.register("build", "This program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        self.register_events_and_attempts(&mut all);
        self.register_steps(&mut all);
        self.register_broker(&mut all);
        self.register_database(&mut all);
        self.register_api(&mut all);
        all
    }

    /// What becomes of events.
    fn register_events_and_attempts(&self, all: &mut Registry) {
        all.register("events", "Broker messages that were events", self.events.family.clone());
        all.register("dead_letters", "Broker messages that were no events", self.dead_letters.family.clone());
        all.register("attempts", "HTTP requests by result and event type", self.attempts.family.clone());
        all.register_with_unit(
            "attempt_duration",
            "From an attempt's start to its result",
            Unit::Seconds,
            self.attempt_duration.clone(),
        );
        all.register_with_unit(
            "first_verdict",
            "From when a worker received an event to the first result of its delivery",
            Unit::Seconds,
            self.first_verdict.clone(),
        );
        all.register("in_flight", "Requests in flight", self.in_flight.clone());
        all.register("in_flight_limit", "The most requests in flight that there can be", self.in_flight_limit.clone());
        all.register("closed", "Deliveries that ended without a success", self.closed.family.clone());
        all.register("parked", "Fresh deliveries put into the database for their receiver's sake", self.parked.clone());
        all.register(
            "lane_held_back",
            "How often a webhook's lane was looked at and had no room, by what limited it",
            self.lane_held_back.clone(),
        );
    }

    /// What the steps between broker and database take.
    fn register_steps(&self, all: &mut Registry) {
        all.register_with_unit(
            "lookup_duration",
            "One statement that looked webhooks up",
            Unit::Seconds,
            self.lookup_duration.clone(),
        );
        all.register(
            "lookup_batch_size",
            "Pairs of account and event type that one statement looked up",
            self.lookup_batch_size.clone(),
        );
        all.register("recorded", "Results written to the database", self.recorded.clone());
        all.register_with_unit(
            "record_duration",
            "One transaction that wrote results",
            Unit::Seconds,
            self.record_duration.clone(),
        );
        all.register("record_batch_size", "Results that one transaction wrote", self.record_batch_size.clone());
        all.register_with_unit(
            "ack_duration",
            "From when results were recorded until the acks that could follow were written",
            Unit::Seconds,
            self.ack_duration.clone(),
        );
        all.register(
            "ack_batch_size",
            "Messages settled together after they were recorded",
            self.ack_batch_size.clone(),
        );
    }

    /// The broker.
    fn register_broker(&self, all: &mut Registry) {
        all.register(
            "spans_dropped",
            "Spans that could not be sent to the collector of traces",
            self.spans_dropped.clone(),
        );
        all.register("consumer_attached", "1 while this process takes events", self.consumer_attached.clone());
        all.register("consumer_losses", "Losses of the broker, a channel or a consumer", self.consumer_losses.clone());
        all.register(
            "queue_messages",
            "Messages that wait in a queue and that no worker has",
            self.queue_messages.clone(),
        );
        all.register("queue_consumers", "Consumers of a queue", self.queue_consumers.clone());
        all.register("unrouted", "Messages that no queue took, kept in a queue of their own", self.unrouted.clone());
        all.register("unacknowledged", "Broker messages that this worker has in hand", self.unacknowledged.clone());
        all.register("prefetch", "The most broker messages that this worker may have in hand", self.prefetch.clone());
        all.register(
            "queue_without_quorum",
            "1 while the worker queue has no quorum",
            self.queue_without_quorum.clone(),
        );
        all.register("isolated", "1 while broker messages are taken one at a time", self.isolated.clone());
        all.register("rights_missing", "1 while the broker refuses what a worker needs", self.rights_missing.clone());
        all.register("egress_out", "1 while no receiver can be reached from here", self.egress_out.clone());
    }

    /// The database, and what waits there.
    fn register_database(&self, all: &mut Registry) {
        all.register("database_waiting", "1 while something waits for the database", self.database_waiting.clone());
        all.register("database_read_only", "1 while the database refuses writes", self.database_read_only.clone());
        all.register("pending", "Deliveries waiting in the database", self.pending.clone());
        all.register("held", "Deliveries waiting in the database whose webhooks are held", self.held.clone());
        all.register("holds", "Holds of operators that are in force", self.holds.clone());
        all.register_with_unit("oldest_hold", "Age of the oldest hold", Unit::Seconds, self.oldest_hold.clone());
        all.register("releases", "Holds that are being released", self.releases.clone());
        all.register("held_all", "1 while everything is held, and no event is taken", self.held_all.clone());
        all.register(
            "due",
            "Deliveries due now, held ones and those of webhooks that are off left out",
            self.due.clone(),
        );
        all.register(
            "parked_waiting",
            "Deliveries waiting in the database that had no attempt yet",
            self.parked_waiting.clone(),
        );
        all.register_with_unit(
            "due_lag",
            "Lateness of the longest-waiting due delivery, those that wait for their webhook's pace left out",
            Unit::Seconds,
            self.due_lag.clone(),
        );
        all.register("pace_waiting", "Webhooks of which deliveries wait for their pace", self.pace_waiting.clone());
        all.register(
            "secrets_unopened",
            "Webhooks whose secret or headers cannot be decrypted, as far as met",
            self.secrets_unopened.clone(),
        );
        all.register("notices_waiting", "Notices that wait to be published", self.notices_waiting.clone());
        all.register_with_unit(
            "oldest_transaction",
            "Age of the database's oldest transaction",
            Unit::Seconds,
            self.oldest_transaction.clone(),
        );
        all.register(
            "oldest_snapshot",
            "Transactions begun since the database's oldest snapshot",
            self.oldest_snapshot.clone(),
        );
        all.register(
            "partitions_ahead",
            "Days from today on that have all their partitions",
            self.partitions_ahead.clone(),
        );
        all.register(
            "upkeep_failures",
            "Runs of the partitions' upkeep that failed",
            self.upkeep_failures.family.clone(),
        );
        all.register("processes", "Processes seen lately, by role", self.processes.clone());
        all.register_collector(Box::new(self.pools.clone()));
    }

    /// The API.
    fn register_api(&self, all: &mut Registry) {
        all.register("api_requests", "The API's answers", self.api_requests.clone());
        all.register_with_unit(
            "api_request_duration",
            "From a request to its answer",
            Unit::Seconds,
            self.api_request_duration.clone(),
        );
        all.register(
            "api_connections_closed",
            "Waiting connections of the API closed to make room for others",
            self.api_connections_closed.clone(),
        );
    }
}
