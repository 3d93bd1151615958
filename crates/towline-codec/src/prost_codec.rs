//! One protobuf message per frame.

use std::fmt;
use std::marker::PhantomData;

use bytes::BytesMut;
use prost::Message;
use tokio_util::codec::{Decoder, Encoder};
use towline_core::{Error, Kind, Phase};

use crate::FrameLimits;
use crate::frame::cut_short;

/// Sends `Out`, receives `In`, one protobuf message per frame.
///
/// Messages are encoded straight into the write buffer. `Bytes` fields of received messages are slices of the read
/// buffer, not copies.
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
    limits: FrameLimits,
    _messages: PhantomData<fn(Out) -> In>,
}

impl<Out, In> ProstCodec<Out, In> {
    /// A codec with these limits.
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, _messages: PhantomData }
    }
}

impl<Out, In> Default for ProstCodec<Out, In> {
    fn default() -> Self {
        Self::new(FrameLimits::default())
    }
}

// By hand, so that messages need not be Clone or Debug.
impl<Out, In> Clone for ProstCodec<Out, In> {
    fn clone(&self) -> Self {
        Self::new(self.limits)
    }
}

impl<Out, In> fmt::Debug for ProstCodec<Out, In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limits, _messages } = self;
        f.debug_struct("ProstCodec").field("limits", limits).finish()
    }
}

impl<Out: Message, In> Encoder<Out> for ProstCodec<Out, In> {
    type Error = Error;

    fn encode(&mut self, message: Out, dst: &mut BytesMut) -> Result<(), Error> {
        self.limits.put_prefix(message.encoded_len(), dst)?;
        message.encode_raw(dst);
        Ok(())
    }
}

impl<Out, In: Message + Default> Decoder for ProstCodec<Out, In> {
    type Item = In;
    type Error = Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<In>, Error> {
        let Some(payload) = self.limits.split_frame(src)? else { return Ok(None) };
        let len = payload.len();
        In::decode(payload).map(Some).map_err(|cause| {
            Error::new(Kind::Malformed, Phase::Read)
                .with_message(format!("a frame of {len} bytes is no {}", short_name::<In>()))
                .with_source(cause)
        })
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<In>, Error> {
        match self.decode(src)? {
            None if !src.is_empty() => Err(cut_short(src)),
            message => Ok(message),
        }
    }
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
}
