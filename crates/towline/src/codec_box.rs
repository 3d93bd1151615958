//! Any codec behind one type, so that the client needs no parameter for it.

use std::fmt;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};
use towline_core::{BoxError, Error};

/// A codec that sends `Req` and receives `Res`: every tokio_util codec of such messages that is `Clone`.
pub trait MessageCodec<Req, Res>: Send + 'static {
    /// See [`Encoder::encode`].
    fn encode(&mut self, request: Req, dst: &mut BytesMut) -> Result<(), Error>;
    /// See [`Decoder::decode`].
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Res>, Error>;
    /// See [`Decoder::decode_eof`].
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Res>, Error>;
    /// A codec for another connection.
    fn fresh(&self) -> BoxCodec<Req, Res>;
}

impl<C, Req, Res> MessageCodec<Req, Res> for C
where
    C: Encoder<Req> + Decoder<Item = Res> + Clone + Send + Sync + 'static,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
{
    fn encode(&mut self, request: Req, dst: &mut BytesMut) -> Result<(), Error> {
        Encoder::encode(self, request, dst).map_err(Error::wrap)
    }

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Res>, Error> {
        Decoder::decode(self, src).map_err(Error::wrap)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Res>, Error> {
        Decoder::decode_eof(self, src).map_err(Error::wrap)
    }

    fn fresh(&self) -> BoxCodec<Req, Res> {
        BoxCodec(Box::new(self.clone()))
    }
}

/// A [`MessageCodec`] in a box; one per connection.
pub struct BoxCodec<Req, Res>(Box<dyn MessageCodec<Req, Res> + Sync>);

impl<Req, Res> BoxCodec<Req, Res> {
    pub(crate) fn new(codec: impl MessageCodec<Req, Res> + Sync) -> Self {
        Self(Box::new(codec))
    }
}

impl<Req: 'static, Res: 'static> Clone for BoxCodec<Req, Res> {
    fn clone(&self) -> Self {
        self.0.fresh()
    }
}

impl<Req, Res> fmt::Debug for BoxCodec<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxCodec")
    }
}

impl<Req: 'static, Res: 'static> Encoder<Req> for BoxCodec<Req, Res> {
    type Error = Error;

    fn encode(&mut self, request: Req, dst: &mut BytesMut) -> Result<(), Error> {
        self.0.encode(request, dst)
    }
}

impl<Req: 'static, Res: 'static> Decoder for BoxCodec<Req, Res> {
    type Item = Res;
    type Error = Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Res>, Error> {
        self.0.decode(src)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Res>, Error> {
        self.0.decode_eof(src)
    }
}
