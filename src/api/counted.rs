//! The answers that the metrics show from the start, at 0: a first failure is then seen as an increase.

use crate::metrics::Metrics;

use super::{openapi, page};

/// Answers that the description does not have.
const OTHERS: [(&str, &str, &str); 7] = [
    ("GET", openapi::PATH, "2xx"),
    ("GET", page::PATH, "2xx"),
    ("GET", UNKNOWN, "4xx"),
    ("POST", UNKNOWN, "4xx"),
    ("PATCH", UNKNOWN, "4xx"),
    ("DELETE", UNKNOWN, "4xx"),
    ("other", UNKNOWN, "4xx"),
];

/// The route of paths that no route has.
pub(super) const UNKNOWN: &str = "none";

/// The label for a status.
pub(super) fn class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// Shows every kind of answer that the API describes: a method, a route and a class of statuses.
pub(super) fn expect_all(metrics: &Metrics) {
    for (route, item) in &openapi::document().paths.paths {
        let methods = [("GET", &item.get), ("POST", &item.post), ("PATCH", &item.patch), ("DELETE", &item.delete)];
        for (method, operation) in methods {
            let statuses = operation.iter().flat_map(|operation| operation.responses.responses.keys());
            for status in statuses.filter_map(|status| status.parse().ok()) {
                metrics.expect_answer(method, route, class(status));
            }
        }
    }
    for (method, route, status) in OTHERS {
        metrics.expect_answer(method, route, status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Format;

    #[test]
    fn every_operation_has_its_answers_at_0_from_the_start() {
        let metrics = Metrics::default();
        expect_all(&metrics);
        let (text, mut operations) = (metrics.render(Format::Classic), 0);
        for (route, item) in openapi::document().paths.paths {
            for (method, operation) in
                [("GET", item.get), ("POST", item.post), ("PATCH", item.patch), ("DELETE", item.delete)]
            {
                if operation.is_none() {
                    continue;
                }
                operations += 1;
                for status in ["2xx", "4xx", "5xx"] {
                    let line = format!(
                        "penr_webhooks_api_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} 0\n"
                    );
                    assert!(text.contains(&line), "{line}{text}");
                }
            }
        }
        assert!(operations > 10);
    }
}
