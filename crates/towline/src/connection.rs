//! What the client's pool keeps: a connection of any kind, over any stream.
//!
//! Streams, codecs and dials are boxed: once per connection, never per call.

use std::pin::Pin;
use std::task::{Context, Poll};

use tower_service::Service;
use towline_connect::BoxIo;
use towline_core::{
    Call, CloseReason, Error, LoadReport, Poolable, Rejected, SharedExecutor, Sharing, State, UnwrapCall,
    UnwrapCallFuture,
};
use towline_transport::{
    Correlate, Exclusive, ExclusiveFuture, ExclusiveLayer, HEADER_ALPN, HeaderLayer, IntoConnection, MultiplexedLayer,
    PipelinedLayer, Shared, SharedConfig, SharedFuture,
};

use crate::codec_box::BoxCodec;

/// How connections find the answers to their calls.
pub(crate) enum Kind<Req, Res> {
    Exclusive,
    Pipelined,
    Multiplexed(Multiplexing<Req, Res>),
}

/// Makes a multiplexed connection, whatever its correlation is.
pub(crate) type Multiplexing<Req, Res> = Box<
    dyn Fn(BoxIo, BoxCodec<Req, Res>, SharedConfig, SharedExecutor) -> Result<Shared<Req, Res>, Error> + Send + Sync,
>;

impl<Req: Send + 'static, Res: Send + 'static> Kind<Req, Res> {
    pub(crate) fn multiplexed(correlate: impl Correlate<Req, Res> + Clone + Sync) -> Self {
        Self::Multiplexed(Box::new(move |io, codec, config, executor| {
            let layer = MultiplexedLayer::new(codec, correlate.clone());
            layer.with_config(config).with_executor(executor).connection(io)
        }))
    }
}

/// Which connections have a frame header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Headers {
    None,
    All,
    /// Those whose server agreed to it.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "there is no ALPN without TLS"))]
    ByAlpn,
}

/// What makes a stream a connection.
pub(crate) struct Connecting<Req, Res> {
    pub(crate) codec: BoxCodec<Req, Res>,
    pub(crate) kind: Kind<Req, Res>,
    pub(crate) headers: Headers,
    pub(crate) config: SharedConfig,
    pub(crate) executor: SharedExecutor,
}

impl<Req: Send + 'static, Res: Send + 'static> Connecting<Req, Res> {
    pub(crate) fn connection(&self, io: BoxIo) -> Result<Connection<Req, Res>, Error> {
        let Self { codec, kind, headers, config, executor } = self;
        let (codec, executor) = (codec.clone(), executor.clone());
        let has_header = match headers {
            Headers::None => false,
            Headers::All => true,
            Headers::ByAlpn => io.alpn() == Some(HEADER_ALPN.as_bytes()),
        };
        if has_header {
            let layer = HeaderLayer::carried(codec).with_config(*config).with_executor(executor);
            return layer.connection(io).map(Connection::Headed);
        }
        match kind {
            Kind::Exclusive => {
                let layer = ExclusiveLayer::new(codec).write_timeout(config.write_timeout_limit());
                Ok(Connection::Exclusive(UnwrapCall::new(layer.connection(io)?)))
            }
            Kind::Pipelined => {
                let layer = PipelinedLayer::new(codec).with_config(*config).with_executor(executor);
                Ok(Connection::Shared(UnwrapCall::new(layer.connection(io)?)))
            }
            Kind::Multiplexed(make) => Ok(Connection::Shared(UnwrapCall::new(make(io, codec, *config, executor)?))),
        }
    }
}

/// A connection of any kind.
pub(crate) enum Connection<Req, Res> {
    Exclusive(UnwrapCall<Exclusive<BoxIo, BoxCodec<Req, Res>>>),
    Shared(UnwrapCall<Shared<Req, Res>>),
    /// Takes the whole call, whose deadline goes into the header.
    Headed(Shared<Call<Req>, Res>),
}

