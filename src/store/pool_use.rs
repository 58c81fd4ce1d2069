//! How much of a pool is used, for the metrics.

use std::ops::Deref;

use deadpool_postgres::Pool;

use crate::durations::Durations;

/// The bounds of the buckets in which waits for a connection are counted, in seconds.
pub(crate) const WAITS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// How many connections of a pool are lent, how many are not, and how many there may be.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct PoolUse {
    pub(crate) busy: usize,
    pub(crate) idle: usize,
    pub(crate) limit: usize,
}

/// A pool, and how long callers waited for its connections.
pub(super) struct MeasuredPool {
    pool: Pool,
    pub(super) waits: Durations,
}

impl MeasuredPool {
    pub(super) fn of(pool: Pool) -> Self {
        Self { pool, waits: Durations::new(&WAITS) }
    }

    pub(super) fn used(&self) -> PoolUse {
        let status = self.pool.status();
        PoolUse { busy: status.size.saturating_sub(status.available), idle: status.available, limit: status.max_size }
    }
}

impl Deref for MeasuredPool {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.pool
    }
}
