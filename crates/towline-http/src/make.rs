//! A connection in the making.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use towline_core::{BoxError, Error};

type Handshake<C> = Pin<Box<dyn Future<Output = Result<C, Error>> + Send>>;

pin_project_lite::pin_project! {
    /// A connection in the making: dropping it closes what was connected so far.
    pub struct MakeFuture<F, Io, C> {
        #[pin]
        connecting: F,
        begin: Option<Box<dyn FnOnce(Io) -> Handshake<C> + Send>>,
        handshake: Option<Handshake<C>>,
    }
}

impl<F, Io, C> MakeFuture<F, Io, C> {
    pub(crate) fn new<H>(connecting: F, handshake: impl FnOnce(Io) -> H + Send + 'static) -> Self
    where
        H: Future<Output = Result<C, Error>> + Send + 'static,
    {
        Self { connecting, begin: Some(Box::new(|io| Box::pin(handshake(io)))), handshake: None }
    }
}

impl<F, Io, C, E> Future for MakeFuture<F, Io, C>
where
    F: Future<Output = Result<Io, E>>,
    E: Into<BoxError>,
{
    type Output = Result<C, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.handshake.is_none() {
            let io = ready!(this.connecting.poll(cx)).map_err(Error::unreachable)?;
            let begin = this.begin.take().expect("polled after completion");
            *this.handshake = Some(begin(io));
        }
        this.handshake.as_mut().expect("begun above").as_mut().poll(cx)
    }
}

impl<F, Io, C> fmt::Debug for MakeFuture<F, Io, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MakeFuture").field("connected", &self.handshake.is_some()).finish_non_exhaustive()
    }
}
