//! One deadline over everything that establishes a connection.
//!
//! A peer that accepts and then never answers the handshake hangs a client that limits only the TCP connect; a
//! resolver that hangs is outside most connect timeouts altogether. One budget over resolving, dialling and
//! handshaking has no such gaps.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;
use towline_core::progress::Progress;
use towline_core::{BoxError, Error, Kind, Phase, ReadyCall};

/// Wraps a connector so that establishing takes at most so long. See [`ConnectDeadline`].
#[derive(Clone, Copy, Debug)]
pub struct ConnectDeadlineLayer {
    limit: Duration,
}

impl ConnectDeadlineLayer {
    /// A limit of this length; 5 s by [`default`](Self::default).
    pub const fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl Default for ConnectDeadlineLayer {
    fn default() -> Self {
        Self::new(Duration::from_secs(5))
    }
}

impl<S> Layer<S> for ConnectDeadlineLayer {
    type Service = ConnectDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ConnectDeadline { inner, limit: self.limit }
    }
}

/// A connector with a deadline over the readiness and the future of the connector inside.
///
/// # Errors
///
/// [`Kind::Timeout`] in the phase that was running; else the inner error.
#[derive(Clone, Debug)]
pub struct ConnectDeadline<S> {
    inner: S,
    limit: Duration,
}

impl<S, T> Service<T> for ConnectDeadline<S>
where
    S: Service<T> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ConnectDeadlineFuture<S, T>;

    // The inner service is readied in the future, under the deadline.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        ConnectDeadlineFuture {
            inner: ReadyCall::new(self.inner.clone(), target),
            sleep: sleep(self.limit),
            limit: self.limit,
            progress: Progress::starting(Phase::Dial),
        }
    }
}

pin_project_lite::pin_project! {
    /// A dial under a deadline.
    #[derive(Debug)]
    pub struct ConnectDeadlineFuture<S: Service<T>, T> {
        #[pin]
        inner: ReadyCall<S, T>,
        #[pin]
        sleep: Sleep,
        limit: Duration,
        progress: Progress,
    }
}

impl<S, T> Future for ConnectDeadlineFuture<S, T>
where
    S: Service<T>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.progress.scope(|| this.inner.poll(cx)) {
            return Poll::Ready(result.map_err(Error::unreachable));
        }
        // Outside of the task's budget, which a chatty peer may keep used up.
        pin!(unconstrained(this.sleep)).poll(cx).map(|()| {
            Err(Error::new(Kind::Timeout, this.progress.phase())
                .with_message(format!("no connection within {:?}", *this.limit)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;
    use tower::{ServiceExt, service_fn};
    use towline_core::{Sent, progress};

    use super::*;

    // F12 (in part): the phase is named, the instant exact.
    #[tokio::test(start_paused = true)]
    async fn the_deadline_names_the_phase_that_ran_out() {
        for phase in [Phase::Resolve, Phase::Dial, Phase::Handshake] {
            let stalls = service_fn(move |()| async move {
                progress::enter(phase);
                pending::<Result<(), Error>>().await
            });
            let start = Instant::now();
            let connect = ConnectDeadlineLayer::new(Duration::from_secs(5)).layer(stalls);
            let error = connect.oneshot(()).await.unwrap_err();
            assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Timeout, phase, Sent::Never));
            assert_eq!(start.elapsed(), Duration::from_secs(5));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_connector_to_be_ready_counts() {
        #[derive(Clone)]
        struct NeverReady;
        impl Service<()> for NeverReady {
            type Response = ();
            type Error = Error;
            type Future = std::future::Ready<Result<(), Error>>;
            fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
                Poll::Pending
            }
            fn call(&mut self, (): ()) -> Self::Future {
                unreachable!("never ready")
            }
        }
        let error = ConnectDeadlineLayer::default().layer(NeverReady).oneshot(()).await.unwrap_err();
        assert!(error.is_timeout());
    }
}