/// Whatever the kind, the same.
macro_rules! each {
    ($self:expr, $connection:ident => $do:expr) => {
        match $self {
            Connection::Exclusive($connection) => $do,
            Connection::Shared($connection) => $do,
            Connection::Headed($connection) => $do,
        }
    };
}

impl<Req, Res> Poolable for Connection<Req, Res>
where
    Req: Send + 'static,
    Res: Send + 'static,
{
    fn sharing(&self) -> Sharing {
        each!(self, connection => connection.sharing())
    }

    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        each!(self, connection => connection.poll_change(seen, cx))
    }

    fn share(&self) -> Option<Self> {
        match self {
            Self::Exclusive(_) => None,
            Self::Shared(connection) => connection.share().map(Self::Shared),
            Self::Headed(connection) => connection.share().map(Self::Headed),
        }
    }

    fn trim(&mut self) {
        each!(self, connection => connection.trim());
    }

    fn abort(&mut self) {
        each!(self, connection => connection.abort());
    }

    fn close_reason(&self) -> CloseReason {
        each!(self, connection => connection.close_reason())
    }

    fn reported(&self) -> Option<LoadReport> {
        each!(self, connection => connection.reported())
    }
}

impl<Req: 'static, Res: 'static> Service<Call<Req>> for Connection<Req, Res> {
    type Response = Res;
    type Error = Rejected<Call<Req>>;
    type Future = ConnectionFuture<Req, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        each!(self, connection => Service::<Call<Req>>::poll_ready(connection, cx))
    }

    fn call(&mut self, call: Call<Req>) -> Self::Future {
        match self {
            Self::Exclusive(connection) => ConnectionFuture::Exclusive { call: connection.call(call) },
            Self::Shared(connection) => ConnectionFuture::Shared { call: connection.call(call) },
            Self::Headed(connection) => ConnectionFuture::Headed { call: connection.call(call) },
        }
    }
}

pin_project_lite::pin_project! {
    #[project = CallProj]
    pub(crate) enum ConnectionFuture<Req, Res> {
        Exclusive { #[pin] call: UnwrapCallFuture<ExclusiveFuture<BoxIo, BoxCodec<Req, Res>, Req>, Req> },
        Shared { #[pin] call: UnwrapCallFuture<SharedFuture<Req, Res>, Req> },
        Headed { #[pin] call: SharedFuture<Call<Req>, Res> },
    }
}

impl<Req: 'static, Res: 'static> Future for ConnectionFuture<Req, Res> {
    type Output = Result<Res, Rejected<Call<Req>>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CallProj::Exclusive { call } => call.poll(cx),
            CallProj::Shared { call } => call.poll(cx),
            CallProj::Headed { call } => call.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::codec::LinesCodec;
    use towline_core::TokioExecutor;
    use towline_transport::{Server, ServerLoad};

    use super::*;

    #[tokio::test]
    async fn what_a_server_says_about_its_load_reaches_the_pool() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = Server::new(LinesCodec::new()).with_header();
        let server = server.load(|| ServerLoad { utilization: None, in_flight: Some(7) });
        let echo = |call: Call<String>| async move { Ok::<_, io::Error>(call.into_message()) };
        tokio::spawn(server.serve(listener, tower::service_fn(echo)));
        let connecting = Connecting::<String, String> {
            codec: BoxCodec::new(LinesCodec::new()),
            kind: Kind::Exclusive,
            headers: Headers::All,
            config: SharedConfig::default(),
            executor: Arc::new(TokioExecutor::current()),
        };
        let mut connection = connecting.connection(BoxIo::new(io)).unwrap();
        assert_eq!(connection.reported(), None);
        assert_eq!(connection.call(Call::new("hello".to_owned())).await.unwrap(), "hello");
        assert_eq!(connection.reported().unwrap().in_flight, 7);
    }
}
