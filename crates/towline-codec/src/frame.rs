//! Frames: where one ends and the next begins.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};
use towline_core::{Error, Kind, Phase, Sent};

/// Bytes of the length prefix.
pub(crate) const PREFIX: usize = 4;

/// The largest payloads, in bytes, that are sent and accepted. Both default to 4 MiB.
///
/// ```
/// use towline_codec::FrameLimits;
///
/// let limits = FrameLimits { decode: 64 * 1024, ..FrameLimits::default() };
/// assert_eq!(limits.encode, 4 * 1024 * 1024);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// The largest payload that is sent. A larger message is refused with [`Kind::TooLarge`], unsent.
    pub encode: usize,
    /// The largest payload that is accepted. A peer that announces more ends its connection.
    pub decode: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { encode: 4 << 20, decode: 4 << 20 }
    }
}

impl FrameLimits {
    /// Writes the prefix of a payload of `len` bytes, or nothing when it is over the limit.
    pub(crate) fn put_prefix(&self, len: usize, dst: &mut BytesMut) -> Result<(), Error> {
        match u32::try_from(len) {
            Ok(prefix) if len <= self.encode => {
                dst.reserve(PREFIX + len);
                dst.put_u32(prefix);
                Ok(())
            }
            _ => Err(Error::new(Kind::TooLarge, Phase::Write).with_sent(Sent::Never).with_message(format!(
                "a message of {len} bytes is over the limit of {} bytes for sending (FrameLimits::encode)",
                self.encode
            ))),
        }
    }

    /// Cuts the next payload off `src`, or `None` while it is incomplete.
    pub(crate) fn split_frame(&self, src: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        let Some(prefix) = src.first_chunk::<PREFIX>() else { return Ok(None) };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > self.decode {
            return Err(Error::new(Kind::TooLarge, Phase::Read).with_message(format!(
                "the peer announced a frame of {len} bytes, over the limit of {} bytes (FrameLimits::decode)",
                self.decode
            )));
        }
        if src.len() < PREFIX + len {
            return Ok(None);
        }
        src.advance(PREFIX);
        Ok(Some(src.split_to(len).freeze()))
    }
}

/// What is left when the stream ends inside a frame.
pub(crate) fn cut_short(src: &BytesMut) -> Error {
    let need = src.first_chunk::<PREFIX>().map_or(PREFIX, |prefix| PREFIX + u32::from_be_bytes(*prefix) as usize);
    Error::new(Kind::UnexpectedEof, Phase::Read)
        .with_message(format!("the stream ended inside a frame: {} of {need} bytes came", src.len()))
}

/// Raw frames: [`Bytes`] in, [`Bytes`] out.
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use tokio_util::codec::{Decoder, Encoder};
/// use towline_codec::FrameCodec;
///
/// let (mut codec, mut wire) = (FrameCodec::default(), BytesMut::new());
/// codec.encode(Bytes::from_static(b"ping"), &mut wire)?;
/// assert_eq!(&wire[..], b"\0\0\0\x04ping");
/// assert_eq!(codec.decode(&mut wire)?.unwrap(), "ping");
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameCodec {
    limits: FrameLimits,
}

impl FrameCodec {
    /// A codec with these limits.
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits }
    }
}

impl Encoder<Bytes> for FrameCodec {
    type Error = Error;

    fn encode(&mut self, payload: Bytes, dst: &mut BytesMut) -> Result<(), Error> {
        self.limits.put_prefix(payload.len(), dst)?;
        dst.put(payload);
        Ok(())
    }
}

impl Decoder for FrameCodec {
    type Item = Bytes;
    type Error = Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        self.limits.split_frame(src)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        match self.decode(src)? {
            None if !src.is_empty() => Err(cut_short(src)),
            frame => Ok(frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(frames: &[&'static [u8]]) -> BytesMut {
        let mut wire = BytesMut::new();
        for frame in frames {
            FrameCodec::default().encode(Bytes::from_static(frame), &mut wire).unwrap();
        }
        wire
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let whole = wire(&[b"ping", b"", b"pong"]);
        for cut in 0..=whole.len() {
            let mut codec = FrameCodec::default();
            let (mut buffer, mut frames) = (BytesMut::from(&whole[..cut]), Vec::new());
            while let Some(frame) = codec.decode(&mut buffer).unwrap() {
                frames.push(frame);
            }
            buffer.extend_from_slice(&whole[cut..]);
            while let Some(frame) = codec.decode(&mut buffer).unwrap() {
                frames.push(frame);
            }
            assert_eq!(frames, [&b"ping"[..], b"", b"pong"], "cut at {cut}");
        }
    }

    // F4
    #[test]
    fn an_end_inside_a_frame_says_how_much_came() {
        let whole = wire(&[b"ping"]);
        for cut in 1..whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            let error = FrameCodec::default().decode_eof(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), Kind::UnexpectedEof);
            let need = if cut < PREFIX { PREFIX } else { whole.len() };
            assert!(error.to_string().contains(&format!("{cut} of {need} bytes")), "{error}");
        }
        assert!(FrameCodec::default().decode_eof(&mut BytesMut::new()).unwrap().is_none());
    }

    // F36
    #[test]
    fn a_hostile_length_is_refused_from_its_prefix_without_allocating() {
        let mut buffer = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        let before = buffer.capacity();
        let error = FrameCodec::default().decode(&mut buffer).unwrap_err();
        assert_eq!((error.kind(), buffer.capacity()), (Kind::TooLarge, before));
        assert!(error.to_string().contains("4294967295 bytes"), "{error}");
    }

    // F36
    #[test]
    fn a_promised_length_under_the_limit_allocates_nothing_either() {
        let mut buffer = BytesMut::from(&(4u32 << 20).to_be_bytes()[..]);
        let before = buffer.capacity();
        assert!(FrameCodec::default().decode(&mut buffer).unwrap().is_none());
        assert_eq!(buffer.capacity(), before);
    }

    // F36
    #[test]
    fn an_outgoing_message_over_the_limit_writes_nothing_and_is_unsent() {
        let mut codec = FrameCodec::new(FrameLimits { encode: 3, ..FrameLimits::default() });
        let mut buffer = BytesMut::new();
        let error = codec.encode(Bytes::from_static(b"ping"), &mut buffer).unwrap_err();
        assert_eq!((error.kind(), error.sent()), (Kind::TooLarge, Sent::Never));
        assert!(buffer.is_empty());
        codec.encode(Bytes::from_static(b"ok!"), &mut buffer).unwrap();
        assert_eq!(&buffer[..], b"\0\0\0\x03ok!");
    }
}
