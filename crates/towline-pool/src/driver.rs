//! The one task of an endpoint's pool: dials, watches idle connections, retires old ones.
//!
//! It starts with the first caller who has to wait, survives every caller, and ends when the pool is closed or its
//! last handle dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;
use towline_core::{BoxError, Error, Event, Poolable, ReadyCall, Sent};

use crate::core::DialPermit;
use crate::shared::Shared;

pub(crate) struct Driver<M: Service<T>, T>
where
    M::Response: Poolable,
{
    shared: Arc<Shared<M::Response>>,
    make: M,
    target: T,
    dials: Vec<Dial<M, T>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

struct Dial<M: Service<T>, T> {
    /// Taken when the dial ends.
    permit: Option<DialPermit>,
    started: Instant,
    future: Pin<Box<ReadyCall<M, T>>>,
}

// Dials and the timer are boxed; nothing else is pinned.
impl<M: Service<T>, T> Unpin for Driver<M, T> where M::Response: Poolable {}

impl<M, T> Driver<M, T>
where
    M: Service<T> + Clone,
    M::Response: Poolable,
    M::Error: Into<BoxError>,
    T: Clone,
{
    pub(crate) fn new(shared: Arc<Shared<M::Response>>, make: M, target: T) -> Self {
        Self { shared, make, target, dials: Vec::new(), sleep: None }
    }

    fn start_dials(&mut self, now: Instant) {
        while let Some(permit) = self.shared.change(|core, _| core.start_dial(now)) {
            let future = Box::pin(ReadyCall::new(self.make.clone(), self.target.clone()));
            self.dials.push(Dial { permit: Some(permit), started: now, future });
        }
    }

    /// The pool is closed: dropping the dials closes what they had opened.
    fn give_up_dials(&mut self) {
        let permits: Vec<_> = self.dials.drain(..).filter_map(|dial| dial.permit).collect();
        if !permits.is_empty() {
            self.shared.change(|core, effects| core.dials_given_up(permits, effects));
        }
    }

    /// Whether a dial has ended.
    fn poll_dials(&mut self, cx: &mut Context<'_>) -> bool {
        let mut ended = false;
        for dial in &mut self.dials {
            let Poll::Ready(result) = dial.future.as_mut().poll(cx) else { continue };
            let Some(permit) = dial.permit.take() else { continue };
            ended = true;
            let (shared, now) = (&self.shared, Instant::now());
            match result {
                Ok(made) => {
                    let connection = shared.change(|core, effects| core.dial_succeeded(permit, made, now, effects));
                    let took = now.saturating_duration_since(dial.started);
                    shared.observers.emit(Event::Dialled { endpoint: &shared.name, connection, took });
                }
                Err(error) => {
                    // Whatever a foreign maker fails with, no request was sent.
                    let error = Error::unreachable(error).with_sent(Sent::Never);
                    let error = error.or_endpoint(&shared.name);
                    let next = shared.change(|core, effects| core.dial_failed(permit, error.clone(), now, effects));
                    let next_in = next.saturating_duration_since(now);
                    shared.observers.emit(Event::DialFailed { endpoint: &shared.name, error: &error, next_in });
                }
            }
        }
        self.dials.retain(|dial| dial.permit.is_some());
        ended
    }
}

impl<M, T> Future for Driver<M, T>
where
    M: Service<T> + Clone,
    M::Response: Poolable,
    M::Error: Into<BoxError>,
    T: Clone,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shared.bell.register(cx.waker());
        loop {
            let now = Instant::now();
            let rung = this.shared.bell.take();
            let (closed, live, next) = this.shared.change(|core, effects| {
                for slot in rung {
                    core.rang(slot, now, effects);
                }
                let next = core.expire(now, effects);
                (core.is_closed(), core.has_live(), next)
            });
            if closed {
                this.give_up_dials();
                // Connections in use may come back with their response unread, and settle.
                return if live { Poll::Pending } else { Poll::Ready(()) };
            }
            this.start_dials(now);
            if this.poll_dials(cx) {
                continue;
            }
            let Some(next) = next else {
                this.sleep = None;
                return Poll::Pending;
            };
            let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep_until(next)));
            sleep.as_mut().reset(next);
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl<M: Service<T>, T> Drop for Driver<M, T>
where
    M::Response: Poolable,
{
    fn drop(&mut self) {
        let lost = self.dials.drain(..).filter_map(|dial| dial.permit).collect();
        self.shared.undriven(lost);
    }
}
