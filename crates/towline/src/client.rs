//! The client: the whole stack under one name.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::join_all;
use tower_service::Service;
use towline_balance::{Balance, EjectionView, EndpointView};
use towline_connect::BoxConnector;
use towline_core::{Call, Endpoint, EndpointKey, Error, HasContext, Room, SessionKey, Target};
use towline_pool::{Handle, Pool, Stats};
use towline_retry::{Retry, RetryStats};
use towline_sticky::{AffinityPicker, StickyCounts, StickyStats};
use towline_timeout::{Deadline, DeadlineFuture};

use crate::attempts::Attempts;
use crate::builder::ClientBuilder;
use crate::connection::Connection;
use crate::span::CallSpan;

/// What the pool keeps.
pub(crate) type Pooled<Req, Res> = Connection<Req, Res>;
pub(crate) type ClientPool<Req, Res> = Pool<BoxConnector<Pooled<Req, Res>>, Target>;
type Balanced<Req, Res> = Balance<Handle<Pooled<Req, Res>>, AffinityPicker>;
type Stack<Req, Res> = Deadline<Retry<Attempts<Balanced<Req, Res>>>>;

/// Says whose request it is.
pub(crate) type Who<Req> = Arc<dyn Fn(&Req) -> Option<SessionKey> + Send + Sync>;
/// Says whether a request may be repeated although it may have been executed.
pub(crate) type MayRepeat<Req> = Arc<dyn Fn(&Req) -> bool + Send + Sync>;

/// A client: deadline, retry, stickiness, balancer, pools and connections under one name.
///
/// Cheap to clone; clones share everything. When the last is dropped and the last call has ended, all connections
/// close and all tasks of the client end.
///
/// It is a `Service<Req>` for layers above it; [`send`](Self::send) also takes a [`Call`], which carries a session, a
/// deadline, or the mark that it may be repeated. Made by [`builder`](Self::builder).
pub struct Client<Req, Res>
where
    Req: Send + 'static,
    Res: Send + 'static,
{
    stack: Stack<Req, Res>,
    balance: Balanced<Req, Res>,
    pool: ClientPool<Req, Res>,
    sessions: StickyStats,
    prepare: Prepare<Req>,
}

/// What the client adds to the context of every call.
pub(crate) struct Prepare<Req> {
    pub(crate) who: Option<Who<Req>>,
    pub(crate) may_repeat: Option<MayRepeat<Req>>,
}

impl<Req> Clone for Prepare<Req> {
    fn clone(&self) -> Self {
        Self { who: self.who.clone(), may_repeat: self.may_repeat.clone() }
    }
}

impl<Req> Prepare<Req> {
    /// What the caller has set stays.
    fn prepare(&self, call: &mut Call<Req>) {
        if let (Some(who), None) = (&self.who, call.context().session()) {
            let session = who(call.message());
            call.context_mut().set_session(session);
        }
        if let (Some(may_repeat), false) = (&self.may_repeat, call.context().is_idempotent()) {
            let idempotent = may_repeat(call.message());
            call.context_mut().set_idempotent(idempotent);
        }
    }
}

/// One endpoint of a client at present.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Its key.
    pub key: EndpointKey,
    /// Its target and attributes, as discovery has them.
    pub endpoint: Arc<Endpoint>,
    /// Whether it has room.
    pub room: Room,
    /// Calls that wait for it or are in flight on it.
    pub in_flight: usize,
    /// Calls that were sent its way since it was added, retries included.
    pub calls: u64,
    /// How long it takes to answer at present, failures counted as slow; `None` before its first answer.
    pub latency: Option<Duration>,
    /// Whether it gets one call at a time, because it is far slower than the others or has never answered.
    pub on_probation: bool,
    /// Whether it gets no calls, because it is an outlier.
    pub ejection: Option<EjectionView>,
    /// How many times it was ejected lately.
    pub ejections: u32,
    /// Its connections.
    pub pool: Stats,
}

