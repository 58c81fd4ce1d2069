//! Turns the first SIGTERM or SIGINT into a graceful stop and the second into an immediate exit.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// As a shell reports a process ended by SIGINT.
const EXIT_AT_ONCE: i32 = 130;

pub(super) fn stop_on_signal(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Lives as long as the process: it is what ends it.
    tokio::spawn(async move {
        for ask in ["stopping, a second signal exits at once", "exiting at once"] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("{ask}");
            if stop.is_cancelled() {
                std::process::exit(EXIT_AT_ONCE);
            }
            stop.cancel();
        }
    });
    Ok(())
}
