//! What connections guarantee, each test named after the guarantee.

mod exclusive;
mod lazy;
mod multiplexed;
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