impl<Req, Res> Client<Req, Res>
where
    Req: Send + 'static,
    Res: Send + 'static,
{
    /// Starts a client for protobuf messages in length-prefixed frames, with the default settings.
    pub fn builder() -> ClientBuilder<Req, Res>
    where
        Req: prost::Message,
        Res: prost::Message + Default,
    {
        ClientBuilder::new(towline_codec::ProstCodec::<Req, Res>::default())
    }

    /// Starts a client for the messages of any tokio_util codec.
    ///
    /// One encoded request must be one message on the wire, answered by one message: a protocol without ids has
    /// nothing else by which an answer belongs to a request. Give the codec a length limit if it has one.
    ///
    /// ```
    /// use tokio_util::codec::LinesCodec;
    /// use towline::Client;
    ///
    /// // One line there, one line back; a request must not contain a line break.
    /// let builder = Client::<String, String>::with_codec(LinesCodec::new_with_max_length(64 * 1024));
    /// # drop(builder);
    /// ```
    pub fn with_codec(codec: impl crate::MessageCodec<Req, Res> + Sync) -> ClientBuilder<Req, Res> {
        ClientBuilder::new(codec)
    }

    pub(crate) fn new(
        stack: Stack<Req, Res>,
        balance: Balanced<Req, Res>,
        pool: ClientPool<Req, Res>,
        sessions: StickyStats,
        prepare: Prepare<Req>,
    ) -> Self {
        Self { stack, balance, pool, sessions, prepare }
    }

    /// Sends a request, or a [`Call`] with a context of its own. Dropping the future cancels the call.
    ///
    /// Requests are `Clone` because retry keeps a copy.
    ///
    /// # Errors
    ///
    /// [`Error`] says what happened, in which phase, at which endpoint, and whether the request can have been sent.
    pub fn send(&self, call: impl Into<Call<Req>>) -> ClientFuture<Req, Res>
    where
        Req: Clone,
    {
        let mut call = call.into();
        self.prepare.prepare(&mut call);
        let span = CallSpan::new(call.context());
        ClientFuture { call: (&self.stack).call(call), span }
    }

    /// The same client as a `Service<Call<Req>>`, for tower layers over calls that carry a context.
    pub fn calls(&self) -> Calls<Req, Res> {
        Calls(self.clone())
    }

    /// The endpoints at present, with their statistics.
    pub fn endpoints(&self) -> Vec<EndpointStats> {
        let stats = |view: EndpointView<Handle<Pooled<Req, Res>>>| EndpointStats {
            key: view.endpoint.key().clone(),
            endpoint: view.endpoint,
            room: view.room,
            in_flight: view.in_flight,
            calls: view.calls,
            latency: view.latency,
            on_probation: view.on_probation,
            ejection: view.ejection,
            ejections: view.ejections,
            pool: view.lend.stats(),
        };
        self.balance.endpoints().into_iter().map(stats).collect()
    }

    /// Why discovery has nothing new to say, if that is so: it fails, has ended, or answers with nothing. The endpoints are the last
    /// that it said. `None` again when it does well.
    pub fn discovery_error(&self) -> Option<Error> {
        self.balance.discovery_error()
    }

    /// Connects ahead: until every endpoint that is known, once discovery has yielded some, has had this many
    /// connections open at once.
    ///
    /// # Errors
    ///
    /// The first failure to connect to any of them, after all were tried; dialling goes on under backoff.
    pub async fn warm(&self, connections: usize) -> Result<(), Error> {
        self.balance.discovered().await;
        let handles: Vec<_> = self.balance.endpoints().into_iter().map(|view| view.lend).collect();
        let warmed = join_all(handles.iter().map(|handle| handle.warm(connections))).await;
        warmed.into_iter().collect()
    }

    /// What the pools of all endpoints have, and did: also those of endpoints that are gone.
    pub fn stats(&self) -> Stats {
        self.pool.stats()
    }

    /// What became of the calls of sessions: how many followed, went elsewhere, and why.
    pub fn sessions(&self) -> StickyCounts {
        self.sessions.counts()
    }

    /// What failed calls led to: attempts, and why there were no more.
    pub fn retries(&self) -> RetryStats {
        self.stack.get_ref().stats()
    }

    /// Ends the client, and all its clones: no call gets a connection any more, those in flight finish, or are cut off
    /// after the [`close_deadline`](towline_pool::PoolBuilder::close_deadline). Resolves when the last connection is closed.
    pub async fn close(&self) {
        self.balance.close();
        self.pool.close().await;
    }
}

impl<Req, Res> Clone for Client<Req, Res>
where
    Req: Send + 'static,
    Res: Send + 'static,
{
    fn clone(&self) -> Self {
        Self {
            stack: self.stack.clone(),
            balance: self.balance.clone(),
            pool: self.pool.clone(),
            sessions: self.sessions.clone(),
            prepare: self.prepare.clone(),
        }
    }
}

impl<Req, Res> fmt::Debug for Client<Req, Res>
where
    Req: Send + 'static,
    Res: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("balance", &self.balance).field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl<Req, Res> Service<Req> for Client<Req, Res>
where
    Req: Clone + Send + 'static,
    Res: Send + 'static,
{
    type Response = Res;
    type Error = Error;
    type Future = ClientFuture<Req, Res>;

    /// Always ready: whatever is waited for is waited for in the call.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.send(request)
    }
}

/// A [`Client`] whose requests are [`Call`]s. Made by [`Client::calls`]; clones share everything.
#[derive(Clone, Debug)]
pub struct Calls<Req: Send + 'static, Res: Send + 'static>(Client<Req, Res>);

impl<Req, Res> Service<Call<Req>> for Calls<Req, Res>
where
    Req: Clone + Send + 'static,
    Res: Send + 'static,
{
    type Response = Res;
    type Error = Error;
    type Future = ClientFuture<Req, Res>;

    /// Always ready: whatever is waited for is waited for in the call.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call<Req>) -> Self::Future {
        self.0.send(call)
    }
}

pin_project_lite::pin_project! {
    /// The answer to come.
    #[must_use = "nothing is sent until the future is polled"]
    pub struct ClientFuture<Req, Res>
    where
        Req: Send,
        Req: 'static,
        Res: Send,
        Res: 'static,
        Req: Clone,
    {
        #[pin]
        call: DeadlineFuture<Retry<Attempts<Balanced<Req, Res>>>, Call<Req>>,
        span: CallSpan,
    }
}

impl<Req, Res> Future for ClientFuture<Req, Res>
where
    Req: Clone + Send + 'static,
    Res: Send + 'static,
{
    type Output = Result<Res, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.span.enter(|| this.call.poll(cx)));
        if let Err(error) = &result {
            this.span.failed(error);
        }
        Poll::Ready(result)
    }
}

impl<Req, Res> fmt::Debug for ClientFuture<Req, Res>
where
    Req: Clone + Send + 'static,
    Res: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFuture").finish_non_exhaustive()
    }
}
