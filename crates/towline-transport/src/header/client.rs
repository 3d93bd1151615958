//! The client's side of the header.

use bytes::BytesMut;
use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};
use towline_core::{Access, BoxError, Error, Kind, Phase};

use super::{Flags, Header, Headers, ServerLoad};
use crate::shared::{Dialect, Heard, Id, unencodable};
use crate::wire::decode;

/// Answers carry the id of the header.
pub(crate) struct Headed<A> {
    access: A,
    headers: Headers,
    drains: bool,
    load: Option<ServerLoad>,
    /// A ping of the peer that is to be answered; one answer to many says as much.
    pong: Option<u64>,
}

impl<A> Headed<A> {
    pub(crate) fn new(access: A) -> Self {
        Self { access, headers: Headers::default(), drains: false, load: None, pong: None }
    }
}

impl<C, Req, A> Dialect<C, Req> for Headed<A>
where
    C: Encoder<Req> + Decoder,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
    C::Item: Send + 'static,
    A: Access<Req> + Send + 'static,
{
    type Response = C::Item;

    const TELLS_OF_CANCELS: bool = true;

    fn encode(&mut self, codec: &mut C, id: Id, request: Req, dst: &mut BytesMut) -> Result<(), Error> {
        let deadline = self.access.get(&request).and_then(|context| context.deadline());
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        Header::request(id.0, left).put(dst);
        codec.encode(request, dst).map_err(unencodable)
    }

    fn decode(&mut self, codec: &mut C, src: &mut BytesMut, eof: bool) -> Result<Option<Heard<C::Item>>, Error> {
        let Some((mut header, answer)) = self.headers.next(src, eof, |src| decode(codec, src, eof))? else {
            return Ok(None);
        };
        let id = Id(header.id);
        let drains = header.flags.take_drain();
        self.drains |= drains;
        Ok(Some(match (header.flags, answer) {
            (Flags::MESSAGE, Some(answer)) => {
                self.load = Some(header.load());
                Heard::Answer(id, Ok(answer))
            }
            (Flags::FAILED, _) => {
                self.load = Some(header.load());
                Heard::Answer(id, Err(failed()))
            }
            (Flags::PING, _) => {
                self.pong = Some(header.id);
                Heard::Alive
            }
            (Flags::PONG, _) => Heard::Alive,
            (flags, _) if flags.is_empty() && drains => Heard::Alive,
            (flags, _) => return Err(nonsense(flags)),
        }))
    }

    fn drains(&self) -> bool {
        self.drains
    }

    fn ping(&mut self, _codec: &mut C, id: Id, dst: &mut BytesMut) -> Result<bool, Error> {
        Header::control(Flags::PING, id.0).put(dst);
        Ok(true)
    }

    fn has_control(&self) -> bool {
        self.pong.is_some()
    }

    fn control(&mut self, cancelled: &[Id], dst: &mut BytesMut) {
        for id in cancelled {
            Header::control(Flags::CANCEL, id.0).put(dst);
        }
        if let Some(id) = self.pong.take() {
            Header::control(Flags::PONG, id).put(dst);
        }
    }

    fn take_load(&mut self) -> Option<ServerLoad> {
        self.load.take()
    }
}

/// The server has said that there will be no answer.
fn failed() -> Error {
    Error::new(Kind::Server, Phase::Read)
        .with_message("its handler failed or panicked, or the answer was too large (Server::on_error tells)")
}

fn nonsense(flags: Flags) -> Error {
    Error::new(Kind::Malformed, Phase::Read)
        .with_message(format!("the server's frame header has flags that make no sense for a server: {flags:?}"))
}
