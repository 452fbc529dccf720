//! One run of the compiler: its job and its result, and how both are written between two processes.
//!
//! Both ends are the same program, so the format has no versions. All numbers are little-endian.

use std::io::{self, Read, Write};
use std::time::Duration;

use wasmtime::{Engine, Strategy, WasmFeatures};

use super::one_line::one_line;

/// The first bytes of a job, to distinguish it from other input.
const MAGIC: [u8; 8] = *b"lodgejob";
/// The bytes before a component: the magic, four numbers and three flags.
const HEAD: usize = 8 + 4 * 8 + 3;
/// The bytes before machine code or a message: its type and its length.
const RESULT_HEAD: usize = 1 + 8;

/// The kind of machine code. Code of one kind does not run on the engine of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeKind {
    /// With the bookkeeping of concurrent tasks, which WASI 0.3 needs.
    pub concurrent: bool,
    /// Compiled by Winch: in about a fifth of Cranelift's time, to slower code.
    pub baseline: bool,
}

/// The bounds of one run of the compiler.
#[derive(Clone, Copy, Debug)]
pub(super) struct CompileJob {
    pub(super) kind: CodeKind,
    /// Whether nothing waits for the code: it replaces code that serves already.
    pub(super) replaces: bool,
    /// The number of threads.
    pub(super) threads: usize,
    /// The bytes of address space.
    pub(super) memory: u64,
    /// The CPU time of all threads. The system counts whole seconds, so it is rounded up.
    pub(super) time: Duration,
}

/// The niceness of a compiler whose code `replaces` code that serves already, or is the first.
pub(super) const fn niceness(replaces: bool) -> i32 {
    if replaces { 19 } else { 10 }
}

impl CodeKind {
    /// Sets what machine code depends on. The engines of a host and of its compilers must agree in all of it.
    pub(super) fn configure(self, config: &mut wasmtime::Config) {
        config
            .strategy(if self.baseline { Strategy::Winch } else { Strategy::Cranelift })
            .epoch_interruption(true)
            // wasmtime 48.0.8 without its `gc` feature accepts modules with subtypes of function types, and the first
            // indirect call through one with another signature aborts the process (RUSTSEC-2026-0570).
            .wasm_features(WasmFeatures::GC, false)
            .wasm_component_model_async(self.concurrent)
            .concurrency_support(self.concurrent);
    }

    /// Creates an engine that only compiles: it reserves no address space.
    pub(super) fn engine(self) -> wasmtime::Result<Engine> {
        let mut config = wasmtime::Config::new();
        self.configure(&mut config);
        Engine::new(&config)
    }

    /// Compiles a component, or returns why that failed.
    pub(super) fn compile(self, component: &[u8]) -> Result<Vec<u8>, String> {
        self.engine().and_then(|engine| engine.precompile_component(component)).map_err(|error| one_line(&error))
    }
}

impl CompileJob {
    /// The niceness of its compiler. A service that has no code yet is worth a tenth of a busy core, at most: at the lowest
    /// priority it would get about a hundredth.
    pub(super) const fn niceness(&self) -> i32 {
        niceness(self.replaces)
    }

    /// Writes the job of the process `parent`, and the component.
    pub(super) fn write(&self, parent: u32, component: &[u8], into: &mut impl Write) -> io::Result<()> {
        let seconds = self.time.as_secs() + u64::from(self.time.subsec_nanos() > 0);
        let mut head = Vec::with_capacity(HEAD);
        head.extend(MAGIC);
        for number in [u64::from(parent), self.threads as u64, self.memory, seconds.max(1)] {
            head.extend(number.to_le_bytes());
        }
        head.extend([self.kind.concurrent, self.kind.baseline, self.replaces].map(u8::from));
        into.write_all(&head)?;
        into.write_all(&(component.len() as u64).to_le_bytes())?;
        into.write_all(component)?;
        into.flush()
    }

