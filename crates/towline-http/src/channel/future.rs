//! The response to come.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Response, header};
use http_body::Body;
use towline_core::{BoxError, Error};
use towline_timeout::DeadlineFuture;

use super::body::{ChannelBody, Limits};
use super::call::HttpCall;
use super::grpc;
use super::{Carried, Retry, Tokened};
use crate::ByStatus;

type Calling<B> = DeadlineFuture<Retry<Tokened<B>, Carried, ByStatus>, HttpCall<B>>;

pin_project_lite::pin_project! {
    /// The response of a [`Channel`](crate::Channel). Dropping it cancels the call.
    #[must_use = "nothing is sent until the future is polled"]
    pub struct ChannelFuture<B>
    where
        B: Body,
        B: Send,
        B: Unpin,
        B: 'static,
        B::Error: Into<BoxError>,
    {
        #[pin]
        calling: Option<Calling<B>>,
        refused: Option<Error>,
        is_grpc: bool,
        limits: Option<Limits>,
    }
}

impl<B> ChannelFuture<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(calling: Result<Calling<B>, Error>, is_grpc: bool, limits: Limits) -> Self {
        let (calling, refused) = match calling {
            Ok(calling) => (Some(calling), None),
            Err(error) => (None, Some(error)),
        };
        Self { calling, refused, is_grpc, limits: Some(limits) }
    }
}

impl<B> Future for ChannelFuture<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ChannelBody>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match this.calling.as_pin_mut() {
            Some(calling) => ready!(calling.poll(cx)),
            None => Err(this.refused.take().expect("polled after completion")),
        };
        let limits = this.limits.take().expect("polled after completion");
        Poll::Ready(match result {
            Ok(response) => {
                let (head, body) = response.into_parts();
                if *this.is_grpc && !grpc::is_answer(&head) {
                    // Its body is nothing that a client of gRPC could read.
                    let (said, error) = grpc::error_of_http(&head);
                    Ok(said_in_grpc(said, error, limits))
                } else {
                    Ok(Response::from_parts(head, ChannelBody::new(body, limits, *this.is_grpc)))
                }
            }
            Err(error) if *this.is_grpc => Ok(said_in_grpc(grpc::trailers(&error), error, limits)),
            Err(error) => Err(error),
        })
    }
}

/// A response that is nothing but an error.
fn said_in_grpc(said: http::HeaderMap, error: Error, limits: Limits) -> Response<ChannelBody> {
    let mut response = Response::new(ChannelBody::empty(limits));
    response.headers_mut().insert(header::CONTENT_TYPE, grpc::CONTENT);
    response.headers_mut().extend(said);
    response.extensions_mut().insert(error);
    response
}

impl<B> fmt::Debug for ChannelFuture<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelFuture").finish_non_exhaustive()
    }
}
