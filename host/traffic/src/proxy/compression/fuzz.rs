//! A fuzz target for `Accept-Encoding` and the encoders.

use std::io::Read;

use http::Method;
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use super::CompressionRequest;
use super::encoder::{Encoder, EncoderStep};
use crate::proxy::coding::AcceptedCodings;
use lodge_base::fuzz::{header_lines, line};
use lodge_manifest::compress::Coding;

/// Takes the length of pieces on the first line, then a request's headers up to an empty line, then a body. Checks that the codings are
/// among those that the headers name, and that each of them has the body as its content, however it is cut and flushed.
pub fn response(bytes: &[u8]) {
    let (size, rest) = line(bytes);
    let end = rest.windows(2).position(|two| two == b"\n\n").unwrap_or(rest.len());
    let (headers, body) = rest.split_at_checked(end).unwrap_or_default();
    let (headers, body) = (header_lines(headers), body.get(2..).unwrap_or_default());
    let _ = CompressionRequest::new(&Method::GET, &headers);
    let text: Vec<_> =
        headers.get_all("accept-encoding").iter().map(|value| value.as_bytes().to_ascii_lowercase()).collect();
    let names = |name: &str| text.iter().any(|line| line.windows(name.len()).any(|part| part == name.as_bytes()));
    let accepted: Vec<_> = AcceptedCodings::of(&headers).among(&Coding::ALL).collect();
    for coding in &accepted {
        assert!(names(coding.name()) || names("*"), "{coding:?} is not accepted");
        assert!(AcceptedCodings::of(&headers).among(&[*coding]).eq([*coding]), "{coding:?} depends on others");
    }
    let size = size.iter().fold(0_usize, |size, byte| size.wrapping_mul(10).wrapping_add(usize::from(*byte)));
    for coding in accepted {
        let encoded = encode(coding, body, size);
        assert!(encoded.is_some_and(|encoded| decode(coding, &encoded) == (body.to_vec(), true)), "{coding:?}");
    }
}

/// Encodes a body in pieces of 1 to 40,000 bytes, of which some are flushed.
fn encode(coding: Coding, body: &[u8], size: usize) -> Option<Vec<u8>> {
    let (mut encoder, mut output) = (Encoder::new(coding).ok()?, Vec::new());
    for (number, piece) in body.chunks(size % 40_000 + 1).enumerate() {
        let step = if number.wrapping_add(size).is_multiple_of(3) { EncoderStep::Flush } else { EncoderStep::Process };
        encoder.encode(piece, step, &mut output).ok()?;
    }
    encoder.encode(&[], EncoderStep::Finish, &mut output).ok()?;
    Some(output)
}

/// Returns the content of a stream as far as it goes, and whether the stream is complete.
pub fn decode(coding: Coding, encoded: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    let complete = match coding {
        Coding::Gzip => flate2::read::GzDecoder::new(encoded).read_to_end(&mut content).is_ok(),
        Coding::Brotli => brotli::Decompressor::new(encoded, 4_096).read_to_end(&mut content).is_ok(),
        Coding::Zstd => decode_zstd(encoded, &mut content),
    };
    (content, complete)
}

fn decode_zstd(encoded: &[u8], content: &mut Vec<u8>) -> bool {
    let (mut context, mut left) = (DCtx::create(), InBuffer::around(encoded));
    loop {
        content.reserve(64 << 10);
        let (read, written) = (left.pos(), content.len());
        match context.decompress_stream(&mut OutBuffer::around_pos(content, written), &mut left) {
            Ok(0) => return left.pos() == encoded.len(),
            Ok(_) if left.pos() > read || content.len() > written => {}
            _ => return false,
        }
    }
}
