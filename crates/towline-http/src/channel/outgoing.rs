//! The body of a request that may be sent more than once.
//!
//! What has been sent is kept, up to a limit, as long as another attempt may follow; that sends it again, and goes on from there. The
//! body itself is never sent twice at a time: it belongs to one attempt, and one before, which hyper may not have let go yet,
//! fails when it asks for more. When another attempt is decided upon, the one before loses it, so that what is kept does not run over
//! while nobody looks. Nothing waits until a body is there as a whole, so that streams in both directions work.
//!
//! Most bodies are there as a whole, in one frame, when they are about to be sent. These are looked for, since their end can be sent
//! with them: one frame of HTTP/2 less, on both sides, and nobody has to be asked for more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use towline_core::sync::Lock;
use towline_core::{BoxError, Error, Kind, Phase};

/// A request's body, for one attempt.
pub(crate) struct Outgoing<B>(Source<B>);

enum Source<B> {
    /// All of it; and whether its length is told ahead.
    Full(Option<Bytes>, bool),
    /// To be sent once.
    Once(B),
    Kept {
        record: Arc<Lock<Record<B>>>,
        attempt: u64,
        /// How many of the frames that are kept have been sent.
        sent: usize,
        /// It has begun when the beginning was lost.
        is_late: bool,
    },
}

struct Record<B> {
    /// Until its end.
    rest: Option<B>,
    /// Most bodies are one frame.
    first: Option<Bytes>,
    more: Vec<Bytes>,
    /// Looked at, and neither kept nor sent yet.
    ahead: Option<Result<Frame<Bytes>, BoxError>>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    most: usize,
    /// Its owner knew its length.
    tells_length: bool,
    /// More than is kept has been sent, or the body has failed.
    is_lost: bool,
    /// Whose it is.
    attempt: u64,
    /// Of that one, while it waits for more.
    sender: Option<Waker>,
}

/// More frames than a body of so few bytes has; each costs as much as a small one.
const MOST_FRAMES: usize = 1_024;

impl<B> Outgoing<B> {
    /// Nothing, or these bytes.
    pub(crate) fn full(bytes: Option<Bytes>) -> Self {
        Self(Source::Full(bytes, true))
    }

    pub(crate) fn once(body: B) -> Self {
        Self(Source::Once(body))
    }

    /// Another one, for another attempt.
    pub(crate) fn again(&self) -> Option<Self> {
        match &self.0 {
            Source::Full(bytes, is_told) => Some(Self(Source::Full(bytes.clone(), *is_told))),
            Source::Once(_) => None,
            Source::Kept { record, .. } => {
                let is_lost = record.lock().is_lost;
                (!is_lost).then(|| Self(Source::Kept { record: record.clone(), attempt: 0, sent: 0, is_late: false }))
            }
        }
    }

    /// Whether it can be sent from its beginning.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.0 {
            Source::Full(..) | Source::Once(_) => true,
            Source::Kept { record, .. } => !record.lock().is_lost,
        }
    }

    /// Takes it from the attempt that has it.
    pub(crate) fn reclaim(&self) {
        if let Source::Kept { record, .. } = &self.0 {
            let sender = record.lock().next_attempt();
            sender.into_iter().for_each(Waker::wake);
        }
    }
}

impl<B: Body> Outgoing<B> {
    /// To be sent again as long as no more than `most` bytes have been sent.
    pub(crate) fn kept(body: B, most: usize) -> Self {
        let tells_length = body.size_hint().exact().is_some();
        let record = Record {
            rest: Some(body),
            first: None,
            more: Vec::new(),
            ahead: None,
            trailers: None,
            bytes: 0,
            most,
            tells_length,
            is_lost: false,
            attempt: 0,
            sender: None,
        };
        Self(Source::Kept { record: Arc::new(Lock::new(record)), attempt: 0, sent: 0, is_late: false })
    }
}

impl<B> Outgoing<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// It is about to be sent, from the beginning; whoever has begun before is done. A length that its owner does not tell is told only
    /// where it spares a `chunked`: HTTP/2 needs none, and gRPC has none.
    pub(crate) fn begin(&mut self, version: Version) {
        if let Source::Kept { record, attempt, sent, is_late } = &mut self.0 {
            let mut record = record.lock();
            let sender = record.next_attempt();
            (*attempt, *sent, *is_late) = (record.attempt, 0, record.is_lost);
            let is_told = version != Version::HTTP_2 || record.tells_length;
            record.look_ahead();
            let whole = record.whole();
            drop(record);
            sender.into_iter().for_each(Waker::wake);
            if let Some(whole) = whole {
                self.0 = Source::Full(whole, is_told);
            }
        }
    }
}

