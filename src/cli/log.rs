//! Logs to stderr without ever waiting for it. Other crates log from WARN on only: below that, the database driver and the
//! HTTP and AMQP clients log what they send and receive.

use std::io::{BufWriter, stderr};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::terminal;
use crate::config::{Log, LogFormat};

/// Lines that are buffered when stderr is not read; further ones are dropped and counted.
const BUFFERED_LINES: usize = 32 * 1024;

/// The running log.
pub(super) struct Writing {
    /// Writes the buffered lines when it is dropped.
    _until: WorkerGuard,
    pub(super) dropped_lines: ErrorCounter,
}

pub(super) fn start(settings: &Log) -> Writing {
    // With a buffer, the writer's thread makes one system call for all lines since its last flush.
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(BUFFERED_LINES).finish(BufWriter::new(stderr()));
    let dropped_lines = writer.error_counter();
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(terminal::has_colours(&stderr()));
    let layer = match settings.format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    let filter: EnvFilter = settings.filter.parse().expect("checked with the settings");
    // Switched off are crates that log customers' data, or what our own log says already.
    let ours = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("penr_webhooks", LevelFilter::TRACE)
        // Lost connections, which our log has.
        .with_target("deadpool", LevelFilter::OFF)
        // Frames that it cannot parse, with their data.
        .with_target("lapin", LevelFilter::OFF)
        // Both DNS crates log host names of customers.
        .with_target("hickory_net", LevelFilter::OFF)
        .with_target("hickory_resolver", LevelFilter::OFF)
        // Certificates of receivers.
        .with_target("rustls_platform_verifier", LevelFilter::OFF)
        // Failed migrations, whose errors our log has.
        .with_target("refinery_core", LevelFilter::OFF);
    tracing_subscriber::registry().with(layer.with_filter(filter).with_filter(ours)).init();
    Writing { _until: guard, dropped_lines }
}
