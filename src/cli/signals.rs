//! SIGTERM and SIGINT end a command at once, unless the command listens for them and stops in its own way.
//!
//! Handlers for both are installed first in `main`: the kernel drops a signal without a handler when the program is process
//! 1, as in a container, and the command would go on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;
/// The exit code after SIGTERM.
const TERMINATED: u8 = 143;
/// The exit code after SIGHUP.
pub(super) const HUNG_UP: u8 = 129;

/// The installed handlers.
pub(super) struct Signals {
    end_at_once: Arc<AtomicBool>,
}

impl Signals {
    /// Installs handlers that end the process at once.
    ///
    /// # Errors
    ///
    /// The system refuses a handler.
    pub(super) fn handle() -> io::Result<Self> {
        let end_at_once = Arc::new(AtomicBool::new(true));
        for (signal, status) in [(SIGINT, INTERRUPTED), (SIGTERM, TERMINATED)] {
            register_conditional_shutdown(signal, status.into(), end_at_once.clone())?;
        }
        Ok(Self { end_at_once })
    }

    /// Gives the signals to the caller: they do not end the process any more, until the returned value is dropped.
    ///
    /// # Errors
    ///
    /// The system refuses a handler.
    pub(super) fn receiver(&self) -> io::Result<SignalReceiver> {
        let receiver = SignalReceiver {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: None,
            end_at_once: self.end_at_once.clone(),
        };
        // Last, so that no signal is lost: one before this line ends the process, one after it reaches the receiver.
        self.end_at_once.store(false, Ordering::SeqCst);
        Ok(receiver)
    }

    /// Cancels `stop` at the first signal and exits at the second.
    ///
    /// # Errors
    ///
    /// The system refuses a handler.
    pub(super) fn stop(&self, stop: CancellationToken) -> io::Result<()> {
        let mut receiver = self.receiver()?;
        // This task is owned by nobody and lives as long as the process, which it may end.
        tokio::spawn(async move {
            receiver.next().await;
            tracing::info!("stopping, a second signal exits at once");
            stop.cancel();
            receiver.next().await;
            tracing::info!("exiting at once");
            std::process::exit(INTERRUPTED.into());
        });
        Ok(())
    }
}

/// Receives SIGHUP, which comes when the terminal is closed. Without this the kernel ends the process.
///
/// # Errors
///
/// The system refuses a handler.
pub(super) fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Whether SIGHUP is ignored, as Linux tells: the lowest bit of a hexadecimal number.
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Receives the signals for one command.
pub(super) struct SignalReceiver {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    end_at_once: Arc<AtomicBool>,
}

impl SignalReceiver {
    /// Also receives SIGHUP, unless whoever started the process has it ignored, as `nohup` does.
    ///
    /// # Errors
    ///
    /// The system refuses a handler.
    pub(super) fn with_hangups(mut self) -> io::Result<Self> {
        if !ignores_hangups() {
            self.hangup = Some(hangups()?);
        }
        Ok(self)
    }

    /// Waits for a signal and returns the exit code that belongs to it.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
            Some(_) = async { self.hangup.as_mut()?.recv().await } => HUNG_UP,
        }
    }

    /// Like `next`, and lets the next signal end the process at once.
    pub(super) async fn first(&mut self) -> u8 {
        let code = self.next().await;
        self.end_at_once.store(true, Ordering::SeqCst);
        code
    }
}

impl Drop for SignalReceiver {
    fn drop(&mut self) {
        self.end_at_once.store(true, Ordering::SeqCst);
    }
}
