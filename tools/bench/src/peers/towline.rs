//! Our connections as they are, without a pool around them.

use anyhow::Result;
use tower::{Service, ServiceExt};
use towline_codec::ProstCodec;
use towline_proto::{Request, Response};
use towline_testbed::ById;
use towline_transport::{Exclusive, Shared, SharedConfig};

use crate::dial::Io;
use crate::measure::Caller;

pub(crate) type Codec = ProstCodec<Request, Response>;

/// An exclusive connection over `io`.
pub(crate) fn exclusive<I: Io>(io: I) -> Exclusive<I, Codec> {
    Exclusive::new(io, Codec::default())
}

/// A multiplexed connection over `io`, whose task is spawned.
pub(crate) fn multiplexed(io: impl Io) -> Shared<Request, Response> {
    let (connection, driver) = Shared::multiplexed(io, Codec::default(), ById, SharedConfig::default());
    tokio::spawn(driver);
    connection
}

impl<I: Io> Caller for Exclusive<I, Codec> {
    async fn call(&mut self, request: Request) -> Result<Response> {
        Ok(Service::call(self.ready().await?, request).await?)
    }
}

impl Caller for Shared<Request, Response> {
    async fn call(&mut self, request: Request) -> Result<Response> {
        Ok(Service::call(self.ready().await?, request).await?)
    }
}
