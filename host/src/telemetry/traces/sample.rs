//! Which requests are recorded. Decided once, before anything is known of a request but its trace.

use super::context::{Context, RECORDED};
use crate::config::traces::Traces;

/// The decision, by the caller's word or by the trace id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampler {
    follow_parent: bool,
    /// Half of the trace ids' lower 64 bits that are recorded, as the SDKs of OpenTelemetry have it: hosts with the
    /// same share take the same traces.
    below: u64,
}

impl Sampler {
    /// As the settings say.
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
    use crate::base::ids::Ids;
    use crate::config;
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
        // The edge of the SDKs: ids whose lower 63 bits, without the last, are under half of all.
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
