//! tokio-tower's multiplexed client.
//!
//! It cannot be cloned, so callers take turns to hand their requests in: a mutex held over readiness and call, which
//! is quicker than tower's `Buffer` around it. They wait for their answers at the same time.

use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use tokio::sync::Mutex;
use tokio_tower::multiplex::{Client, MultiplexTransport, TagStore};
use tokio_util::codec::Framed;
use tower::{Service, ServiceExt};
use towline_proto::{Request, Response};

use super::towline::Codec;
use crate::dial::Io;
use crate::measure::Caller;

pub(crate) type Transport<I> = MultiplexTransport<Framed<I, Codec>, ById>;
pub(crate) type Error<I> = tokio_tower::Error<Transport<I>, Request>;
pub(crate) type Multiplexed<I> = Client<Transport<I>, Error<I>, Request>;

/// A client over `io`, whose task is spawned.
pub(crate) fn multiplexed<I: Io>(io: I) -> Multiplexed<I> {
    Client::new(MultiplexTransport::new(Framed::new(io, Codec::default()), ById))
}

/// Tags requests with the ids that they have.
#[derive(Debug)]
pub(crate) struct ById;

impl TagStore<Request, Response> for ById {
    type Tag = u64;

    fn assign_tag(self: Pin<&mut Self>, request: &mut Request) -> u64 {
        request.id.parse().unwrap_or(u64::MAX)
    }

    fn finish_tag(self: Pin<&mut Self>, response: &Response) -> u64 {
        response.id.parse().unwrap_or(u64::MAX)
    }
}

/// One of the callers of a connection.
pub(crate) struct Shared<I: Io>(Arc<Mutex<Multiplexed<I>>>);

impl<I: Io> Shared<I> {
    /// So many callers of one connection.
    pub(crate) fn all(io: I, callers: usize) -> Vec<Self> {
        let client = Arc::new(Mutex::new(multiplexed(io)));
        (0..callers).map(|_| Self(client.clone())).collect()
    }
}

impl<I: Io> Caller for Shared<I> {
    async fn call(&mut self, request: Request) -> Result<Response> {
        let calling = {
            let mut client = self.0.lock().await;
            client.ready().await.map_err(|error| anyhow!("{error}"))?.call(request)
        };
        calling.await.map_err(|error| anyhow!("{error}"))
    }
}
