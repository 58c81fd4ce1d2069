//! After how long a silent peer counts as gone, on both sides of a connection to the database.

use std::time::Duration;

/// A peer that has acknowledged nothing for this long is gone (`tcp_user_timeout`).
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// A connection that was idle for this long is probed.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// So many probes without an answer end the connection.
pub(super) const PROBES: u32 = 3;
/// The time between two probes.
pub(super) const PROBES_APART: Duration = Duration::from_secs(5);
