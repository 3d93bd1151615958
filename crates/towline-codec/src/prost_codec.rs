//! One protobuf message per frame.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use prost::Message;
use tokio_util::codec::{Decoder, Encoder};
use towline_core::{Error, Kind, Phase};

use crate::frame::Frames;
use crate::{FrameLimits, Prefix};

/// Sends `Out`, receives `In`, one protobuf message per frame.
///
/// Messages are encoded straight into the write buffer. `Bytes` fields of a received message that fills at least half
/// of the read buffer are slices of it; those of smaller messages are copied, so that keeping one never keeps a buffer
/// many times its size.
///
/// ```
/// use bytes::BytesMut;
/// use tokio_util::codec::{Decoder, Encoder};
/// use towline_codec::ProstCodec;
///
/// #[derive(Clone, PartialEq, prost::Message)]
/// struct Ping {
///     #[prost(string, tag = "1")]
///     id: String,
/// }
///
/// let mut codec = ProstCodec::<Ping, Ping>::default();
/// let mut wire = BytesMut::new();
/// codec.encode(Ping { id: "7".into() }, &mut wire)?;
/// assert_eq!(codec.decode(&mut wire)?.unwrap().id, "7");
/// # Ok::<(), towline_core::Error>(())
/// ```
pub struct ProstCodec<Out, In> {
    frames: Frames,
    _messages: PhantomData<fn(Out) -> In>,
}

impl<Out, In> ProstCodec<Out, In> {
    /// A codec with these limits.
    pub fn new(limits: FrameLimits) -> Self {
        Self { frames: Frames::new(limits), _messages: PhantomData }
    }

    /// Writes and reads lengths like this.
    #[must_use]
    pub fn with_prefix(mut self, prefix: Prefix) -> Self {
        self.frames.prefix = prefix;
        self
    }
}

impl<Out, In> Default for ProstCodec<Out, In> {
    fn default() -> Self {
        Self::new(FrameLimits::default())
    }
}

// By hand, so that messages need not be Clone or Debug; and a clone is for another connection.
impl<Out, In> Clone for ProstCodec<Out, In> {
    fn clone(&self) -> Self {
        Self { frames: self.frames.fresh(), _messages: PhantomData }
    }
}

impl<Out, In> fmt::Debug for ProstCodec<Out, In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, _messages } = self;
        f.debug_struct("ProstCodec").field("limits", &frames.limits).field("prefix", &frames.prefix).finish()
    }
}

impl<Out: Message, In> Encoder<Out> for ProstCodec<Out, In> {
    type Error = Error;

    fn encode(&mut self, message: Out, dst: &mut BytesMut) -> Result<(), Error> {
        self.frames.put_prefix(message.encoded_len(), dst)?;
        message.encode_raw(dst);
        Ok(())
    }
}

impl<Out, In: Message + Default> Decoder for ProstCodec<Out, In> {
    type Item = In;
    type Error = Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<In>, Error> {
        let Some(payload) = self.frames.find(src)? else { return Ok(None) };
        let len = payload.len();
        let decoded = if self.frames.is_big(&payload, src) {
            In::decode(Frames::split(payload, src))
        } else {
            let end = payload.end;
            let decoded = In::decode(&src[payload]);
            src.advance(end);
            decoded
        };
        match decoded {
            Ok(message) => Ok(Some(message)),
            Err(cause) => Err(malformed::<In>(len, cause)),
        }
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<In>, Error> {
        match self.decode(src)? {
            None => self.frames.end(src).map(|()| None),
            message => Ok(message),
        }
    }
}

#[cold]
fn malformed<In>(len: usize, cause: prost::DecodeError) -> Error {
    Error::new(Kind::Malformed, Phase::Read)
        .with_message(format!("a frame of {len} bytes is no {}", short_name::<In>()))
        .with_source(cause)
}

fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    name.rsplit("::").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::FrameCodec;

    #[derive(Clone, PartialEq, Message)]
    struct Ping {
        #[prost(string, tag = "1")]
        id: String,
        #[prost(bytes = "bytes", tag = "2")]
        payload: Bytes,
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let ping = Ping { id: "7".into(), payload: Bytes::from_static(&[0, 255]) };
        let (mut codec, mut wire) = (ProstCodec::<Ping, Ping>::default(), BytesMut::new());
        codec.encode(ping.clone(), &mut wire).unwrap();
        codec.encode(Ping::default(), &mut wire).unwrap();
        assert_eq!(codec.decode(&mut wire).unwrap(), Some(ping));
        assert_eq!(codec.decode(&mut wire).unwrap(), Some(Ping::default()));
        assert_eq!(codec.decode(&mut wire).unwrap(), None);
    }

    // F4
    #[test]
    fn an_end_inside_a_message_is_an_error_and_one_between_messages_is_not() {
        let (mut codec, mut wire) = (ProstCodec::<Ping, Ping>::default(), BytesMut::new());
        codec.encode(Ping { id: "7".into(), ..Ping::default() }, &mut wire).unwrap();
        let mut cut = BytesMut::from(&wire[..wire.len() - 1]);
        assert_eq!(codec.decode_eof(&mut cut).unwrap_err().kind(), Kind::UnexpectedEof);
        assert!(codec.decode_eof(&mut wire).unwrap().is_some());
        assert!(codec.decode_eof(&mut wire).unwrap().is_none());
    }

    #[test]
    fn a_garbage_frame_is_a_typed_error_that_names_the_message() {
        let mut wire = BytesMut::new();
        FrameCodec::default().encode(Bytes::from_static(b"\xff\xff\xff"), &mut wire).unwrap();
        let error = ProstCodec::<Ping, Ping>::default().decode(&mut wire).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
        assert!(error.to_string().contains("a frame of 3 bytes is no Ping"), "{error}");
        assert!(error.find::<prost::DecodeError>().is_some());
    }

    #[derive(Clone, PartialEq, Message)]
    struct Nested {
        #[prost(message, optional, boxed, tag = "1")]
        inner: Option<Box<Nested>>,
    }

    // F36
    #[test]
    fn a_message_nested_too_deep_is_a_typed_error_and_no_overflow() {
        let mut payload = Vec::new();
        for _ in 0..200 {
            let mut outer = vec![0x0a];
            prost::encoding::encode_varint(payload.len() as u64, &mut outer);
            outer.append(&mut payload);
            payload = outer;
        }
        let mut wire = BytesMut::new();
        FrameCodec::default().encode(payload.into(), &mut wire).unwrap();
        let error = ProstCodec::<Nested, Nested>::default().decode(&mut wire).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
        assert!(error.to_string().contains("is no Nested"), "{error}");
    }
}
