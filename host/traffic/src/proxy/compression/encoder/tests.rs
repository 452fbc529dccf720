use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use brotli::{Allocator, SliceWrapper};
use proptest::prelude::*;

use super::super::fuzz::decode;
use super::*;

/// Counts the bytes of everything that is allocated and not given back.
#[derive(Clone, Default)]
struct Counted {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl<T: Clone + Default> Allocator<T> for Counted {
    type AllocatedMemory = <StandardAlloc as Allocator<T>>::AllocatedMemory;

    fn alloc_cell(&mut self, len: usize) -> Self::AllocatedMemory {
        let bytes = len * size_of::<T>();
        let now = self.now.fetch_add(bytes, Relaxed) + bytes;
        self.most.fetch_max(now, Relaxed);
        <StandardAlloc as Allocator<T>>::alloc_cell(&mut StandardAlloc::default(), len)
    }

    fn free_cell(&mut self, data: Self::AllocatedMemory) {
        self.now.fetch_sub(size_of_val(data.slice()), Relaxed);
    }
}

impl BrotliAlloc for Counted {}

/// Text, bytes that repeat nothing, and bytes that repeat everything.
static CONTENTS: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
    let mut state = 1_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let noise: Vec<_> = std::iter::repeat_with(&mut random).take(200_000).flat_map(u64::to_le_bytes).collect();
    let letters: Vec<_> = std::iter::repeat_with(&mut random)
        .take(1_000_000)
        .map(|number| b"abcdefgh\n"[(number % 9) as usize])
        .collect();
    let records: String = (0..20_000)
        .map(|number| format!("{{\"id\":{},\"name\":\"{:x}\"}},\n", number * 7_919 % 100_003, random() % 4_096))
        .collect();
    [noise, letters, records.into_bytes(), vec![b' '; 1_500_000]]
});

/// What is reserved for an encoder is enough for any content, with its output.
#[test]
fn memory_is_bounded() {
    for (number, content) in CONTENTS.iter().enumerate() {
        for step in [EncoderStep::Process, EncoderStep::Flush] {
            let (mut zstd, mut most) = (zstd().unwrap(), 0);
            let counted = Counted::default();
            let mut brotli = BrotliEncoder::new(counted.clone());
            let pieces = content.chunks(32 << 10).map(|piece| (piece, step)).chain([(&[][..], EncoderStep::Finish)]);
            let (mut output, mut written) = (Vec::new(), 0);
            for (piece, step) in pieces {
                output = Vec::new();
                encode_zstd(&mut zstd, piece, step, &mut output).unwrap();
                most = most.max(zstd.sizeof() + output.capacity());
                output = Vec::new();
                brotli.encode(piece, step, &mut output).unwrap();
                written = written.max(output.capacity());
            }
            drop(output);
            assert!(most <= room(Coding::Zstd), "{number} {step:?}: zstd takes {most} bytes");
            let most = counted.most.load(Relaxed) + written + size_of_val(&brotli);
            assert!(most <= room(Coding::Brotli), "{number} {step:?}: brotli takes {most} bytes");
            // zlib's tables have 268 KiB at any level; what comes on top is output.
            let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
            for piece in content.chunks(32 << 10) {
                let mut output = Vec::new();
                super::gzip(&mut gzip, piece, step, &mut output).unwrap();
                let most = (268 << 10) + output.capacity() + gzip.get_ref().capacity();
                assert!(most <= room(Coding::Gzip), "{number} {step:?}: gzip takes {most} bytes");
            }
        }
    }
}

/// What is flushed can be decoded without what follows.
#[test]
fn flushed_bytes_are_complete() {
    for coding in Coding::ALL {
        let (mut encoder, mut output) = (Encoder::new(coding).unwrap(), Vec::new());
        for event in 0..20 {
            let before = output.len();
            encoder.encode(format!("data: {event}\n\n").as_bytes(), EncoderStep::Flush, &mut output).unwrap();
            assert!(output.len() > before, "{coding:?}");
        }
        let sent = output.len();
        encoder.encode(&[], EncoderStep::Finish, &mut output).unwrap();
        assert!(output.len() - sent < 32, "{coding:?}: {} bytes were held back", output.len() - sent);
        let expected: String = (0..20).map(|event| format!("data: {event}\n\n")).collect();
        assert_eq!(decode(coding, &output), (expected.clone().into_bytes(), true), "{coding:?}");
        assert_eq!(decode(coding, &output[..sent]), (expected.into_bytes(), false), "{coding:?}");
    }
}

/// A client need not support a larger window.
#[test]
fn windows_are_small() {
    let (mut encoder, mut output) = (Encoder::new(Coding::Zstd).unwrap(), Vec::new());
    encoder.encode(&CONTENTS[2], EncoderStep::Process, &mut output).unwrap();
    // RFC 8878, 3.1.1.1: the magic number, a descriptor without flags, and the window descriptor: exponent - 10, mantissa.
    assert_eq!(output[..6], [0x28, 0xb5, 0x2f, 0xfd, 0, (ZSTD_WINDOW as u8 - 10) << 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever a body has, and however it is cut, its content is that of what is sent.
    #[test]
    fn nothing_changes_the_content(
        pieces in prop::collection::vec((0_usize..4, any::<prop::sample::Index>(), 0_usize..50_000, any::<bool>()), 0..8),
        coding in prop::sample::select(Coding::ALL.to_vec()),
    ) {
        let (mut encoder, mut output, mut expected) = (Encoder::new(coding).unwrap(), Vec::new(), Vec::new());
        let last = pieces.len().saturating_sub(1);
        for (number, (kind, at, len, flushes)) in pieces.iter().enumerate() {
            let content = &CONTENTS[*kind];
            let at = at.index(content.len());
            let piece = &content[at..content.len().min(at + len)];
            let step = if number == last { EncoderStep::Finish } else if *flushes { EncoderStep::Flush } else { EncoderStep::Process };
            encoder.encode(piece, step, &mut output).unwrap();
            expected.extend_from_slice(piece);
        }
        if pieces.is_empty() {
            encoder.encode(&[], EncoderStep::Finish, &mut output).unwrap();
        }
        prop_assert!(decode(coding, &output) == (expected, true));
    }
}
