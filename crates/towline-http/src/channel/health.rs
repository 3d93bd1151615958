//! Endpoints that are asked how they are: the health service of gRPC, or a path of HTTP.
//!
//! The probe is a call as any other, over the endpoint's own pool, so that it sees what calls see. One task per endpoint sends it, and
//! ends with the endpoint. What it finds is no outlier's matter but the endpoint's own word: it is *down* until it says otherwise,
//! beside whatever the balancer thinks of its failures.

use std::future::{Ready, ready as future_ready};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::select;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Request, Uri};
use http_body::Body;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{
    BoxError, CallContext, Error, Kind, Lend, LoadReport, Phase, ReadyCall, Rng, Room, SharedExecutor, Target,
};

use towline_pool::Handle;

use super::ChannelPool;
use super::call::{HttpCall, Route};
use super::connection::Connection;
use super::grpc;
use super::outgoing::Outgoing;
use crate::ResponseBody;

/// How endpoints are asked for their health, for [`ChannelBuilder::health`](crate::ChannelBuilder::health).
///
/// Every 10 s, for at most 1 s, unless set. An endpoint that says that it does not serve is down at once; one that does not answer, or
/// answers something else, when that has happened twice in a row. One good answer brings it back. The first probe is sent within a
/// second, and times between are ±10 %, so that endpoints are not asked all at once. While all connections of an endpoint are in use,
/// nothing is concluded from a probe that got none. Probes are for the channel's [origin](crate::ChannelBuilder::origin), as calls
/// are.
///
/// ```
/// use std::time::Duration;
/// use towline_http::Health;
///
/// let grpc = Health::grpc("helloworld.Greeter"); // or "" for the server as a whole
/// let http = Health::http("/healthz")?.every(Duration::from_secs(5));
/// assert!(Health::http("healthz").is_err());
/// # drop((grpc, http));
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Health {
    probe: Probe,
    every: Duration,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Probe {
    Grpc(Arc<str>),
    Http(PathAndQuery),
}

/// Failed probes in a row, after which an endpoint is down.
const STRIKES: u32 = 2;
/// The longest answer that is read.
const LONGEST: usize = 64 * 1024;
/// Beyond it is never.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The first probes of all endpoints are spread over this, or over the interval.
const AT_FIRST: Duration = Duration::from_secs(1);

impl Health {
    /// Asks `grpc.health.v1.Health/Check` for this service. A server without a health service is taken for healthy, as by gRPC's own
    /// clients; one that does not know the service is not.
    pub fn grpc(service: impl Into<Arc<str>>) -> Self {
        Self::new(Probe::Grpc(service.into()))
    }

    /// Asks for this path by GET: 2xx is healthy, 503 is a server that does not serve.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] for what is no path.
    pub fn http(path: &str) -> Result<Self, Error> {
        match path.parse::<PathAndQuery>() {
            Ok(parsed) if path.starts_with('/') => Ok(Self::new(Probe::Http(parsed))),
            _ => {
                let why = format!("{path:?} is no path to ask for health: write /healthz or the like");
                Err(Error::new(Kind::Config, Phase::Build).with_message(why))
            }
        }
    }

    fn new(probe: Probe) -> Self {
        Self { probe, every: Duration::from_secs(10), timeout: Duration::from_secs(1) }
    }

    /// How long to wait between two probes.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.every = interval.min(A_YEAR);
        self
    }

    /// How long an answer may take, a connection included.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit.min(A_YEAR);
        self
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        if self.every.is_zero() || self.timeout.is_zero() {
            let why = "health probes with an interval or a timeout of 0 cannot work: use longer ones";
            return Err(Error::new(Kind::Config, Phase::Build).with_message(why));
        }
        Ok(())
    }

    fn request<B>(&self, origin: Option<&Authority>) -> HttpCall<B> {
        let (method, path, body) = match &self.probe {
            Probe::Grpc(service) => (Method::POST, PathAndQuery::from_static(CHECK), Some(check_request(service))),
            Probe::Http(path) => (Method::GET, path.clone(), None),
        };
        let is_grpc = body.is_some();
        let mut request = Request::new(Outgoing::full(body));
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from(path);
        if is_grpc {
            request.headers_mut().insert(CONTENT_TYPE, grpc::CONTENT);
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        }
        let route = Route { context: CallContext::default(), deadline: None, authority: origin.cloned(), is_grpc };
        HttpCall::new(request, route)
    }
}

/// What an endpoint has said.
#[derive(Debug)]
enum Answer {
    Serves,
    /// Its own word.
    DoesNotServe(String),
    Failed(Error),
}

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

