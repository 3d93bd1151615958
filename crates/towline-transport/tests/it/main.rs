//! What connections guarantee, each test named after the guarantee.

mod edges;
mod exclusive;
mod header;
mod lazy;
mod life;
mod multiplexed;
mod pipelined;
mod server;

use bytes::Bytes;
use towline_codec::FrameCodec;
use towline_core::{Kind, Rejected, Sent};
use towline_transport::SharedConfig;

/// A frame as it goes over the wire.
fn frame(payload: &str) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(payload.as_bytes());
    frame
}

/// More than is encoded ahead of a stream that accepts nothing.
const WRITE_AHEAD: usize = 300 * 1024;

fn config(in_flight: usize) -> SharedConfig {
    SharedConfig::default().in_flight(in_flight).unwrap()
}

fn codec() -> FrameCodec {
    FrameCodec::default()
}

/// What a failed call says: kind, whether it was sent, and the request if it came back.
fn said(error: &Rejected<Bytes>) -> (Kind, Sent, Option<&[u8]>) {
    (error.error.kind(), error.error.sent(), error.request.as_deref())
}

/// The messages of these frames.
fn messages(mut wire: &[u8]) -> Vec<String> {
    let mut messages = Vec::new();
    while let Some((prefix, rest)) = wire.split_first_chunk::<4>() {
        let (payload, rest) = rest.split_at(u32::from_be_bytes(*prefix) as usize);
        messages.push(String::from_utf8(payload.to_vec()).unwrap());
        wire = rest;
    }
    messages
}
