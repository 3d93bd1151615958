//! A call that may be under way twice.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;
use tower_service::Service;
use towline_core::progress::{self, Progress};
use towline_core::sync::after;
use towline_core::timer::Timer;
use towline_core::{Access, BoxError, CallContext, Classify, Error, Event, Outcome, Replay, Sent};

use super::Shared;
use crate::budget::Permit;
use crate::leg::{Leg, call, copy, sent};

pin_project_lite::pin_project! {
    /// The response of [`Hedge`](crate::Hedge).
    pub struct HedgeFuture<S: Service<Req>, A, K, Req> {
        #[pin]
        first: Leg<S::Future>,
        // In a box, because few calls need it, and all would have to carry its size.
        second: Option<Pin<Box<Second<S, Req>>>>,
        service: S,
        shared: Arc<Shared<K>>,
        access: A,
        stage: Stage,
        // While the first attempt runs.
        watch: Option<Watch>,
        // Until the second attempt is made, or it is clear that there is none.
        timer: Option<Timer>,
        // Once the first attempt has sent it, while there may be a second.
        request: Option<Req>,
        // Of the first attempt.
        progress: Progress,
        // Of the first attempt, that has failed while the second runs.
        failed: Option<Result<S::Response, Error>>,
        // Of the second attempt, that has failed with a response.
        answer: Option<(S::Response, Progress)>,
        // Whether either attempt, of those that have ended, can have been sent.
        sent: Sent,
    }

    impl<S: Service<Req>, A, K, Req> PinnedDrop for HedgeFuture<S, A, K, Req> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            // Callers who lose patience must not make calls look quick: then nothing would be known of the slow ones.
            if let Some(watch) = this.watch.take() {
                watch.end(this.shared, false);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// It may be sent just once.
    Plain,
    /// Not polled yet.
    New,
    /// Under way.
    Watched,
}

/// What is to be known of how long the first attempt takes.
struct Watch {
    began: Instant,
    delay: Option<Duration>,
}

impl Watch {
    /// It has taken so long, or had when it was left. Failures and calls that were left count when they took long: one that
    /// fails at once says nothing of how long calls take.
    fn end<K>(self, shared: &Shared<K>, is_success: bool) {
        let took = self.began.elapsed();
        if is_success || self.delay.is_some_and(|delay| took >= delay) {
            shared.hedging.record(crate::budget::nanos(took));
        }
    }
}

impl<S: Service<Req>, A, K, Req> HedgeFuture<S, A, K, Req> {
    #[inline]
    pub(super) fn new(service: S, shared: Arc<Shared<K>>, access: A, request: Req, may_hedge: bool) -> Self {
        Self {
            first: Leg::Waiting,
            second: None,
            service,
            shared,
            access,
            stage: if may_hedge { Stage::New } else { Stage::Plain },
            watch: None,
            timer: None,
            request: Some(request),
            progress: Progress::default(),
            failed: None,
            answer: None,
            sent: Sent::Never,
        }
    }
}

impl<S, A, K, Req> Future for HedgeFuture<S, A, K, Req>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    A: Access<Req>,
    K: Classify<S::Response>,
    Req: Replay,
{
    type Output = Result<S::Response, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.stage {
            Stage::Plain => {
                let this = self.project();
                return this.first.poll(this.service, |service| call(service, this.request, false), cx);
            }
            Stage::New => self.as_mut().begin(),
            Stage::Watched => {}
        }
        loop {
            let mut this = self.as_mut().project();
            if !this.first.is_over() {
                let may_hedge = this.timer.is_some();
                let call = |service: &mut S| call(service, this.request, may_hedge);
                let first = this.first.as_mut();
                if let Poll::Ready(result) = this.progress.scope(|| first.poll(this.service, call, cx)) {
                    if let Some(result) = self.as_mut().first_ended(result) {
                        return Poll::Ready(result);
                    }
                }
            }
            if self.second.is_some() {
                let ended = ready!(self.as_mut().poll_second(cx));
                return match ended {
                    Some(result) => Poll::Ready(result),
                    None => Poll::Pending, // The first goes on.
                };
            }
            let this = self.as_mut().project();
            match this.timer {
                Some(timer) => match ready!(timer.poll(cx)) {
                    Ok(()) => self.as_mut().hedge(),
                    Err(_) => *this.timer = None, // No runtime: there is nobody to wake us.
                },
                None => return Poll::Pending,
            }
        }
    }
}

