//! Frames: where one ends and the next begins.

use std::fmt;
use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};
use towline_core::{Error, Kind, Phase, Sent};

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

/// How the length of a payload is written before it. [`Prefix::U32`], big-endian, unless said otherwise.
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use tokio_util::codec::Encoder;
/// use towline_codec::{FrameCodec, Prefix};
///
/// let mut wire = BytesMut::new();
/// FrameCodec::default().with_prefix(Prefix::U16.little_endian()).encode(Bytes::from_static(b"ping"), &mut wire)?;
/// assert_eq!(&wire[..], b"\x04\0ping");
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    width: u8,
    little_endian: bool,
}

impl Prefix {
    /// One byte: payloads of up to 255 bytes.
    pub const U8: Self = Self::big_endian(1);
    /// Two bytes: payloads of up to 64 KiB.
    pub const U16: Self = Self::big_endian(2);
    /// Three bytes: payloads of up to 16 MiB.
    pub const U24: Self = Self::big_endian(3);
    /// Four bytes: payloads of up to 4 GiB, or the limit.
    pub const U32: Self = Self::big_endian(4);
    /// Eight bytes.
    pub const U64: Self = Self::big_endian(8);

    const fn big_endian(width: u8) -> Self {
        Self { width, little_endian: false }
    }

    /// The same width, least significant byte first.
    #[must_use]
    pub const fn little_endian(self) -> Self {
        Self { little_endian: true, ..self }
    }

    fn width(self) -> usize {
        usize::from(self.width)
    }

    /// The largest length that fits.
    fn max(self) -> u64 {
        u64::MAX >> (64 - 8 * u32::from(self.width))
    }

    /// By far the most common prefix is worth a branch here, and one load or store instead of a loop.
    #[inline]
    fn put(self, len: u64, dst: &mut BytesMut) {
        match self {
            Self::U32 => dst.put_u32(len as u32),
            Self { little_endian: true, .. } => dst.put_uint_le(len, self.width()),
            Self { little_endian: false, .. } => dst.put_uint(len, self.width()),
        }
    }

    /// The length that `src` begins with, once all of it is there.
    #[inline]
    fn get(self, src: &[u8]) -> Option<u64> {
        if self == Self::U32 {
            return src.first_chunk().map(|prefix| u64::from(u32::from_be_bytes(*prefix)));
        }
        let mut prefix = src.get(..self.width())?;
        Some(match self.little_endian {
            true => prefix.get_uint_le(self.width()),
            false => prefix.get_uint(self.width()),
        })
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self::U32
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "u{}{}", 8 * self.width, if self.little_endian { "le" } else { "be" })
    }
}

/// What a frame looks like, and how large it may be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frames {
    pub(crate) limits: FrameLimits,
    pub(crate) prefix: Prefix,
    /// The size of the allocation behind the read buffer, as far as it shows: see [`Frames::is_big`].
    chunk: usize,
    /// What was left of that allocation last time.
    left: usize,
}