impl<B> Record<B> {
    fn frame(&self, index: usize) -> Option<&Bytes> {
        match index {
            0 => self.first.as_ref(),
            index => self.more.get(index - 1),
        }
    }

    fn frames(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// Whoever has to be woken to learn that it is not its any more.
    fn next_attempt(&mut self) -> Option<Waker> {
        self.attempt += 1;
        self.sender.take()
    }

    fn keep(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(data.len());
        if self.is_lost || self.bytes > self.most || self.more.len() >= MOST_FRAMES {
            self.lose();
        } else if data.is_empty() {
            // Says nothing, and needs no second time.
        } else if self.first.is_none() {
            self.first = Some(data.clone());
        } else {
            self.more.push(data.clone());
        }
    }

    fn lose(&mut self) {
        self.is_lost = true;
        (self.first, self.more) = (None, Vec::new());
    }
}

impl<B: Body + Unpin> Record<B> {
    fn is_over(&self) -> bool {
        self.rest.as_ref().is_none_or(Body::is_end_stream) && self.trailers.is_none() && self.ahead.is_none()
    }

    /// What there is, if that is all: at most one frame.
    fn whole(&self) -> Option<Option<Bytes>> {
        let is_whole = !self.is_lost && self.rest.is_none() && self.more.is_empty() && self.is_over();
        is_whole.then(|| self.first.clone())
    }
}

impl<B> Record<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.ahead.take() {
            return Poll::Ready(Some(frame));
        }
        let frame = self.rest.as_mut().map_or(Poll::Ready(None), |rest| Pin::new(rest).poll_frame(cx));
        frame.map_ok(|frame| frame.map_data(whole)).map_err(Into::into)
    }

    /// Looks whether the body is there as a whole, if nobody has asked it yet: one frame, and whether there is another. Whoever sends
    /// it asks again, and is woken.
    fn look_ahead(&mut self) {
        if self.is_lost || self.frames() > 0 || self.ahead.is_some() {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        for is_first in [true, false] {
            if self.rest.as_ref().is_none_or(Body::is_end_stream) {
                self.rest = None;
                return;
            }
            let Poll::Ready(frame) = self.poll_next(&mut cx) else { return };
            let Some(frame) = frame else {
                self.rest = None;
                return;
            };
            let data = frame.as_ref().ok().and_then(Frame::data_ref);
            match data.filter(|data| is_first && data.len() <= self.most).cloned() {
                Some(data) => self.keep(&data),
                None => {
                    self.ahead = Some(frame);
                    return;
                }
            }
        }
    }
}

fn whole<D: Buf>(mut data: D) -> Bytes {
    data.copy_to_bytes(data.remaining())
}

