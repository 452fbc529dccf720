//! The choice of compilers for a component.
//!
//! Winch takes about a fifth of Cranelift's time. A component that would delay its clients for long is served with
//! Winch's code first, and compiled again by Cranelift meanwhile: see [`optimiser`](crate::optimiser).

use wasmparser::{Parser, Payload};

use super::Compiler;
use super::job::CodeKind;
use lodge_base::config::Tiers;

/// The largest component that is compiled only once. A megabyte of code takes about a second.
pub(super) const SHORT: u64 = 1 << 20;

/// Winch is a tier-1 feature of wasmtime on this architecture, and not yet on others.
const HAS_WINCH: bool = cfg!(target_arch = "x86_64");

impl Compiler {
    /// The kinds of machine code for a component, in the order of preference.
    pub(super) fn kinds(&self, component: &[u8], speaks_03: bool, again: bool) -> Vec<CodeKind> {
        let fast = HAS_WINCH && !again && self.tiers != Tiers::Optimised && code_size(component) > SHORT;
        let mut kinds = Vec::new();
        if fast {
            kinds.push(CodeKind { concurrent: speaks_03, baseline: true });
        }
        // The names of 0.3 interfaces are in the file. Other components that need concurrency do not compile without
        // it.
        if !speaks_03 {
            kinds.push(CodeKind { concurrent: false, baseline: false });
        }
        kinds.push(CodeKind { concurrent: true, baseline: false });
        kinds
    }

    /// The kinds that may be in the cache, the best first.
    pub(super) fn stored(&self) -> Vec<CodeKind> {
        let both = |baseline| [false, true].map(|concurrent| CodeKind { concurrent, baseline });
        let mut kinds = both(false).to_vec();
        if HAS_WINCH && self.tiers != Tiers::Optimised {
            kinds.extend(both(true));
        }
        kinds
    }
}

/// The bytes of code in a component, which determine the time of compilation. Excludes data and debug sections.
fn code_size(component: &[u8]) -> u64 {
    let code = |payload| match payload {
        Payload::CodeSectionStart { size, .. } => u64::from(size),
        _ => 0,
    };
    // The compiler reports what cannot be parsed.
    Parser::new(0).parse_all(component).map_while(Result::ok).map(code).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_counted() {
        let component = |data: usize, functions: usize| {
            let function = format!("(func (result i32) {} i32.const 7)", "nop ".repeat(100));
            let text = format!(
                "(component (core module {} (memory 1) (data (i32.const 0) \"{}\")) (core module {}))",
                function.repeat(functions),
                "x".repeat(data),
                function.repeat(functions)
            );
            code_size(&wat::parse_str(text).unwrap())
        };
        assert!(component(60_000, 1) < 300);
        let (one, ten) = (component(0, 1), component(0, 10));
        assert!(ten > 9 * one && one > 200, "{one} {ten}");
        assert_eq!(code_size(b"rubbish"), 0);
    }
}
