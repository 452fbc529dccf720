//! Backtraces of guests: readable names of functions, without those of a language's own panics, and the part of a composition in which
//! a guest failed.

use std::fmt::{self, Write};
use std::ops::Range;

use rustc_demangle::demangle;
use wasmtime::WasmBacktrace;
use wasmtime::component::Component;

/// The most frames of a backtrace.
const FRAMES: usize = 32;

/// The most bytes of a name. A component may have names of any length, and mangled ones that expand to more.
const NAME_BYTES: usize = 240;

/// The crates of Rust's own library, which are above the function that panicked.
const LIBRARY: [&str; 7] =
    ["std", "core", "alloc", "__rustc", "panic_abort", "panic_unwind", "rustc_std_workspace_core"];

/// Functions of the same without a path: those of the C library and of the interface between Rust's own crates.
const PLAIN: [&str; 6] =
    ["abort", "rust_panic", "rust_begin_unwind", "__rust_start_panic", "__rust_abort", "__rust_foreign_exception"];

/// The images of the machine code of all parts of a composition, the outermost first.
#[derive(Debug)]
pub(crate) struct PartImages(Vec<Range<usize>>);

impl PartImages {
    /// Returns the images of these components.
    pub(crate) fn new<'a>(components: impl Iterator<Item = &'a Component>) -> Self {
        Self(components.map(|component| address(component.image_range())).collect())
    }

    /// Returns the positions of the parts in whose code an error was raised. One component may have several positions.
    pub(crate) fn positions(&self, error: &wasmtime::Error) -> Vec<usize> {
        let innermost = error.downcast_ref::<WasmBacktrace>().and_then(|backtrace| backtrace.frames().first());
        let Some(image) = innermost.map(|frame| address(frame.module().image_range())) else { return Vec::new() };
        self.0.iter().enumerate().filter(|(_, part)| **part == image).map(|(position, _)| position).collect()
    }
}

fn address(image: Range<*const u8>) -> Range<usize> {
    image.start.addr()..image.end.addr()
}

/// Returns the functions in which an error was raised, innermost first, by the guest's own names if it has them.
pub(crate) fn frames(error: &wasmtime::Error) -> Vec<String> {
    let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    let unnamed = |frame: &wasmtime::FrameInfo| format!("<wasm function {}>", frame.func_index());
    let frames = frames.iter().take(FRAMES);
    let names = frames.map(|frame| frame.func_name().map_or_else(|| unnamed(frame), readable));
    without_panic(names.collect())
}

/// Returns the name of a function as it is in the source, cut to [`NAME_BYTES`].
fn readable(name: &str) -> String {
    let mut text = CutText(String::new());
    // Without hashes. It fails when the text is full.
    let _ = write!(text, "{:#}", demangle(name));
    without_hash(&text.0).to_owned()
}

/// Returns a name without the hash that a linker leaves when it demangles a name of Rust itself.
fn without_hash(name: &str) -> &str {
    let is_hash = |hash: &str| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.rsplit_once("::h").filter(|(_, hash)| is_hash(hash)).map_or(name, |(name, _)| name)
}

/// Removes the innermost frames if they are those of a panic of Rust, up to the function that panicked.
fn without_panic(mut frames: Vec<String>) -> Vec<String> {
    let machinery = frames.iter().take_while(|name| is_library(name)).count();
    let panics = frames.iter().take(machinery).any(|name| name.contains("panic") || name.contains("begin_unwind"));
    if panics && machinery < frames.len() {
        frames.drain(..machinery);
    }
    frames
}

/// Whether a function is of Rust's own library: by its path, or that of the type that it is of.
fn is_library(name: &str) -> bool {
    let path = name.trim_start_matches(['<', '&', '*', '(', '[', ' ']);
    let path = ["dyn ", "mut ", "const "].iter().fold(path, |path, word| path.strip_prefix(word).unwrap_or(path));
    match path.split_once("::") {
        Some((of, _)) => LIBRARY.contains(&of),
        None => PLAIN.contains(&path),
    }
}

/// A text that takes no more than [`NAME_BYTES`].
struct CutText(String);

impl Write for CutText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = NAME_BYTES - self.0.len();
        let end = text.floor_char_boundary(room);
        self.0.push_str(text.get(..end).unwrap_or_default());
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_source() {
        for (mangled, name) in [
            ("_RNvCs1234_7___rustc17rust_begin_unwind", "__rustc::rust_begin_unwind"),
            ("_ZN4core9panicking9panic_fmt17h0123456789abcdefE", "core::panicking::panic_fmt"),
            ("users::run::h0123456789abcdef", "users::run"),
            ("users::host", "users::host"),
            ("main.main", "main.main"),
            ("", ""),
        ] {
            assert_eq!(readable(mangled), name);
        }
        let long = "é".repeat(10_000);
        assert_eq!(readable(&long).len(), NAME_BYTES);
        // Each of the types is twice the one before.
        let bomb = format!("_RIC0{}{}E", "TC0p".repeat(2), (0..60).map(|_| "TB0_B0_E").collect::<String>());
        assert!(readable(&bomb).len() <= NAME_BYTES);
    }

    #[test]
    fn the_function_that_panicked_is_first() {
        let frames = |names: &[&str]| without_panic(names.iter().map(|name| (*name).to_owned()).collect());
        let panic =
            ["abort", "std::process::abort", "__rustc::__rust_abort", "rust_panic", "core::panicking::panic_fmt"];
        let unwrap = "<alloc::vec::Vec<users::User> as core::ops::index::Index<usize>>::index";
        let own = ["users::find", "<users::Server as wasip2::Guest>::handle", "core::ops::function::FnOnce::call_once"];
        assert_eq!(frames(&[&panic[..], &[unwrap], &own].concat()), own);
        // A guest that has only these, and one that did not panic, keep them.
        assert_eq!(frames(&panic), panic);
        let trapped = ["core::hint::unreachable", "users::run"];
        assert_eq!(frames(&trapped), trapped);
        let other = ["panic_handler", "abort", "users::run"];
        assert_eq!(frames(&other), other, "a function of the guest");
        let stripped = ["<wasm function 7>", "<wasm function 9>"];
        assert_eq!(frames(&stripped), stripped);
    }
}
