//! What SIGTERM and SIGINT do to a command: they end it at once, unless it has a way of its own to stop.
//!
//! Somebody handles both from the first instruction of `main` on. As process 1, which a container's program is, the kernel
//! drops a signal that nobody handles, and the command would go on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// As a shell reports a process ended by SIGINT.
const INTERRUPTED: u8 = 130;
/// The same by SIGTERM.
const TERMINATED: u8 = 143;

/// Both signals, handled.
pub(super) struct Signals {
    end_at_once: Arc<AtomicBool>,
}

impl Signals {
    pub(super) fn handle() -> io::Result<Self> {
        let end_at_once = Arc::new(AtomicBool::new(true));
        for (signal, status) in [(SIGINT, INTERRUPTED), (SIGTERM, TERMINATED)] {
            register_conditional_shutdown(signal, status.into(), end_at_once.clone())?;
        }
        Ok(Self { end_at_once })
    }

    /// From here on the caller hears of them, and they end nothing at once until it drops what it hears with.
    pub(super) fn hear(&self) -> io::Result<Heard> {
        let heard = Heard {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            end_at_once: self.end_at_once.clone(),
        };
        // Only now: a signal before this line has ended the process, one after it is heard.
        self.end_at_once.store(false, Ordering::SeqCst);
        Ok(heard)
    }

    /// The first is a graceful stop, the second an immediate exit.
    pub(super) fn stop(&self, stop: CancellationToken) -> io::Result<()> {
        let mut heard = self.hear()?;
        // Lives as long as the process: it is what ends it.
        tokio::spawn(async move {
            heard.next().await;
            tracing::info!("stopping, a second signal exits at once");
            stop.cancel();
            heard.next().await;
            tracing::info!("exiting at once");
            std::process::exit(INTERRUPTED.into());
        });
        Ok(())
    }
}

pub(super) struct Heard {
    interrupt: Signal,
    terminate: Signal,
    end_at_once: Arc<AtomicBool>,
}

impl Heard {
    /// The exit code of a command that a signal ends.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
        }
    }

    /// The same, and the next one ends the process at once.
    pub(super) async fn first(&mut self) -> u8 {
        let code = self.next().await;
        self.end_at_once.store(true, Ordering::SeqCst);
        code
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.end_at_once.store(true, Ordering::SeqCst);
    }
}