impl Frames {
    pub(crate) fn new(limits: FrameLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Frames of the same kind, on another connection.
    pub(crate) fn fresh(self) -> Self {
        Self { chunk: 0, left: 0, ..self }
    }

    /// Writes the prefix of a payload of `len` bytes, or nothing when it is over the limit.
    #[inline]
    pub(crate) fn put_prefix(&self, len: usize, dst: &mut BytesMut) -> Result<(), Error> {
        if len > self.limits.encode || len as u64 > self.prefix.max() {
            return Err(self.too_large_to_send(len));
        }
        dst.reserve(self.prefix.width() + len);
        self.prefix.put(len as u64, dst);
        Ok(())
    }

    /// Where the payload is that `src` begins with; `None` while it is incomplete.
    #[inline]
    pub(crate) fn find(&self, src: &BytesMut) -> Result<Option<Range<usize>>, Error> {
        let Some(len) = self.prefix.get(src) else { return Ok(None) };
        if len > self.limits.decode as u64 {
            return Err(self.too_large_to_take(len));
        }
        // Not over a limit that is a usize.
        let (start, len) = (self.prefix.width(), len as usize);
        Ok(if src.len() - start < len { None } else { Some(start..start + len) })
    }

    /// Whether a payload of `src` is to be taken without a copy: when it is at least half of the allocation that it lies
    /// in. So a small message that is kept for long never pins a big buffer, and a big one is never copied. To be asked
    /// of each frame before anything of it is cut off.
    ///
    /// A buffer does not tell the size of its allocation, only what is left of it from its first byte on. That shrinks
    /// as frames are cut off and grows when the buffer is allocated anew or moved back to its start, which is when it
    /// shows all of it. At worst the size remembered is too large, and a payload copied for nothing.
    #[inline]
    pub(crate) fn is_big(&mut self, payload: &Range<usize>, src: &BytesMut) -> bool {
        let capacity = src.capacity();
        if capacity > self.left {
            self.chunk = capacity;
        }
        self.left = capacity - payload.end;
        payload.len() > self.chunk / 2
    }

    /// Cuts a payload off without a copy.
    pub(crate) fn split(payload: Range<usize>, src: &mut BytesMut) -> Bytes {
        src.advance(payload.start);
        src.split_to(payload.len()).freeze()
    }

    #[cold]
    fn too_large_to_send(&self, len: usize) -> Error {
        let (limit, of) = match len > self.limits.encode {
            true => (self.limits.encode as u64, "FrameLimits::encode"),
            false => (self.prefix.max(), "the width of the frame's Prefix"),
        };
        Error::new(Kind::TooLarge, Phase::Write)
            .with_sent(Sent::Never)
            .with_message(format!("a message of {len} bytes is over the limit of {limit} bytes for sending ({of})"))
    }

    #[cold]
    fn too_large_to_take(&self, len: u64) -> Error {
        Error::new(Kind::TooLarge, Phase::Read).with_message(format!(
            "the peer announced a frame of {len} bytes, over the limit of {} bytes (FrameLimits::decode)",
            self.limits.decode
        ))
    }

    /// What is left when the stream ends: nothing, or an error that says how much of a frame came.
    pub(crate) fn end(&self, src: &BytesMut) -> Result<(), Error> {
        if src.is_empty() {
            return Ok(());
        }
        let width = self.prefix.width() as u64;
        let need = self.prefix.get(src).map_or(width, |len| width.saturating_add(len));
        Err(Error::new(Kind::UnexpectedEof, Phase::Read)
            .with_message(format!("the stream ended inside a frame: {} of {need} bytes came", src.len())))
    }
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
#[derive(Debug, Default)]
pub struct FrameCodec {
    frames: Frames,
}

impl FrameCodec {
    /// A codec with these limits.
    pub fn new(limits: FrameLimits) -> Self {
        Self { frames: Frames::new(limits) }
    }

    /// Writes and reads lengths like this.
    #[must_use]
    pub fn with_prefix(mut self, prefix: Prefix) -> Self {
        self.frames.prefix = prefix;
        self
    }
}

// By hand: a clone is for another connection, and knows nothing of this one's buffer.
impl Clone for FrameCodec {
    fn clone(&self) -> Self {
        Self { frames: self.frames.fresh() }
    }
}

impl Encoder<Bytes> for FrameCodec {
    type Error = Error;

    fn encode(&mut self, payload: Bytes, dst: &mut BytesMut) -> Result<(), Error> {
        self.frames.put_prefix(payload.len(), dst)?;
        dst.extend_from_slice(&payload);
        Ok(())
    }
}

impl Decoder for FrameCodec {
    type Item = Bytes;
    type Error = Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        let Some(payload) = self.frames.find(src)? else { return Ok(None) };
        if self.frames.is_big(&payload, src) {
            return Ok(Some(Frames::split(payload, src)));
        }
        let (copy, end) = (Bytes::copy_from_slice(&src[payload.clone()]), payload.end);
        src.advance(end);
        Ok(Some(copy))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        match self.decode(src)? {
            None => self.frames.end(src).map(|()| None),
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
            let need = if cut < 4 { 4 } else { whole.len() };
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

    #[test]
    fn every_width_and_byte_order_carries_its_largest_length_and_refuses_one_more() {
        for prefix in [Prefix::U8, Prefix::U16, Prefix::U24, Prefix::U32, Prefix::U64] {
            for prefix in [prefix, prefix.little_endian()] {
                let limits = FrameLimits { encode: 70_000, ..FrameLimits::default() };
                let mut codec = FrameCodec::new(limits).with_prefix(prefix);
                let most = prefix.max().min(70_000) as usize;
                let (payload, mut wire) = (Bytes::from(vec![7; most]), BytesMut::new());
                codec.encode(payload.clone(), &mut wire).unwrap();
                assert_eq!(wire.len(), prefix.width() + most, "{prefix:?}");
                assert_eq!(codec.decode(&mut wire).unwrap().unwrap(), payload, "{prefix:?}");
                let error = codec.encode(Bytes::from(vec![7; most + 1]), &mut wire).unwrap_err();
                assert_eq!((error.kind(), wire.len()), (Kind::TooLarge, 0), "{prefix:?}");
            }
        }
        let mut wire = BytesMut::from(&[0xff; 8][..]);
        let error = FrameCodec::default().with_prefix(Prefix::U64).decode(&mut wire).unwrap_err();
        assert!(error.to_string().contains("18446744073709551615 bytes"), "{error}");
    }

    // F37
    #[test]
    fn a_small_frame_never_pins_a_big_buffer_and_a_big_one_is_not_copied() {
        let small = Bytes::from(vec![1; 100]);
        let (mut codec, mut wire) = (FrameCodec::default(), BytesMut::with_capacity(64 * 1024));
        while wire.len() + 104 <= wire.capacity() {
            codec.encode(small.clone(), &mut wire).unwrap();
        }
        // Up to the last one, where hardly more of the allocation is left than the frame itself.
        let held: Vec<_> = std::iter::from_fn(|| codec.decode(&mut wire).unwrap()).collect();
        assert!(held.iter().all(|frame| *frame == small) && wire.is_empty());
        assert!(wire.try_reclaim(60 * 1024), "somebody still holds the buffer");

        let big = Bytes::from(vec![2; 40 * 1024]);
        let mut wire = BytesMut::new();
        codec.encode(big.clone(), &mut wire).unwrap();
        let payload = wire[4..].as_ptr();
        let decoded = codec.clone().decode(&mut wire).unwrap().unwrap();
        assert_eq!((decoded.as_ptr(), decoded), (payload, big));
    }
}
