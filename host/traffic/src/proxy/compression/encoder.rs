//! Encoders of content codings that work a piece at a time, with bounded memory.

use std::io::Write;

use brotli::enc::StandardAlloc;
use brotli::enc::combined_alloc::BrotliAlloc;
use brotli::enc::encode::BrotliEncoderOperation::{
    BROTLI_OPERATION_FINISH, BROTLI_OPERATION_FLUSH, BROTLI_OPERATION_PROCESS,
};
use brotli::enc::encode::BrotliEncoderParameter::{BROTLI_PARAM_LGWIN, BROTLI_PARAM_QUALITY};
use brotli::enc::encode::BrotliEncoderStateStruct;
use flate2::write::GzEncoder;
use zstd_safe::zstd_sys::ZSTD_EndDirective::{ZSTD_e_continue, ZSTD_e_end, ZSTD_e_flush};
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use lodge_manifest::compress::Coding;

/// The levels: what is common for responses that are compressed while a client waits. Level 6 of gzip takes a tenth to a half more CPU
/// time than level 4, for up to 2 % fewer bytes.
const GZIP_LEVEL: u32 = 4;
const BROTLI_QUALITY: u32 = 4;
const ZSTD_LEVEL: i32 = 3;

/// The windows as powers of two: 64 and 128 KiB. Clients need to support 16 MiB of Brotli and 8 MiB of Zstandard (RFC 9659), but the host
/// has a window for each response, and few responses repeat what is farther back.
const BROTLI_WINDOW: u32 = 16;
const ZSTD_WINDOW: u32 = 17;

/// The tables of Zstandard as powers of two, for this window.
const ZSTD_TABLES: u32 = 15;

/// How many bytes an encoder reads before other tasks have their turn: about 0.2 ms of work. Brotli and Zstandard collect a block of 64
/// and 128 KiB and compress it in one turn, in up to a millisecond.
pub const TURN: usize = 32 << 10;

/// By how much the room for output grows at once.
const OUTPUT: usize = 16 << 10;

/// What an encoder does after it has read a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderStep {
    /// It may keep bytes for a better result.
    Process,
    /// It returns everything that it has read.
    Flush,
    /// It completes the stream.
    Finish,
}

/// The error of an encoder: out of memory, or a flaw of its code.
#[derive(Debug, thiserror::Error)]
#[error("the response cannot be compressed")]
pub struct EncoderError(pub String);

/// An encoder of one body.
pub struct Encoder(EncoderState);

enum EncoderState {
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Brotli(Box<BrotliEncoder<StandardAlloc>>),
    Zstd(CCtx<'static>),
}

struct BrotliEncoder<A: BrotliAlloc>(BrotliEncoderStateStruct<A>);

/// Returns the most bytes that an encoder of this coding takes, with the output of one step.
pub const fn room(coding: Coding) -> usize {
    match coding {
        Coding::Gzip => 512 << 10,
        Coding::Zstd => 1_536 << 10,
        Coding::Brotli => 2_304 << 10,
    }
}

impl Encoder {
    /// Creates an encoder.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(coding: Coding) -> Result<Self, EncoderError> {
        Ok(Self(match coding {
            Coding::Gzip => {
                EncoderState::Gzip(Box::new(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))))
            }
            Coding::Brotli => EncoderState::Brotli(Box::new(BrotliEncoder::new(StandardAlloc::default()))),
            Coding::Zstd => EncoderState::Zstd(zstd()?),
        }))
    }

    /// The coding of its output.
    pub fn coding(&self) -> Coding {
        match &self.0 {
            EncoderState::Gzip(_) => Coding::Gzip,
            EncoderState::Brotli(_) => Coding::Brotli,
            EncoderState::Zstd(_) => Coding::Zstd,
        }
    }

    /// Reads all of `input`, and appends what is ready to `output`. Nothing must follow [`EncoderStep::Finish`].
    ///
    /// # Errors
    /// If the encoder is out of memory.
    pub fn encode(&mut self, input: &[u8], step: EncoderStep, output: &mut Vec<u8>) -> Result<(), EncoderError> {
        match &mut self.0 {
            EncoderState::Gzip(encoder) => gzip(encoder, input, step, output),
            EncoderState::Brotli(encoder) => encoder.encode(input, step, output),
            EncoderState::Zstd(context) => encode_zstd(context, input, step, output),
        }
    }
}

