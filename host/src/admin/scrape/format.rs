//! The two formats of `/metrics`: OpenMetrics, and the text format of Prometheus before it, which older scrapers read.
//!
//! The series are the same in both. The older format names a counter family by its samples (`x_total`) and has no
//! `info` type, `# UNIT` or `# EOF` (Prometheus: "Exposition formats").

use std::fmt::Write as _;

use http::HeaderMap;
use http::header::ACCEPT;

/// A format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format 0.0.4.
    Text,
}

impl Format {
    /// Returns the format that a scraper prefers by its `Accept` (RFC 9110, 12.5.1): OpenMetrics, unless the header has only
    /// the older text format or gives it more weight.
    pub fn preferred(headers: &HeaderMap) -> Self {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in accepts.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            match &*kind {
                "application/openmetrics-text" | "application/*" => open = open.max(weight),
                "text/plain" | "text/*" => text = text.max(weight),
                _ => {}
            }
        }
        if text > open { Self::Text } else { Self::OpenMetrics }
    }

    /// Returns the value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Converts OpenMetrics text to this format.
    pub fn write(self, open: String) -> String {
        match self {
            Self::OpenMetrics => open,
            Self::Text => to_text(&open),
        }
    }
}

/// Converts OpenMetrics text to the older format. Series lines are the same; HELP comes before TYPE for every family.
fn to_text(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((family, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "gauge" | "histogram" | "summary" => ("", kind),
                _ => ("", "untyped"),
            };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == family) {
                // Writing to memory cannot fail.
                let _ = writeln!(text, "# HELP {family}{suffix} {words}");
            }
            let _ = writeln!(text, "# TYPE {family}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferred_format() {
        let preferred = |accept: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            Format::preferred(&headers)
        };
        for (accept, format) in [
            (&[][..], Format::OpenMetrics),
            (&["*/*"], Format::OpenMetrics),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Format::OpenMetrics),
            (&["text/plain;version=0.0.4"], Format::Text),
            (&["text/plain"], Format::Text),
            (&["text/plain;version=0.0.4;q=0.5, */*;q=0.1"], Format::Text),
            (&["application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"], Format::OpenMetrics),
            (&["application/openmetrics-text;version=1.0.0;q=0.1", "TEXT/plain;q=0.2"], Format::Text),
            (&["application/openmetrics-text;q=0.3,text/plain;q=nonsense"], Format::OpenMetrics),
        ] {
            assert_eq!(preferred(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn older_text_format() {
        let open = "# HELP a_seconds Time # of.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
            a_seconds_bucket{le=\"+Inf\"} 1\n# HELP b Counted.\n# TYPE b counter\nb_total{x=\"# TYPE \"} 2\n\
            # HELP c Versions.\n# TYPE c info\nc_info{v=\"1\"} 1\n# TYPE d unknown\nd 1\n# EOF\n";
        let text = "# HELP a_seconds Time # of.\n# TYPE a_seconds histogram\na_seconds_bucket{le=\"+Inf\"} 1\n\
            # HELP b_total Counted.\n# TYPE b_total counter\nb_total{x=\"# TYPE \"} 2\n\
            # HELP c_info Versions.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n# TYPE d untyped\nd 1\n";
        assert_eq!(Format::Text.write(open.into()), text);
        assert_eq!(Format::OpenMetrics.write(open.into()), open);
    }
}
