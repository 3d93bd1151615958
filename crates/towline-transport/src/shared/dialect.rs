//! How answers find their requests: by order, by an id in the message, or by one in the frame header.

use std::collections::VecDeque;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};
use towline_core::{BoxError, Error, Kind, Phase, Sent};

use super::id::{Id, IndexBits};
use crate::wire::decode;
use crate::{Correlate, ServerLoad};

/// What a peer said.
#[derive(Debug)]
pub(crate) enum Heard<Res> {
    /// The answer to this call.
    Answer(Id, Result<Res, Error>),
    /// An answer that belongs to nobody, or no more.
    Nobodys,
    /// An answer where none is due, on a connection that cannot tell whose it is.
    Unasked,
    /// A sign of life, and nothing else.
    Alive,
}

/// What one kind of shared connection puts on the wire, and finds there.
pub(crate) trait Dialect<C, Req>: Send + 'static {
    /// What answers are.
    type Response: Send + 'static;

    /// Whether [`control`](Self::control) is to be told of calls that are given up.
    const TELLS_OF_CANCELS: bool = false;

    /// Appends a request; or nothing, when it fails.
    fn encode(&mut self, codec: &mut C, id: Id, request: Req, dst: &mut BytesMut) -> Result<(), Error>;

    /// The next thing that the peer said, if all of it is there.
    fn decode(&mut self, codec: &mut C, src: &mut BytesMut, eof: bool) -> Result<Option<Heard<Self::Response>>, Error>;

    /// How many more requests may be sent before an answer comes.
    fn window(&self) -> usize {
        usize::MAX
    }

    /// Appends a question that a living peer answers; false when this dialect has none.
    fn ping(&mut self, _codec: &mut C, _id: Id, _dst: &mut BytesMut) -> Result<bool, Error> {
        Ok(false)
    }

    /// Whether [`control`](Self::control) has something to say.
    fn has_control(&self) -> bool {
        false
    }

    /// Appends what is to be said beside requests, and that these calls are given up.
    fn control(&mut self, _cancelled: &[Id], _dst: &mut BytesMut) {}

    /// Whether the peer has asked for no more calls.
    fn drains(&self) -> bool {
        false
    }

    /// What the peer last said of its load, if that is new.
    fn take_load(&mut self) -> Option<ServerLoad> {
        None
    }

    /// Whether whatever comes now was not asked for, and would be taken for the answer to what is sent next.
    fn is_at_rest(&self) -> bool {
        false
    }

    /// Gives memory of a past rush back.
    fn shrink(&mut self) {}
}

/// Answers come in the order of requests.
pub(crate) struct InOrder {
    /// The calls whose answers are due, whether or not somebody still waits for them.
    due: VecDeque<Id>,
    limit: usize,
}

impl InOrder {
    pub(crate) fn new(limit: usize) -> Self {
        Self { due: VecDeque::new(), limit }
    }
}

impl<C, Req> Dialect<C, Req> for InOrder
where
    C: Encoder<Req> + Decoder,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
    C::Item: Send + 'static,
{
    type Response = C::Item;

    fn encode(&mut self, codec: &mut C, id: Id, request: Req, dst: &mut BytesMut) -> Result<(), Error> {
        codec.encode(request, dst).map_err(unencodable)?;
        self.due.push_back(id);
        Ok(())
    }

    fn decode(&mut self, codec: &mut C, src: &mut BytesMut, eof: bool) -> Result<Option<Heard<C::Item>>, Error> {
        let Some(answer) = decode(codec, src, eof)? else { return Ok(None) };
        Ok(Some(self.due.pop_front().map_or(Heard::Unasked, |id| Heard::Answer(id, Ok(answer)))))
    }

    fn is_at_rest(&self) -> bool {
        self.due.is_empty()
    }

    fn window(&self) -> usize {
        self.limit - self.due.len()
    }

    fn shrink(&mut self) {
        self.due.shrink_to_fit();
    }
}

/// Answers carry an id, which [`Correlate`] finds.
pub(crate) struct ById<K, Req, Res>
where
    K: Correlate<Req, Res>,
{
    correlate: K,
    bits: IndexBits,
    /// The callers' own ids, by index.
    originals: Vec<Option<(Id, K::Original)>>,
}

impl<K: Correlate<Req, Res>, Req, Res> ById<K, Req, Res> {
    pub(crate) fn new(correlate: K, limit: usize) -> Self {
        Self { correlate, bits: IndexBits::for_limit(limit), originals: Vec::new() }
    }
}

impl<C, K, Req> Dialect<C, Req> for ById<K, Req, C::Item>
where
    C: Encoder<Req> + Decoder,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
    C::Item: Send + 'static,
    K: Correlate<Req, C::Item>,
    Req: 'static,
{
    type Response = C::Item;

    fn encode(&mut self, codec: &mut C, id: Id, mut request: Req, dst: &mut BytesMut) -> Result<(), Error> {
        let original = self.correlate.tag(&mut request, id.0);
        codec.encode(request, dst).map_err(unencodable)?;
        let index = self.bits.index(id);
        if self.originals.len() <= index {
            if index == 0 {
                self.originals.reserve_exact(1);
            }
            self.originals.resize_with(index + 1, || None);
        }
        self.originals[index] = Some((id, original));
        Ok(())
    }

    fn decode(&mut self, codec: &mut C, src: &mut BytesMut, eof: bool) -> Result<Option<Heard<C::Item>>, Error> {
        let Some(mut answer) = decode(codec, src, eof)? else { return Ok(None) };
        let original = self.correlate.id(&answer).and_then(|id| {
            let id = Id(id);
            self.originals.get_mut(self.bits.index(id))?.take_if(|(own, _)| *own == id)
        });
        Ok(Some(original.map_or(Heard::Nobodys, |(id, original)| {
            self.correlate.restore(&mut answer, original);
            Heard::Answer(id, Ok(answer))
        })))
    }

    fn ping(&mut self, codec: &mut C, id: Id, dst: &mut BytesMut) -> Result<bool, Error> {
        let Some(mut ping) = self.correlate.ping() else { return Ok(false) };
        self.correlate.tag(&mut ping, id.0);
        codec.encode(ping, dst).map_err(unencodable)?;
        Ok(true)
    }

    fn shrink(&mut self) {
        if self.originals.iter().all(Option::is_none) {
            self.originals = Vec::new();
        }
    }
}

/// A message that the codec refuses is its caller's error alone.
pub(crate) fn unencodable(error: impl Into<BoxError>) -> Error {
    Error::wrap_as(Kind::Unencodable, Phase::Write, error).with_sent(Sent::Never)
}