    /// Reads a job, and the process id of the parent. The component follows: [`blob`].
    pub(super) fn read(from: &mut impl Read) -> io::Result<(Self, u32)> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a running lodge starts this command; it is not for use by hand",
            ));
        }
        let (parent, threads, memory, seconds) = (number(from)?, number(from)?, number(from)?, number(from)?);
        let mut flags = [0; 3];
        from.read_exact(&mut flags)?;
        let [concurrent, baseline, replaces] = flags.map(|flag| flag != 0);
        let kind = CodeKind { concurrent, baseline };
        let narrow = |number: u64| u32::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let (threads, time) = (narrow(threads)? as usize, Duration::from_secs(seconds));
        let job = Self { kind, replaces, threads, memory, time };
        Ok((job, narrow(parent)?))
    }
}

/// Writes the result: machine code, or the error message.
pub(super) fn write_result(result: &Result<Vec<u8>, String>, into: &mut impl Write) -> io::Result<()> {
    let (bytes, good) = match result {
        Ok(code) => (code.as_slice(), 1),
        Err(why) => (why.as_bytes(), 0),
    };
    let mut head = Vec::with_capacity(RESULT_HEAD);
    head.push(good);
    head.extend((bytes.len() as u64).to_le_bytes());
    into.write_all(&head)?;
    into.write_all(bytes)?;
    into.flush()
}

/// Reads the result, at most `most` bytes of it.
pub(super) fn read_result(from: &mut impl Read, most: u64) -> io::Result<Result<Vec<u8>, String>> {
    let mut good = [0];
    from.read_exact(&mut good)?;
    let bytes = blob(from, most)?;
    Ok(if good == [1] { Ok(bytes) } else { Err(String::from_utf8_lossy(&bytes).into_owned()) })
}

/// Reads bytes after their number, which is at most `most`.
pub(super) fn blob(from: &mut impl Read, most: u64) -> io::Result<Vec<u8>> {
    let length = number(from)?;
    let short = usize::try_from(length).ok().filter(|_| length <= most);
    let length = short.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "too many bytes"))?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(io::Error::other)?;
    bytes.resize(length, 0);
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [CodeKind; 4] = [
        CodeKind { concurrent: false, baseline: false },
        CodeKind { concurrent: true, baseline: false },
        CodeKind { concurrent: false, baseline: true },
        CodeKind { concurrent: true, baseline: true },
    ];

    #[test]
    fn a_job_survives_writing_and_reading() {
        for kind in KINDS {
            let job = CompileJob {
                kind,
                replaces: kind.concurrent,
                threads: 3,
                memory: 1 << 40,
                time: Duration::from_millis(1_001),
            };
            let mut bytes = Vec::new();
            job.write(42, b"wasm", &mut bytes).unwrap();
            let mut from = bytes.as_slice();
            let (read, parent) = CompileJob::read(&mut from).unwrap();
            assert_eq!((read.kind, read.threads, read.memory, parent), (kind, 3, 1 << 40, 42));
            assert_eq!(read.replaces, kind.concurrent);
            assert_eq!(read.time, Duration::from_secs(2), "whole seconds, rounded up");
            assert_eq!((blob(&mut from, 4).unwrap().as_slice(), from), (&b"wasm"[..], &b""[..]));
            for cut in 0..bytes.len() {
                let mut from = &bytes[..cut];
                assert!(CompileJob::read(&mut from).and_then(|_| blob(&mut from, 4)).is_err(), "{cut} bytes");
            }
        }
        assert!(CompileJob::read(&mut [b'x'; 100].as_slice()).is_err());
    }

    #[test]
    fn a_result_is_bounded() {
        for result in [Ok(vec![7; 100]), Err("no".to_owned())] {
            let mut bytes = Vec::new();
            write_result(&result, &mut bytes).unwrap();
            assert_eq!(read_result(&mut bytes.as_slice(), 100).unwrap(), result);
        }
        let claims = [&[1][..], &u64::MAX.to_le_bytes()].concat();
        assert!(read_result(&mut claims.as_slice(), 100).is_err());
    }
}
