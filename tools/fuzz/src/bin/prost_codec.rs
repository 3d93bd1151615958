//! The protobuf codec: any payload is a message or a typed error, takes memory in proportion, and what was a message is
//! the same again after a round trip.

#![no_main]

use bytes::{BufMut, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use tokio_util::codec::{Decoder, Encoder};
use towline_codec::{FrameLimits, ProstCodec};
use towline_core::Kind;

/// A message with a bit of everything, itself included.
#[derive(Clone, PartialEq, Message)]
struct Everything {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bytes = "bytes", tag = "2")]
    payload: Bytes,
    #[prost(message, optional, boxed, tag = "3")]
    inner: Option<Box<Everything>>,
    #[prost(message, repeated, tag = "4")]
    list: Vec<Everything>,
    #[prost(sint64, repeated, tag = "5")]
    numbers: Vec<i64>,
    #[prost(oneof = "Choice", tags = "6, 7")]
    choice: Option<Choice>,
    #[prost(fixed64, optional, tag = "8")]
    fixed: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Choice {
    #[prost(bool, tag = "6")]
    Yes(bool),
    #[prost(string, tag = "7")]
    Name(String),
}

const LIMIT: usize = 64 * 1024;

fuzz_target!(|payload: &[u8]| {
    // An empty message of this type takes 160 bytes in a list and two on the wire; a vector that grows holds three
    // times what is in it.
    towline_fuzz::within(512 * payload.len() + 64 * 1024, || {
        let mut codec = ProstCodec::<Everything, Everything>::new(FrameLimits { encode: LIMIT, decode: LIMIT });
        let mut wire = BytesMut::new();
        wire.put_u32(payload.len() as u32);
        wire.extend_from_slice(payload);
        let message = match codec.decode(&mut wire) {
            Ok(message) => message.expect("the whole frame is there"),
            Err(error) if payload.len() > LIMIT => return assert_eq!(error.kind(), Kind::TooLarge),
            Err(error) => return assert_eq!(error.kind(), Kind::Malformed),
        };
        assert!(wire.is_empty());
        match codec.encode(message.clone(), &mut wire) {
            Ok(()) => assert_eq!(codec.decode(&mut wire).expect("it was encoded").expect("all of it"), message),
            // Numbers can be written shorter than they are read back.
            Err(error) => assert!(error.kind() == Kind::TooLarge && wire.is_empty()),
        }
    });
});
