//! An optional header before each frame, for protocols that bring no correlation id, or want to drain, cancel, ping and
//! pass deadlines on.
//!
//! The header comes before the codec's own frame, so that any codec can be used; a header without a message stands
//! alone. All numbers are big-endian.
//!
//! ```text
//!  0        1        2                 4                                   8                          16
//!  ├version─┼─flags──┼──utilization────┼─────────deadline │ in flight──────┼──────correlation id──────┤ frame …
//! ```
//!
//! | bytes | | |
//! |---|---|---|
//! | 0 | version | `0xa1`. No length prefix of a reasonable frame begins with it, so that a side without headers fails at once |
//! | 1 | flags | see below; unknown ones are an error |
//! | 2–3 | utilization | on answers, in thousandths; `0xffff` when unknown. On requests 0 |
//! | 4–7 | deadline | on requests: milliseconds that are left, 0 for no deadline |
//! | | in flight | on answers: other requests that the server works on; `0xffff_ffff` when unknown |
//! | 8–15 | correlation id | of the call or the ping |
//!
//! | flag | from | means |
//! |---|---|---|
//! | `0x01` message | both | a frame follows |
//! | `0x02` drain | server | no new calls on this connection, please: what comes all the same is still served |
//! | `0x04` cancel | client | nobody waits for the answer to this call |
//! | `0x08` ping | both | to be answered by a pong with the same id |
//! | `0x10` pong | both | |
//! | `0x20` failed | server | there will be no answer to this call |
//!
//! Drain can accompany each other flag; the others come alone.

mod client;
mod layer;

use std::fmt;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use towline_core::{Error, Kind, Phase};

pub(crate) use self::client::Headed;
pub use self::layer::{CallCodec, HeaderLayer};

/// What both sides call frames with a header of this version when they choose it by ALPN.
pub const HEADER_ALPN: &str = "towline/1";

pub(crate) const LEN: usize = 16;
const VERSION: u8 = 0xa1;

/// What a server says of its load, with each answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerLoad {
    /// How much of what it has is in use, in thousandths: 1,000 is full, more is overloaded. `None` when it does not say.
    pub utilization: Option<u16>,
    /// How many requests it works on, beside the one that is answered, those of other clients included. `None` when it
    /// does not say.
    pub in_flight: Option<u32>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x}", self.0)
    }
}

impl Flags {
    pub(crate) const MESSAGE: Self = Self(0x01);
    pub(crate) const DRAIN: Self = Self(0x02);
    pub(crate) const CANCEL: Self = Self(0x04);
    pub(crate) const PING: Self = Self(0x08);
    pub(crate) const PONG: Self = Self(0x10);
    pub(crate) const FAILED: Self = Self(0x20);
    const ALL: Self = Self(0x3f);

    /// Takes the drain flag out; whether it was in.
    pub(crate) fn take_drain(&mut self) -> bool {
        let drain = self.0 & Self::DRAIN.0 != 0;
        self.0 &= !Self::DRAIN.0;
        drain
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// One header, whoever it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) flags: Flags,
    utilization: u16,
    /// Milliseconds left, or requests in flight.
    number: u32,
    pub(crate) id: u64,
}

impl Header {
    /// A header that stands alone.
    pub(crate) fn control(flags: Flags, id: u64) -> Self {
        Self { flags, id, ..Self::default() }
    }

    /// The header of a request with so much time left.
    pub(crate) fn request(id: u64, left: Option<Duration>) -> Self {
        // Rounded up, so that a deadline that is near is none the less one.
        let number = left.map_or(0, |left| left.as_micros().div_ceil(1_000).clamp(1, u32::MAX.into()) as u32);
        Self { flags: Flags::MESSAGE, number, id, utilization: 0 }
    }

    /// The header of an answer.
    pub(crate) fn answer(flags: Flags, id: u64, load: ServerLoad) -> Self {
        let ServerLoad { utilization, in_flight } = load;
        Self { flags, utilization: utilization.unwrap_or(u16::MAX), number: in_flight.unwrap_or(u32::MAX), id }
    }

    /// How much time the client has left.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        (self.number > 0).then(|| Duration::from_millis(self.number.into()))
    }

    pub(crate) fn load(&self) -> ServerLoad {
        ServerLoad {
            utilization: (self.utilization != u16::MAX).then_some(self.utilization),
            in_flight: (self.number != u32::MAX).then_some(self.number),
        }
    }

    pub(crate) fn put(&self, dst: &mut BytesMut) {
        dst.reserve(LEN);
        dst.put_u8(VERSION);
        dst.put_u8(self.flags.0);
        dst.put_u16(self.utilization);
        dst.put_u32(self.number);
        dst.put_u64(self.id);
    }