/// A message of gRPC with a `HealthCheckRequest`, whose field 1 is the service.
fn check_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// The status in a message with a `HealthCheckResponse`, whose field 1 it is and which has no other. Left out means 0, which is
/// unknown.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (head, message) = framed.split_at_checked(5)?;
    if head[0] != 0 || u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, value] if *value < 0x80 => Some(u64::from(*value)),
        _ => None,
    }
}

async fn ask<S, B>(health: &Health, origin: Option<&Authority>, service: S) -> Answer
where
    S: Service<HttpCall<B>, Response = http::Response<ResponseBody>>,
    S::Error: Into<BoxError>,
{
    match read(ReadyCall::new(service, health.request(origin))).await {
        Ok((head, body, trailers)) => match &health.probe {
            Probe::Http(_) if head.status.is_success() => Answer::Serves,
            Probe::Http(_) if head.status == http::StatusCode::SERVICE_UNAVAILABLE => {
                Answer::DoesNotServe(head.status.to_string())
            }
            Probe::Grpc(_) if head.status.is_success() => {
                match (grpc::status(&trailers).or_else(|| grpc::status(&head.headers)), serving_status(&body)) {
                    (Some(grpc::UNIMPLEMENTED), _) | (Some(grpc::OK), Some(SERVING)) => Answer::Serves,
                    (Some(grpc::OK), Some(status)) => Answer::DoesNotServe(format!("serving status {status}")),
                    (Some(grpc::NOT_FOUND), _) => Answer::DoesNotServe("it does not know the service".to_owned()),
                    (code, _) => Answer::Failed(unhealthy(format!("grpc-status {code:?}"))),
                }
            }
            _ => Answer::Failed(unhealthy(head.status.to_string())),
        },
        Err(error) => Answer::Failed(error),
    }
}

async fn read<F, E>(calling: F) -> Result<(http::response::Parts, Bytes, HeaderMap), Error>
where
    F: Future<Output = Result<http::Response<ResponseBody>, E>>,
    E: Into<BoxError>,
{
    let (head, mut body) = calling.await.map_err(Error::wrap)?.into_parts();
    let (mut bytes, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(data) if bytes.len() + data.len() > LONGEST => {
                return Err(
                    Error::new(Kind::TooLarge, Phase::Read).with_message("the answer to a health probe is too long")
                );
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok((head, bytes.freeze(), trailers))
}

/// What calls are told, whatever has befallen the probe.
fn unhealthy(said: String) -> Error {
    Error::new(Kind::Unavailable, Phase::Pick).with_message(format!("the endpoint's health probe failed: {said}"))
}

/// An endpoint that is down while it is not well.
pub(crate) struct Watched<L> {
    inner: L,
    /// `None` when nobody asks.
    state: Option<Arc<Found>>,
}

/// What has been found of one endpoint.
struct Found {
    is_down: AtomicBool,
    why: Lock<Option<Error>>,
    /// Dropped with the last handle: the task ends.
    _alive: oneshot::Sender<()>,
}

impl<L: Clone> Clone for Watched<L> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), state: self.state.clone() }
    }
}

impl<L> Watched<L> {
    pub(super) fn get_ref(&self) -> &L {
        &self.inner
    }

    fn refusal(&self) -> Option<Error> {
        let state = self.state.as_ref().filter(|state| state.is_down.load(Ordering::Relaxed))?;
        let why = state.why.lock().clone();
        Some(why.unwrap_or_else(|| unhealthy("it was down".to_owned())))
    }
}

impl<L: Lend> Lend for Watched<L> {
    type Checkout = L::Checkout;
    type Lend = WatchedLend<L::Lend>;

    fn room(&self) -> Room {
        if self.state.as_ref().is_some_and(|state| state.is_down.load(Ordering::Relaxed)) {
            return Room::Down;
        }
        self.inner.room()
    }

    fn lend(&self, context: Option<&CallContext>) -> Self::Lend {
        match self.refusal() {
            Some(error) => WatchedLend { lending: None, refused: Some(error) },
            None => WatchedLend { lending: Some(self.inner.lend(context)), refused: None },
        }
    }

    fn try_lend(&self, context: Option<&CallContext>) -> Option<L::Checkout> {
        let is_down = self.state.as_ref().is_some_and(|state| state.is_down.load(Ordering::Relaxed));
        if is_down { None } else { self.inner.try_lend(context) }
    }

    fn reported(&self) -> Option<LoadReport> {
        self.inner.reported()
    }
}

pin_project_lite::pin_project! {
    /// What [`Watched`] lends.
    pub(crate) struct WatchedLend<F> {
        #[pin]
        lending: Option<F>,
        refused: Option<Error>,
    }
}