fn gzip(
    encoder: &mut GzEncoder<Vec<u8>>,
    input: &[u8],
    step: EncoderStep,
    output: &mut Vec<u8>,
) -> Result<(), EncoderError> {
    std::mem::swap(encoder.get_mut(), output);
    let done = encoder.write_all(input).and_then(|()| match step {
        EncoderStep::Process => Ok(()),
        EncoderStep::Flush => encoder.flush(),
        EncoderStep::Finish => encoder.try_finish(),
    });
    std::mem::swap(encoder.get_mut(), output);
    done.map_err(|error| EncoderError(format!("gzip: {error}")))
}

impl<A: BrotliAlloc> BrotliEncoder<A> {
    fn new(allocator: A) -> Self {
        let mut state = BrotliEncoderStateStruct::new(allocator);
        state.set_parameter(BROTLI_PARAM_QUALITY, BROTLI_QUALITY);
        state.set_parameter(BROTLI_PARAM_LGWIN, BROTLI_WINDOW);
        Self(state)
    }

    fn encode(&mut self, input: &[u8], step: EncoderStep, output: &mut Vec<u8>) -> Result<(), EncoderError> {
        let (mut left, mut read) = (input.len(), 0);
        loop {
            let operation = match step {
                EncoderStep::Process => BROTLI_OPERATION_PROCESS,
                EncoderStep::Flush => BROTLI_OPERATION_FLUSH,
                EncoderStep::Finish => BROTLI_OPERATION_FINISH,
            };
            // Into no room: what is ready is taken below, without a copy in between.
            let (mut room, mut written) = (0, 0);
            let works = self.0.compress_stream(
                operation,
                &mut left,
                input,
                &mut read,
                &mut room,
                &mut [],
                &mut written,
                &mut None,
                &mut |_, _, _, _| (),
            );
            if !works {
                return Err(EncoderError("brotli".into()));
            }
            let mut ready = 0;
            let bytes = self.0.take_output(&mut ready);
            output.extend_from_slice(bytes.get(..ready).unwrap_or_default());
            if left == 0 && !self.0.has_more_output() && (step != EncoderStep::Finish || self.0.is_finished()) {
                return Ok(());
            }
        }
    }
}

fn zstd() -> Result<CCtx<'static>, EncoderError> {
    let mut context = CCtx::try_create().ok_or_else(|| EncoderError("zstd: out of memory".into()))?;
    let parameters = [
        CParameter::CompressionLevel(ZSTD_LEVEL),
        CParameter::WindowLog(ZSTD_WINDOW),
        CParameter::HashLog(ZSTD_TABLES),
        CParameter::ChainLog(ZSTD_TABLES),
    ];
    for parameter in parameters {
        context.set_parameter(parameter).map_err(zstd_error)?;
    }
    Ok(context)
}

fn encode_zstd(
    context: &mut CCtx<'static>,
    input: &[u8],
    step: EncoderStep,
    output: &mut Vec<u8>,
) -> Result<(), EncoderError> {
    let directive = match step {
        EncoderStep::Process => ZSTD_e_continue,
        EncoderStep::Flush => ZSTD_e_flush,
        EncoderStep::Finish => ZSTD_e_end,
    };
    let mut piece = InBuffer::around(input);
    loop {
        output.reserve(OUTPUT);
        let at = output.len();
        let left = context.compress_stream2(&mut OutBuffer::around_pos(output, at), &mut piece, directive);
        let is_done = left.map_err(zstd_error)? == 0 || step == EncoderStep::Process;
        if is_done && piece.pos() == input.len() {
            return Ok(());
        }
    }
}

fn zstd_error(code: usize) -> EncoderError {
    EncoderError(format!("zstd: {}", zstd_safe::get_error_name(code)))
}

#[cfg(test)]
mod tests;
