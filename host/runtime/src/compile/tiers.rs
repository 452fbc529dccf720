//! Which compiler a component gets, and the second one for those that got the fast one first.
//!
//! Winch takes about a fifth of Cranelift's time. A component that would keep its clients waiting for long is served with
//! Winch's code first, and compiled again by Cranelift meanwhile: see [`optimiser`](crate::optimiser).

use wasmparser::{Parser, Payload};

use super::Compiler;
use super::job::Kind;
use lodge_base::config::Tiers;

/// A file of at most so many bytes compiles in a moment, about a second for a megabyte of code.
pub(super) const SHORT: u64 = 1 << 20;

/// Winch is of wasmtime's first tier on this architecture and not yet on others.
const HAS_WINCH: bool = cfg!(target_arch = "x86_64");

impl Compiler {
    /// What to compile a component for, in the order of preference.
    pub(super) fn kinds(&self, component: &[u8], speaks_03: bool, again: bool) -> Vec<Kind> {
        let fast = HAS_WINCH && !again && self.tiers != Tiers::Optimised && code_size(component) > SHORT;
        let mut kinds = Vec::new();
        if fast {
            kinds.push(Kind { concurrent: speaks_03, baseline: true });
        }
        // The names of 0.3 interfaces stand in the file as they are; what else needs concurrency does not compile without.
        if !speaks_03 {
            kinds.push(Kind { concurrent: false, baseline: false });
        }
        kinds.push(Kind { concurrent: true, baseline: false });
        kinds
    }

    /// What may be in the cache, the best first.
    pub(super) fn stored(&self) -> Vec<Kind> {
        let both = |baseline| [false, true].map(|concurrent| Kind { concurrent, baseline });
        let mut kinds = both(false).to_vec();
        if HAS_WINCH && self.tiers != Tiers::Optimised {
            kinds.extend(both(true));
        }
        kinds
    }
}

/// Bytes of code in a component, which is what compiling takes its time for. Data and debug sections are not among them.
fn code_size(component: &[u8]) -> u64 {
    let code = |payload| match payload {
        Payload::CodeSectionStart { size, .. } => u64::from(size),
        _ => 0,
    };
    // What does not parse does not compile either, and is told so by the compiler.
    Parser::new(0).parse_all(component).map_while(Result::ok).map(code).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_counted_and_data_is_not() {
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
