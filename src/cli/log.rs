//! Logs to stderr without ever waiting for it. Other crates are heard from WARN on only: at lower levels the database
//! driver and the HTTP and AMQP clients log what they send and receive.

use std::io::{BufWriter, IsTerminal as _, stderr};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};

/// Lines kept for a reader that does not read; more are dropped.
const BUFFERED_LINES: usize = 32 * 1024;

/// A log that is written.
pub(super) struct Writing {
    /// Dropped, it writes out what is left.
    _until: WorkerGuard,
    pub(super) dropped_lines: ErrorCounter,
}

pub(super) fn start(settings: &Log) -> Writing {
    // Buffered: the writer's thread flushes whenever it has caught up, one system call for all lines since.
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(BUFFERED_LINES).finish(BufWriter::new(stderr()));
    let dropped_lines = writer.error_counter();
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(stderr().is_terminal());
    let layer = match settings.format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    let filter: EnvFilter = settings.filter.parse().expect("checked with the settings");
    // The AMQP client shows what it cannot parse, the DNS client every customer's name that fails, the verifier each
    // certificate of a customer's that is wrong, the pool each connection that an outage costs, and the migrations what
    // our own error says.
    let ours = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("penr_webhooks", LevelFilter::TRACE)
        .with_target("deadpool", LevelFilter::OFF)
        .with_target("lapin", LevelFilter::OFF)
        .with_target("hickory_net", LevelFilter::OFF)
        .with_target("hickory_resolver", LevelFilter::OFF)
        .with_target("rustls_platform_verifier", LevelFilter::OFF)
        .with_target("refinery_core", LevelFilter::OFF);
    tracing_subscriber::registry().with(layer.with_filter(filter).with_filter(ours)).init();
    Writing { _until: guard, dropped_lines }
}
