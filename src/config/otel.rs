//! The settings of traces. No error repeats a part of the endpoint: somebody may write a password there.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::bounds;

/// `[otel]`
#[derive(Debug, Clone, Deserialize)]
pub struct Otel {
    /// The URL that spans are sent to; `None`: no spans are made.
    #[serde(deserialize_with = "endpoint")]
    pub endpoint: Option<Url>,
    /// The share of the events without a trace of their publisher's for which a trace is begun.
    #[serde(deserialize_with = "bounds::share")]
    pub sample_ratio: f64,
}

/// The URL for traces at the collector that a setting names; `None` if its text is empty.
fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    traces_url(&text).map(Some).ok_or_else(|| {
        D::Error::custom("must have the form http://host:4318 or https://host:4318, without credentials and query")
    })
}

/// OTLP over HTTP takes traces at `v1/traces` below the address of a collector.
fn traces_url(text: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && !url.path().contains('@');
    if !["http", "https"].contains(&url.scheme()) || !is_plain || url.query().is_some() || url.fragment().is_some() {
        return None;
    }
    url.path_segments_mut().ok()?.pop_if_empty().extend(["v1", "traces"]);
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_for_traces_stands_below_the_collectors_address() {
        for (given, url) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://collector/otlp", "https://collector/otlp/v1/traces"),
            ("https://collector/otlp/", "https://collector/otlp/v1/traces"),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
        ] {
            assert_eq!(traces_url(given).unwrap().as_str(), url);
        }
    }

    #[test]
    fn what_is_no_address_of_a_collector_is_refused() {
        for given in
            ["collector:4318", "grpc://h:4317", "http://u:s3cret@h", "http://h?x", "http://h#x", "http://u:/s@h"]
        {
            assert!(traces_url(given).is_none(), "{given}");
        }
    }
}