impl<B> Body for Outgoing<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Source::Full(bytes, _) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Once(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(whole)).map_err(Into::into)))
            }
            Source::Kept { record, attempt, sent, is_late } => {
                let is_last = Arc::strong_count(record) == 1;
                let mut record = record.lock();
                let over =
                    |why| Poll::Ready(Some(Err(Error::new(Kind::Closed, Phase::Write).with_message(why).into())));
                if record.attempt != *attempt {
                    return over("another attempt sends the body");
                }
                if *is_late {
                    return over("the beginning of the body is not there any more");
                }
                if let Some(frame) = record.frame(*sent) {
                    *sent += 1;
                    return Poll::Ready(Some(Ok(Frame::data(frame.clone()))));
                }
                let next = record.poll_next(cx);
                if next.is_pending() {
                    record.sender = Some(cx.waker().clone());
                }
                let Some(frame) = ready!(next) else {
                    record.rest = None;
                    // Once per attempt, after the last frame.
                    let is_due = *sent != usize::MAX;
                    *sent = usize::MAX;
                    let trailers = record.trailers.clone().filter(|_| is_due);
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                };
                let frame = match frame {
                    Ok(frame) => frame,
                    Err(error) => {
                        record.lose();
                        return Poll::Ready(Some(Err(error)));
                    }
                };
                if let Some(data) = frame.data_ref() {
                    if is_last {
                        record.lose();
                    }
                    record.keep(data);
                    *sent = record.frames();
                } else if let Some(trailers) = frame.trailers_ref() {
                    record.trailers = Some(trailers.clone());
                    record.rest = None;
                    *sent = usize::MAX;
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Full(bytes, _) => bytes.is_none(),
            Source::Once(body) => body.is_end_stream(),
            Source::Kept { record, sent, attempt, is_late } => {
                let record = record.lock();
                // One that has lost it has not come to its end.
                if record.attempt != *attempt || *is_late {
                    return false;
                }
                *sent == usize::MAX || record.frame(*sent).is_none() && record.is_over()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Full(bytes, is_told) => {
                let length = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                if *is_told {
                    return SizeHint::with_exact(length);
                }
                let mut hint = SizeHint::new();
                hint.set_lower(length);
                hint
            }
            Source::Once(body) => body.size_hint(),
            Source::Kept { record, sent, .. } => {
                let record = record.lock();
                let kept = (*sent..record.frames()).filter_map(|at| record.frame(at));
                let ahead = record.ahead.iter().flatten().filter_map(Frame::data_ref);
                let kept: u64 = kept.chain(ahead).map(|data| data.len() as u64).sum();
                let rest = record.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(kept));
                // A length that is known is sent as such, and leaves HTTP/1 no place for trailers.
                let upper = rest.upper().and_then(|upper| upper.checked_add(kept));
                if let Some(upper) = upper.filter(|_| record.trailers.is_none()) {
                    hint.set_upper(upper);
                }
                hint
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::{BodyExt, Full};

    use super::*;

    /// Frames that come when they are asked for.
    struct Frames(VecDeque<Result<Frame<Bytes>, BoxError>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn frames(texts: &[&'static str], trailers: bool) -> Frames {
        let data = texts.iter().map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes()))));
        let trailers = trailers.then(|| Ok(Frame::trailers(HeaderMap::from_iter([(crate::grpc::STATUS, 0.into())]))));
        Frames(data.chain(trailers).collect())
    }

    async fn all<B: Body<Error: std::fmt::Debug> + Unpin>(body: B) -> (String, bool) {
        let collected = body.collect().await.unwrap();
        let has_trailers = collected.trailers().is_some();
        (String::from_utf8(collected.to_bytes().to_vec()).unwrap(), has_trailers)
    }

    #[tokio::test]
    async fn an_attempt_sends_what_was_sent_before_and_goes_on() {
        let mut first = Outgoing::kept(frames(&["a", "b", "c"], true), 10);
        let mut second = first.again().unwrap();
        first.begin(Version::HTTP_2);
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        let mut third = second.again().unwrap();
        second.begin(Version::HTTP_2);
        assert_eq!(all(second).await, ("abc".to_owned(), true));
        third.begin(Version::HTTP_2);
        assert!(!third.is_end_stream());
        assert_eq!(all(third).await, ("abc".to_owned(), true));
    }

    #[tokio::test]
    async fn an_attempt_that_another_has_followed_fails_instead_of_taking_from_it() {
        let mut first = Outgoing::kept(frames(&["a", "b"], false), 10);
        let mut second = first.again().unwrap();
        first.begin(Version::HTTP_2);
        second.begin(Version::HTTP_2);
        let error = first.frame().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("another attempt"), "{error}");
        assert_eq!(all(second).await, ("ab".to_owned(), false));
    }

    #[tokio::test]
    async fn a_body_whose_beginning_was_lost_meanwhile_fails_and_is_not_cut_short() {
        let mut first = Outgoing::kept(frames(&["a", "b", "c"], false), 2);
        let mut second = first.again().unwrap();
        first.begin(Version::HTTP_2);
        first.frame().await.unwrap().unwrap();
        assert!(second.is_whole());
        // The first one goes on, as hyper does, although another attempt is on its way.
        while first.frame().await.is_some() {}
        second.begin(Version::HTTP_2);
        assert!(!second.is_end_stream());
        let error = second.frame().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("the beginning of the body"), "{error}");
    }

    #[tokio::test]
    async fn when_another_attempt_is_decided_upon_the_one_before_is_told_and_sends_no_more() {
        let (sender, receiver) = tokio::sync::mpsc::channel::<&'static str>(1);
        let more = futures_util::stream::unfold(receiver, async |mut receiver| {
            let text = receiver.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from_static(text.as_bytes()))), receiver))
        });
        let mut first = Outgoing::kept(http_body_util::StreamBody::new(Box::pin(more)), 10);
        let second = first.again().unwrap();
        first.begin(Version::HTTP_2);
        sender.send("a").await.unwrap();
        first.frame().await.unwrap().unwrap();
        let waiting = tokio::spawn(async move { first.frame().await.unwrap().map(drop).unwrap_err().to_string() });
        tokio::task::yield_now().await;
        second.reclaim();
        assert!(waiting.await.unwrap().contains("another attempt"));
        let mut second = second;
        second.begin(Version::HTTP_2);
        drop(sender);
        assert_eq!(all(second).await.0, "a");
    }

    #[tokio::test]
    async fn nothing_is_kept_when_no_attempt_can_follow() {
        let mut only = Outgoing::kept(frames(&["a", "b"], false), 10);
        let copy = only.again().unwrap();
        only.begin(Version::HTTP_2);
        only.frame().await.unwrap().unwrap();
        assert!(copy.is_whole());
        drop(copy);
        only.frame().await.unwrap().unwrap();
        assert!(!only.is_whole());
    }

    #[tokio::test]
    async fn what_is_longer_than_the_limit_is_sent_once_and_not_kept() {
        for (most, whole) in [(3, true), (2, false)] {
            let mut first = Outgoing::kept(frames(&["a", "bc"], false), most);
            let mut kept = first.again().unwrap();
            first.begin(Version::HTTP_2);
            assert_eq!(all(first).await.0, "abc");
            assert_eq!((kept.is_whole(), kept.again().is_some()), (whole, whole));
            if whole {
                kept.begin(Version::HTTP_2);
                assert_eq!(all(kept).await.0, "abc");
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_is_there_as_a_whole_is_sent_with_its_end_at_every_attempt() {
        let mut first = Outgoing::kept(frames(&["abc"], false), 3);
        let mut second = first.again().unwrap();
        for (body, version, told) in [(&mut first, Version::HTTP_11, Some(3)), (&mut second, Version::HTTP_2, None)] {
            body.begin(version);
            assert_eq!((body.size_hint().exact(), body.size_hint().lower()), (told, 3), "gRPC has no content-length");
            assert!(!body.is_end_stream());
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
            assert!(body.is_end_stream(), "nobody has to ask for more");
        }
    }

    #[tokio::test]
    async fn what_was_looked_at_before_is_sent_in_its_turn() {
        // Trailers, too much to keep, a second frame: none is lost, or out of its place.
        for (texts, trailers, most) in
            [(&["a"][..], true, 9), (&["abc"], true, 2), (&["abc"], false, 2), (&["a", "b"], true, 9)]
        {
            let mut first = Outgoing::kept(frames(texts, trailers), most);
            let mut second = first.again().unwrap();
            first.begin(Version::HTTP_2);
            assert_eq!(first.size_hint().lower(), texts.concat().len() as u64);
            assert_eq!(all(first).await, (texts.concat(), trailers), "{texts:?}");
            second.begin(Version::HTTP_2);
            if second.is_whole() {
                assert_eq!(all(second).await, (texts.concat(), trailers), "{texts:?} once more");
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_has_failed_is_not_sent_again() {
        let mut first = Outgoing::kept(Frames([Err("broken".into())].into()), 10);
        let kept = first.again().unwrap();
        first.begin(Version::HTTP_2);
        assert_eq!(first.frame().await.unwrap().unwrap_err().to_string(), "broken");
        assert!(!kept.is_whole());
    }

    #[tokio::test]
    async fn lengths_are_told_at_every_attempt() {
        let mut first = Outgoing::kept(Full::new(Bytes::from_static(b"abc")), 10);
        let mut second = first.again().unwrap();
        first.begin(Version::HTTP_2);
        assert_eq!(first.size_hint().exact(), Some(3));
        first.frame().await.unwrap().unwrap();
        assert_eq!((first.size_hint().exact(), first.is_end_stream()), (Some(0), true));
        second.begin(Version::HTTP_2);
        assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(3), false));
        assert_eq!(Outgoing::<Full<Bytes>>::full(None).size_hint().exact(), Some(0));
        assert!(Outgoing::<Full<Bytes>>::full(None).is_end_stream());
        let full = Outgoing::<Full<Bytes>>::full(Some(Bytes::from_static(b"abc")));
        assert_eq!(full.size_hint().exact(), Some(3));
        assert_eq!(all(full.again().unwrap()).await.0, "abc");
    }
}
