//! The two text formats of metrics, and which of them a caller asks for.
//!
//! OpenMetrics 1.0 is for those who ask for it, as Prometheus does. Everybody else gets the classic format
//! (`text/plain; version=0.0.4`), which every tool reads.

/// A format of the metrics' text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Classic,
    OpenMetrics,
}

impl Format {
    /// The format for a header `Accept` (RFC 9110, 12.5.1). OpenMetrics must be named, and be worth no less than plain text.
    pub fn asked_by(accept: &str) -> Self {
        let mut plain = (0, 0.0);
        let mut open_metrics: f64 = 0.0;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let quality = quality.map_or(Some(1.0), |quality| quality.trim().parse::<f64>().ok()).unwrap_or(0.0);
            // The most specific range decides about plain text.
            let specific = match &kind[..] {
                "application/openmetrics-text" => {
                    open_metrics = open_metrics.max(quality);
                    continue;
                }
                "text/plain" => 3,
                "text/*" => 2,
                "*/*" => 1,
                _ => continue,
            };
            if specific > plain.0 || specific == plain.0 && quality > plain.1 {
                plain = (specific, quality);
            }
        }
        if open_metrics > 0.0 && open_metrics >= plain.1 { Self::OpenMetrics } else { Self::Classic }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Turns OpenMetrics text into the classic format: there a counter's family has the name of its samples, an info is a gauge,
/// and units and the end are not told.
pub(super) fn classic(open_metrics: &str) -> String {
    let (mut text, mut help) = (String::with_capacity(open_metrics.len()), None);
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take() {
                text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_name_it() {
        use Format::{Classic, OpenMetrics};
        for (accept, format) in [
            ("", Classic),
            ("*/*", Classic),
            ("application/json", Classic),
            ("text/html, text/plain;q=0.9", Classic),
            ("application/openmetrics-text", OpenMetrics),
            ("APPLICATION/OpenMetrics-Text; version=1.0.0", OpenMetrics),
            ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OpenMetrics),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=0.0.1;q=0.75", OpenMetrics),
            ("text/plain, application/openmetrics-text;q=0.5", Classic),
            ("application/openmetrics-text;q=0.5, text/plain;q=0.2, */*", OpenMetrics),
            ("application/openmetrics-text;q=0", Classic),
            ("application/openmetrics-text;q=none", Classic),
        ] {
            assert_eq!(Format::asked_by(accept), format, "{accept}");
        }
    }

    #[test]
    fn the_classic_format_names_families_as_their_samples() {
        let open_metrics = "# HELP a_b Made of b.\n# TYPE a_b counter\na_b_total{x=\"# 1\"} 3\n# HELP a_c_seconds Time.\n\
            # TYPE a_c_seconds gauge\n# UNIT a_c_seconds seconds\na_c_seconds 1.5\n# HELP a_d It.\n# TYPE a_d info\n\
            a_d_info{version=\"1\"} 1\n# EOF\n";
        let expected = "# HELP a_b_total Made of b.\n# TYPE a_b_total counter\na_b_total{x=\"# 1\"} 3\n\
            # HELP a_c_seconds Time.\n# TYPE a_c_seconds gauge\na_c_seconds 1.5\n# HELP a_d_info It.\n\
            # TYPE a_d_info gauge\na_d_info{version=\"1\"} 1\n";
        assert_eq!(classic(open_metrics), expected);
    }
}
