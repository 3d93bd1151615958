//! The frame decoder against a parser that is too simple to be wrong: any bytes, cut anywhere, any prefix, any limit.

#![no_main]

use arbitrary::Arbitrary;
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::{Decoder, Encoder};
use towline_codec::{FrameCodec, FrameLimits, Prefix};
use towline_core::Kind;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    width: u8,
    little_endian: bool,
    limit: u16,
    /// Where the stream is cut.
    chunks: Vec<u16>,
    stream: &'a [u8],
}

/// How a stream ends.
#[derive(Debug, PartialEq)]
enum End {
    Clean,
    Inside,
    TooLarge,
}

/// The frames of a stream, and how it ends.
fn simple(mut stream: &[u8], width: usize, little_endian: bool, limit: u64) -> (Vec<&[u8]>, End) {
    let mut frames = Vec::new();
    loop {
        if stream.is_empty() {
            return (frames, End::Clean);
        }
        let Some((prefix, rest)) = stream.split_at_checked(width) else { return (frames, End::Inside) };
        let mut prefix = prefix.to_vec();
        if little_endian {
            prefix.reverse();
        }
        let len = prefix.iter().fold(0u64, |len, byte| len << 8 | u64::from(*byte));
        if len > limit {
            return (frames, End::TooLarge);
        }
        let Some((payload, rest)) = rest.split_at_checked(len as usize) else { return (frames, End::Inside) };
        frames.push(payload);
        stream = rest;
    }
}

fuzz_target!(|input: Input<'_>| {
    let (prefix, width) = [(Prefix::U8, 1), (Prefix::U16, 2), (Prefix::U24, 3), (Prefix::U32, 4), (Prefix::U64, 8)]
        [usize::from(input.width) % 5];
    let prefix = if input.little_endian { prefix.little_endian() } else { prefix };
    let limit = usize::from(input.limit);
    let (expected, end) = simple(input.stream, width, input.little_endian, limit as u64);

    // The stream once more, the frames, and an error: nothing grows with what is promised.
    towline_fuzz::within(4 * input.stream.len() + 32 * 1024, || {
        let mut codec = FrameCodec::new(FrameLimits { decode: limit, encode: limit }).with_prefix(prefix);
        let (mut buffer, mut rest, mut frames) = (BytesMut::new(), input.stream, 0);
        let mut cuts = input.chunks.iter().copied();
        let found = 'stream: loop {
            let chunk = cuts.next().map_or(rest.len(), |cut| usize::from(cut).min(rest.len()));
            let (now, later) = rest.split_at(chunk);
            buffer.extend_from_slice(now);
            rest = later;
            loop {
                match codec.decode(&mut buffer) {
                    Ok(Some(frame)) => {
                        assert_eq!(frame, expected[frames]);
                        // What is decoded can be sent again.
                        let mut again = BytesMut::new();
                        codec.encode(Bytes::clone(&frame), &mut again).expect("within its own limit");
                        assert_eq!(again.len(), width + frame.len());
                        frames += 1;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::TooLarge);
                        break 'stream End::TooLarge;
                    }
                }
            }
            if rest.is_empty() {
                break match codec.decode_eof(&mut buffer) {
                    Ok(None) => End::Clean,
                    Ok(Some(_)) => panic!("a frame that `decode` did not see"),
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::UnexpectedEof);
                        End::Inside
                    }
                };
            }
        };
        assert_eq!((frames, found), (expected.len(), end));
    });
});
