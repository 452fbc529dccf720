//! Sampling: decides once per request whether it is recorded, by its trace context only.

use super::context::{Context, RECORDED};
use crate::config::traces::Traces;

/// A sampler by the decision of the caller or by the trace id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampler {
    follow_parent: bool,
    /// A request is recorded if half of the lower 64 bits of its trace id is below this, as in the OpenTelemetry SDKs.
    /// So hosts with the same ratio record the same traces.
    below: u64,
}

impl Sampler {
    /// Creates a sampler with these settings.
    pub(super) fn new(traces: &Traces) -> Self {
        // At 1 this is 2^63, which no shifted id reaches. A float to an integer saturates.
        let below = (traces.sample * (1u64 << 63) as f64) as u64;
        Self { follow_parent: traces.follow_parent, below }
    }

    /// Whether a request is recorded.
    pub(super) fn records(&self, context: &Context) -> bool {
        if self.follow_parent && !context.deferred {
            return context.flags & RECORDED != 0;
        }
        (context.trace_id as u64) >> 1 < self.below
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::ids::Ids;
    use crate::telemetry::traces::context::Form;

    fn sampler(sample: f64, follow_parent: bool) -> Sampler {
        Sampler::new(&Traces { sample, follow_parent, ..config::resolve(&[]).unwrap().config.traces })
    }

    #[test]
    fn by_share() {
        let ids = Ids::new();
        for (share, low, high) in [(0.0, 0, 0), (0.1, 800, 1200), (0.5, 4700, 5300), (1.0, 10_000, 10_000)] {
            let sampler = sampler(share, true);
            let taken = (0..10_000).filter(|_| sampler.records(&Context::root(ids.trace(), Form::W3C))).count();
            assert!((low..=high).contains(&taken), "{taken} of 10000 at {share}");
        }
        // The threshold is the same as in the SDKs.
        let half = sampler(0.5, true);
        assert!(half.records(&Context::root(0x7fff_ffff_ffff_ffff, Form::W3C)));
        assert!(!half.records(&Context::root(0x8000_0000_0000_0000, Form::W3C)));
    }

    #[test]
    fn by_parent() {
        let said = |flags| Context { flags, deferred: false, parent: 1, ..Context::root(1, Form::W3C) };
        assert!(sampler(0.0, true).records(&said(RECORDED)));
        assert!(!sampler(1.0, true).records(&said(0)));
        assert!(sampler(1.0, false).records(&said(0)));
        assert!(!sampler(0.0, false).records(&said(RECORDED)));
        let deferred = Context { deferred: true, ..said(0) };
        assert!(sampler(1.0, true).records(&deferred));
    }
}