impl<S, A, K, Req> HedgeFuture<S, A, K, Req>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    A: Access<Req>,
    K: Classify<S::Response>,
    Req: Replay,
{
    /// At the first poll, since a future may wait for that as long as it likes.
    fn begin(self: Pin<&mut Self>) {
        let this = self.project();
        *this.stage = Stage::Watched;
        let began = Instant::now();
        let delay = this.shared.hedging.begin(this.shared.since_epoch(began)).map(Duration::from_nanos);
        *this.watch = Some(Watch { began, delay });
        let context = this.request.as_ref().and_then(|request| this.access.get(request));
        let deadline = context.and_then(CallContext::deadline);
        let due = delay.map(|delay| after(began, delay)).filter(|at| deadline.is_none_or(|deadline| *at < deadline));
        if let Some(at) = due {
            *this.timer = Some(this.shared.berth.timer(at));
        }
    }

    /// The call's result, unless the second attempt may do better.
    fn first_ended(self: Pin<&mut Self>, result: Result<S::Response, Error>) -> Option<Result<S::Response, Error>> {
        let this = self.project();
        let outcome = this.shared.policy.classify.classify(result.as_ref());
        if let Some(watch) = this.watch.take() {
            watch.end(this.shared, outcome == Outcome::Success);
        }
        *this.timer = None;
        if sent(this.progress, &result) == Sent::Maybe {
            *this.sent = Sent::Maybe;
        }
        let has_failed = matches!(outcome, Outcome::Failure | Outcome::Pushback(_));
        if has_failed && this.second.is_some() {
            if *this.sent == Sent::Maybe {
                progress::written();
            }
            *this.failed = Some(result);
            return None;
        }
        let second = this.second.take();
        let was_hedged = second.is_some();
        if second.is_some_and(|mut second| second.as_mut().give_up() == Sent::Maybe) {
            *this.sent = Sent::Maybe;
        }
        Some(match (result, this.answer.take()) {
            (Err(_), Some((response, progress))) if has_failed => {
                came_from(&progress);
                Ok(response)
            }
            (result, _) => {
                if was_hedged {
                    came_from(this.progress);
                }
                result.map_err(|error| with_sent(error, *this.sent))
            }
        })
    }

    /// Ready with the call's result, or without one while the first attempt may do better.
    fn poll_second(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<S::Response, Error>>> {
        let mut this = self.project();
        let Some(second) = this.second.as_mut() else { return Poll::Ready(None) };
        let Poll::Ready(result) = second.as_mut().poll(cx) else {
            // Of two attempts the scope around us knows only what was said last.
            let first = if this.first.is_over() { *this.sent } else { this.progress.sent() };
            if first == Sent::Maybe || second.progress.sent() == Sent::Maybe {
                progress::written();
            }
            return Poll::Pending;
        };
        let second = second.as_mut().project();
        if sent(second.progress, &result) == Sent::Maybe {
            *this.sent = Sent::Maybe;
            progress::written();
        }
        let progress = std::mem::take(second.progress);
        *this.second = None;
        if this.shared.policy.classify.classify(result.as_ref()) == Outcome::Success {
            this.shared.counts.won.fetch_add(1, Ordering::Relaxed);
            if let Some(watch) = this.watch.take() {
                watch.end(this.shared, false);
            }
            this.first.as_mut().give_up(this.progress);
            came_from(&progress);
            return Poll::Ready(Some(result));
        }
        Poll::Ready(match (this.failed.take(), result) {
            (None, result) => {
                *this.answer = result.ok().map(|response| (response, progress));
                came_from(this.progress);
                None
            }
            (Some(Err(_)), Ok(response)) => Some(Ok(response)),
            (Some(first), _) => {
                came_from(this.progress);
                Some(first.map_err(|error| {
                    let error = with_sent(error, *this.sent);
                    match progress.endpoint() {
                        Some((id, _)) => error.with_other_id(id),
                        None => error,
                    }
                }))
            }
        })
    }

    /// The call has taken long: sends it a second time, if it may be.
    #[cold]
    fn hedge(self: Pin<&mut Self>) {
        let this = self.project();
        *this.timer = None;
        let (policy, counts) = (&this.shared.policy, &this.shared.counts);
        let endpoint = this.progress.endpoint();
        // The first attempt may not have sent its own yet.
        let request = if this.first.is_waiting() { copy(this.request) } else { this.request.take() };
        let Some(mut request) = request else {
            counts.not_replayable.fetch_add(1, Ordering::Relaxed);
            policy.observers.emit(Event::NotReplayable { endpoint: endpoint.map(|(_, key)| key) });
            return;
        };
        let allowance = this.shared.hedging.may_hedge();
        let from_budget = policy.budget.as_ref().map(|budget| budget.withdraw());
        let (Some(allowance), None | Some(Some(_))) = (allowance, &from_budget) else {
            counts.budget_exhausted.fetch_add(1, Ordering::Relaxed);
            return;
        };
        this.access.edit(&mut request, |context| {
            context.set_hedge();
            endpoint.into_iter().for_each(|(id, _)| context.tried_mut().add(id));
        });
        counts.hedges.fetch_add(1, Ordering::Relaxed);
        let after = this.watch.as_ref().map_or(Duration::ZERO, |watch| watch.began.elapsed());
        policy.observers.emit(Event::Hedged { endpoint: endpoint.map(|(_, key)| key), after });
        *this.second = Some(Box::pin(Second {
            leg: Leg::Waiting,
            request: Some(request),
            service: this.service.clone(),
            progress: Progress::default(),
            paid: Some((allowance, from_budget.flatten())),
        }));
    }
}

/// Tells whoever watches where the result is from: it is not always the attempt that was polled last.
fn came_from(progress: &Progress) {
    if let Some((id, key)) = progress.endpoint() {
        progress::at(id, key);
    }
}

/// What the first attempt knows of itself is not all there is to know.
fn with_sent(error: Error, sent: Sent) -> Error {
    match sent {
        Sent::Maybe => error.with_sent(Sent::Maybe),
        Sent::Never => error,
    }
}

pin_project_lite::pin_project! {
    /// The second attempt.
    struct Second<S: Service<Req>, Req> {
        #[pin]
        leg: Leg<S::Future>,
        request: Option<Req>,
        service: S,
        progress: Progress,
        // By the allowance, and by the retry budget if there is one; until it has ended.
        paid: Option<(Permit, Option<Permit>)>,
    }

    impl<S: Service<Req>, Req> PinnedDrop for Second<S, Req> {
        fn drop(this: Pin<&mut Self>) {
            this.give_up();
        }
    }
}

impl<S: Service<Req>, Req> Second<S, Req> {
    /// Drops it, and says whether it can have been sent.
    fn give_up(self: Pin<&mut Self>) -> Sent {
        let this = self.project();
        let sent = this.leg.give_up(this.progress);
        settle(this.paid, sent);
        sent
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<S::Response, Error>>
    where
        S::Error: Into<BoxError>,
        Req: Replay,
    {
        let this = self.project();
        let call = |service: &mut S| call(service, this.request, false);
        let result = ready!(this.progress.scope(|| this.leg.poll(this.service, call, cx)));
        settle(this.paid, sent(this.progress, &result));
        Poll::Ready(result)
    }
}

/// What was sent is paid for; otherwise the tokens go back.
fn settle(paid: &mut Option<(Permit, Option<Permit>)>, sent: Sent) {
    if let Some((allowance, from_budget)) = paid.take() {
        if sent == Sent::Maybe {
            allowance.spend();
            from_budget.into_iter().for_each(Permit::spend);
        }
    }
}

impl<S: Service<Req>, A, K, Req> fmt::Debug for HedgeFuture<S, A, K, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeFuture").field("hedged", &self.second.is_some()).finish_non_exhaustive()
    }
}
