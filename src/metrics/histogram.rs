//! What is counted in histograms, and how [`Durations`] are shown as one.

use std::fmt;
use std::time::Instant;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};

use crate::durations::Durations;

/// Counts a number of things.
pub fn observe_size(histogram: &Histogram, size: usize) {
    histogram.observe(f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
}

/// Counts the time since an instant.
pub fn observe_since(histogram: &Histogram, since: Instant) {
    histogram.observe(since.elapsed().as_secs_f64());
}

/// Buckets as the encoder takes them: the last one has no bound.
pub(super) fn buckets(bounds: &[f64], counts: &[u64]) -> Vec<(f64, u64)> {
    bounds.iter().copied().chain([f64::INFINITY]).zip(counts.iter().copied()).collect()
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let counts = self.counts();
        let buckets = buckets(self.bounds(), &counts);
        encoder.encode_histogram::<NoLabelSet>(self.seconds(), counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}