impl<F, C> Future for WatchedLend<F>
where
    F: Future<Output = Result<C, Error>>,
{
    type Output = Result<C, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.lending.as_pin_mut() {
            Some(lending) => lending.poll(cx),
            None => Poll::Ready(Err(this.refused.take().expect("polled after completion"))),
        }
    }
}

/// How a channel's endpoints are asked.
#[derive(Clone)]
pub(crate) struct Asking {
    health: Arc<Health>,
    origin: Option<Authority>,
    executor: SharedExecutor,
    /// Until the channel is closed, or gone.
    is_alive: watch::Receiver<bool>,
}

impl Asking {
    pub(super) fn new(
        health: Health,
        origin: Option<Authority>,
        executor: SharedExecutor,
        is_alive: watch::Receiver<bool>,
    ) -> Self {
        Self { health: Arc::new(health), origin, executor, is_alive }
    }
}

/// Makes endpoints that are asked for their health.
pub(crate) struct Watching<B: Send + 'static> {
    pool: ChannelPool<B>,
    how: Option<Asking>,
}

impl<B: Send + 'static> Watching<B> {
    pub(super) fn new(pool: ChannelPool<B>, how: Option<Asking>) -> Self {
        Self { pool, how }
    }
}

impl<B: Send + 'static> Clone for Watching<B> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), how: self.how.clone() }
    }
}

impl<B> Service<Target> for Watching<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Watched<Handle<Connection<B>>>;
    type Error = Error;
    type Future = Ready<Result<Self::Response, Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.pool.poll_ready(cx)
    }

    fn call(&mut self, target: Target) -> Self::Future {
        let made = self.pool.call(target).into_inner();
        future_ready(made.and_then(|inner| {
            let Some(how) = &self.how else { return Ok(Watched { inner, state: None }) };
            let (alive, gone) = oneshot::channel();
            let state = Arc::new(Found { is_down: AtomicBool::new(false), why: Lock::new(None), _alive: alive });
            let asking = keep_asking(how.clone(), inner.clone(), Arc::downgrade(&state), gone);
            how.executor.spawn(Box::pin(asking))?;
            Ok(Watched { inner, state: Some(state) })
        }))
    }
}

/// Probes an endpoint until nobody uses it any more.
async fn keep_asking<B>(how: Asking, endpoint: Handle<Connection<B>>, found: Weak<Found>, gone: oneshot::Receiver<()>)
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let Asking { health, origin, executor: _, mut is_alive } = how;
    let asking = async {
        let (mut rng, mut strikes) = (Rng::new(), 0);
        sleep(health.every.min(AT_FIRST).mul_f64(rng.unit())).await;
        loop {
            let asked = timeout(health.timeout, ask(&health, origin.as_ref(), endpoint.clone())).await;
            let answer = asked.unwrap_or_else(|_elapsed| {
                let why = format!("no answer within {:?}", health.timeout);
                Answer::Failed(Error::new(Kind::Timeout, Phase::Read).with_message(why))
            });
            let Some(found) = found.upgrade() else { return };
            let why = match answer {
                Answer::Serves => {
                    strikes = 0;
                    None
                }
                Answer::DoesNotServe(said) => {
                    strikes = STRIKES;
                    Some(unhealthy(said))
                }
                // It is busy, which is not ill: the probe may never have come to a connection.
                Answer::Failed(_) if endpoint.room() == Room::Full => found.why.lock().clone(),
                Answer::Failed(error) => {
                    strikes = (strikes + 1).min(STRIKES);
                    Some(unhealthy(error.to_string()).with_source(error))
                }
            };
            *found.why.lock() = why.map(|error| error.or_endpoint(endpoint.name()));
            found.is_down.store(strikes >= STRIKES, Ordering::Relaxed);
            drop(found);
            sleep(health.every.mul_f64(0.9 + 0.2 * rng.unit())).await;
        }
    };
    // It is closed, or its last clone is gone.
    let over = async { drop(is_alive.wait_for(|is_alive| !is_alive).await) };
    select(pin!(asking), pin!(async { drop(select(gone, pin!(over)).await) })).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_of_the_health_service_are_written_and_read() {
        assert_eq!(&check_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&check_request("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let long = check_request(&"x".repeat(300));
        assert_eq!(&long[5..8], [0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 5 + 3 + 300);
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        for nonsense in [&[][..], &[0, 0, 0, 0, 9, 8, 1], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 9, 1]] {
            assert_eq!(serving_status(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for path in ["", "healthz", "no spaces", "http://a/b"] {
            assert_eq!(Health::http(path).unwrap_err().kind(), Kind::Config, "{path:?}");
        }
        assert!(Health::grpc("").every(Duration::ZERO).validate().is_err());
        assert!(Health::grpc("").timeout(Duration::ZERO).validate().is_err());
    }
}