    /// Cuts a header off `src`, once all of it is there.
    pub(crate) fn take(src: &mut BytesMut, eof: bool) -> Result<Option<Self>, Error> {
        let Some(&version) = src.first() else { return Ok(None) };
        if version != VERSION {
            return Err(Error::new(Kind::Malformed, Phase::Read).with_message(format!(
                "the peer's frame header begins with {version:#04x} and not {VERSION:#04x}: \
                 both ends must be set to use frame headers, of the same version"
            )));
        }
        if src.len() < LEN {
            return if eof { Err(cut_short(src.len())) } else { Ok(None) };
        }
        src.advance(1);
        let (flags, utilization, number, id) = (Flags(src.get_u8()), src.get_u16(), src.get_u32(), src.get_u64());
        if flags.0 & !Flags::ALL.0 != 0 {
            return Err(Error::new(Kind::Malformed, Phase::Read).with_message(format!(
                "the peer's frame header has flags that version 1 does not know: {:#04x}",
                flags.0
            )));
        }
        Ok(Some(Self { flags, utilization, number, id }))
    }
}

/// The server hung up without a word.
pub(crate) fn header_refused() -> Error {
    Error::new(Kind::Closed, Phase::Read)
        .with_message("the peer closed the connection before it answered anything: is it set to use frame headers?")
}

pub(crate) fn cut_short(came: usize) -> Error {
    Error::new(Kind::UnexpectedEof, Phase::Read)
        .with_message(format!("the stream ended inside a frame header: {came} of {LEN} bytes came"))
}

/// Headers with the messages that follow them: what both sides read.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    /// Its message has not come yet.
    begun: Option<Header>,
}

impl Headers {
    /// The next header, and its message if it has one.
    pub(crate) fn next<T>(
        &mut self,
        src: &mut BytesMut,
        eof: bool,
        message: impl FnOnce(&mut BytesMut) -> Result<Option<T>, Error>,
    ) -> Result<Option<(Header, Option<T>)>, Error> {
        let header = match self.begun.take() {
            Some(header) => header,
            None => match Header::take(src, eof)? {
                Some(header) => header,
                None => return Ok(None),
            },
        };
        if header.flags.0 & Flags::MESSAGE.0 == 0 {
            return Ok(Some((header, None)));
        }
        match message(src)? {
            Some(message) => Ok(Some((header, Some(message)))),
            None if eof => Err(Error::new(Kind::UnexpectedEof, Phase::Read)
                .with_message("the stream ended between a frame header and its message")),
            None => {
                self.begun = Some(header);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(header: Header) -> BytesMut {
        let mut wire = BytesMut::new();
        header.put(&mut wire);
        wire
    }

    #[test]
    fn the_header_is_as_documented_byte_by_byte() {
        let request = Header::request(0x0102_0304_0506_0708, Some(Duration::from_millis(258)));
        assert_eq!(&wire(request)[..], [0xa1, 1, 0, 0, 0, 0, 1, 2, 1, 2, 3, 4, 5, 6, 7, 8]);
        let load = ServerLoad { utilization: Some(500), in_flight: Some(9) };
        assert_eq!(&wire(Header::answer(Flags::MESSAGE, 5, load))[..8], [0xa1, 1, 1, 0xf4, 0, 0, 0, 9]);
        let silent = Header::answer(Flags::FAILED, 5, ServerLoad::default());
        assert_eq!(&wire(silent)[..8], [0xa1, 0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        let flags = [Flags::DRAIN, Flags::CANCEL, Flags::PING, Flags::PONG];
        assert_eq!(flags.map(|flags| wire(Header::control(flags, 0))[1]), [2, 4, 8, 16]);
    }

    #[test]
    fn a_header_comes_back_as_it_was() {
        for left in [None, Some(Duration::from_micros(1)), Some(Duration::from_secs(5)), Some(Duration::MAX)] {
            let header = Header::request(7, left);
            let back = Header::take(&mut wire(header), false).unwrap().unwrap();
            assert_eq!(back, header);
            let kept = back.deadline().map(|kept| kept.as_millis());
            let most = Duration::from_millis(u32::MAX.into());
            assert_eq!(kept, left.map(|left| left.min(most).as_micros().div_ceil(1_000)));
        }
        let load = ServerLoad { utilization: Some(1_200), in_flight: None };
        assert_eq!(
            Header::take(&mut wire(Header::answer(Flags::MESSAGE, 7, load)), true).unwrap().unwrap().load(),
            load
        );
    }

    #[test]
    fn headers_cut_anywhere_wait_for_the_rest_or_say_how_much_came() {
        let whole = wire(Header::request(7, None));
        for cut in 1..LEN {
            assert!(Header::take(&mut BytesMut::from(&whole[..cut]), false).unwrap().is_none());
            let error = Header::take(&mut BytesMut::from(&whole[..cut]), true).unwrap_err();
            assert_eq!(error.kind(), Kind::UnexpectedEof);
            assert!(error.to_string().contains(&format!("{cut} of 16 bytes")), "{error}");
        }
    }

    #[test]
    fn a_peer_without_headers_is_told_apart() {
        let error = Header::take(&mut BytesMut::from(&b"\0\0\0\x04ping"[..]), false).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
        assert!(error.to_string().contains("both ends must be set"), "{error}");
        let mut unknown = wire(Header::control(Flags::PING, 1));
        unknown[1] = 0x40;
        assert!(Header::take(&mut unknown, false).unwrap_err().to_string().contains("0x40"));
    }
}
