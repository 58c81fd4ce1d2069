//! The use of the pools of connections to PostgreSQL, read at every scrape. A process has one pool for each role, and an API one
//! more connection for readiness.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::histogram::buckets;
use super::labels::StateLabel;
use crate::store::{PoolUse, Store, WAITS};

/// The stores of this process.
#[derive(Clone, Default)]
pub(super) struct Pools(Arc<Mutex<Vec<Store>>>);

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pools")
    }
}

impl Pools {
    pub(super) fn add(&self, store: Store) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(store);
    }
}

impl Collector for Pools {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut all, mut counts, mut seconds) = (PoolUse::default(), vec![0; WAITS.len() + 1], 0.0);
        for store in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let of_one = store.pool_use();
            all.busy += of_one.busy;
            all.idle += of_one.idle;
            all.limit += of_one.limit;
            let waits = store.connection_waits();
            counts.iter_mut().zip(waits.counts()).for_each(|(sum, count)| *sum += count);
            seconds += waits.seconds();
        }
        let number = |number: usize| ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
        let help = "Connections of the pools to PostgreSQL, by whether they are lent";
        let mut states = encoder.encode_descriptor("database_connections", help, None, MetricType::Gauge)?;
        for (state, count) in [("busy", all.busy), ("idle", all.idle)] {
            number(count).encode(states.encode_family(&StateLabel { state })?)?;
        }
        let help = "The most connections that the pools take";
        number(all.limit).encode(encoder.encode_descriptor(
            "database_connections_limit",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let (help, unit) = ("The wait for a connection of a pool", Some(&Unit::Seconds));
        let mut waits = encoder.encode_descriptor("database_connection_wait", help, unit, MetricType::Histogram)?;
        waits.encode_histogram::<NoLabelSet>(seconds, counts.iter().sum(), &buckets(&WAITS, &counts), None)
    }
}
