//! Making connections with frame headers.

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};
use towline_core::{Blind, Call, Carried};

use crate::shared::{SharedLayer, WithHeader};

/// Connections with a frame header, whose answers carry its correlation id, so that messages need none.
///
/// [`new`](SharedLayer::new) knows nothing of deadlines; [`carried`](SharedLayer::carried) tells the server how much time
/// is left.
pub type HeaderLayer<C, A, Req> = SharedLayer<C, WithHeader<A>, Req>;

impl<C, Req> HeaderLayer<C, Blind, Req> {
    /// Connections with clones of this codec and the default [`SharedConfig`](crate::SharedConfig); tasks on the
    /// current tokio runtime. The server must be [set to use headers](crate::Server::with_header) as well.
    pub fn new(codec: C) -> Self {
        Self::of(codec, WithHeader(Blind))
    }
}

impl<C, M> HeaderLayer<CallCodec<C>, Carried, Call<M>> {
    /// As [`new`](SharedLayer::new), for requests that carry their context: its deadline goes along. Takes the
    /// place of an [`UnwrapCallLayer`](towline_core::UnwrapCallLayer).
    pub fn carried(codec: C) -> Self {
        Self::of(CallCodec(codec), WithHeader(Carried))
    }
}

/// Encodes the message of a [`Call`] and leaves its context behind.
#[derive(Clone, Debug)]
pub struct CallCodec<C>(C);

impl<C: Encoder<M>, M> Encoder<Call<M>> for CallCodec<C> {
    type Error = C::Error;

    fn encode(&mut self, call: Call<M>, dst: &mut BytesMut) -> Result<(), C::Error> {
        self.0.encode(call.into_message(), dst)
    }
}

impl<C: Decoder> Decoder for CallCodec<C> {
    type Item = C::Item;
    type Error = C::Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        self.0.decode(src)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        self.0.decode_eof(src)
    }
}
