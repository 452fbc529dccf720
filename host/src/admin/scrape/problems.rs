//! The metric of files that cannot be used.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::Scrape;
use crate::guests::snapshot::Snapshot;

impl Scrape {
    /// Writes how many files cannot be used now, by what they are for.
    pub(super) fn problems(&self, encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
        let help = "Files, and what is fetched, that cannot be used now, by the key that names them";
        let mut problems = encoder.encode_descriptor("lodge_problems", help, None, MetricType::Gauge)?;
        for (kind, count) in self.files.counts(snapshot) {
            problems.encode_family(&[("kind", kind)])?.encode_gauge(&count)?;
        }
        Ok(())
    }
}
