//! hyper-util's composable cache over a cap that is reserved in `poll_ready`.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper_util::client::pool::cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::PollSemaphore;
use tower::Service;
use towline_pool::Handle;

use super::{STUCK, paused};
use crate::network::{Connection, Network};
use crate::pools::{handle, towline_name, version};
use crate::report::{Bug, Observed};

const URL: &str = "https://github.com/hyperium/hyper-util/pull/297";
const WORKERS: usize = 512;
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 100;
const REQUEST: Duration = Duration::from_millis(1);

/// A pool as tower has it: ready first, then called.
trait Client: Clone + Send + 'static {
    fn ready(&mut self) -> impl Future<Output = Result<()>> + Send;
    /// Becomes ready and makes a request, which holds a connection as long as it takes.
    fn request(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// A connector that makes no more connections than it has permits for, and reserves one when it says that it is ready.
struct Capped {
    network: Network,
    permits: PollSemaphore,
    reserved: Option<OwnedSemaphorePermit>,
}

impl Capped {
    fn new(network: Network) -> Self {
        Self { network, permits: PollSemaphore::new(Arc::new(Semaphore::new(CONNECTIONS))), reserved: None }
    }
}

impl Clone for Capped {
    fn clone(&self) -> Self {
        Self { network: self.network.clone(), permits: self.permits.clone(), reserved: None }
    }
}

impl Service<()> for Capped {
    type Response = (Connection, OwnedSemaphorePermit);
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.reserved.is_none() {
            self.reserved = ready!(self.permits.poll_acquire(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let (network, permit) = (self.network.clone(), self.reserved.take().expect("called when ready"));
        Box::pin(async move { Ok((network.dial().await, permit)) })
    }
}

/// hyper-util's cache over that connector: its type has no name that could be written.
#[derive(Clone)]
struct Composed<S>(S);

fn composed(network: &Network) -> impl Client + use<> {
    Composed(cache::builder().build(Capped::new(network.clone())))
}

impl<S> Client for Composed<S>
where
    S: Service<(), Response: Send, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    async fn ready(&mut self) -> Result<()> {
        Ok(poll_fn(|cx| self.0.poll_ready(cx)).await?)
    }

    async fn request(&mut self) -> Result<()> {
        self.ready().await?;
        let connection = self.0.call(()).await?;
        sleep(REQUEST).await;
        drop(connection);
        Ok(())
    }
}

impl Client for Handle<Connection> {
    async fn ready(&mut self) -> Result<()> {
        Ok(poll_fn(|cx| self.poll_ready(cx)).await?)
    }

    async fn request(&mut self) -> Result<()> {
        self.ready().await?;
        Ok(self.call(REQUEST).await?)
    }
}

/// More workers than connections, each making one request after another.
pub(super) fn deadlock() -> Result<Bug> {
    Ok(Bug {
        name: "hyper-util #297",
        url: URL,
        met: "512 workers over the composable cache, with a connector below it that reserves one of 64 permits in `poll_ready`, \
              stop for good: each waits for a permit while the connections that have them are handed back to nobody.",
        replayed: format!(
            "{WORKERS} workers make {ROUNDS} requests of {REQUEST:?} each over at most {CONNECTIONS} connections. With \
             `=0.1.20`, the release before, in `tools/field-bugs/Cargo.toml` the same workers are stuck."
        ),
        observed: vec![
            paused(async {
                let network = Network::default();
                work(version("hyper-util"), composed(&network), &network).await
            })?,
            paused(async {
                let network = Network::default();
                work(towline_name(), handle(&network, CONNECTIONS).await?, &network).await
            })?,
        ],
    })
}

async fn work<C: Client>(pool: String, client: C, network: &Network) -> Result<Observed> {
    let done = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (mut client, done) = (client.clone(), done.clone());
        workers.spawn(async move {
            for _ in 0..ROUNDS {
                client.request().await?;
                done.fetch_add(1, Relaxed);
            }
            anyhow::Ok(())
        });
    }
    let began = Instant::now();
    let all = async {
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        anyhow::Ok(())
    };
    let ended = timeout(STUCK, all).await.ok().transpose()?.is_some();
    let took = began.elapsed();
    let (done, most) = (done.load(Relaxed), network.most());
    let asked = WORKERS * ROUNDS;
    let did = match ended {
        true => format!("{done} of {asked} requests done after {took:.1?}, with {most} connections at most"),
        false => format!("stuck: {done} of {asked} requests done after {STUCK:?}, with {most} connections"),
    };
    Ok(Observed { pool, did, has_bug: Some(!ended || done < asked || most > CONNECTIONS) })
}

/// As many idle clones that are ready as there are connections, and one more who wants to work.
pub(super) fn hoarding() -> Result<Bug> {
    Ok(Bug {
        name: "hyper-util #297, what readiness holds",
        url: URL,
        met: "Not reported: it follows from the mend for clones that were ready and then found nothing. Readiness now takes a \
              connection into the clone, and one that is ready and not called keeps it from everybody else.",
        replayed: format!(
            "{CONNECTIONS} connections are open and idle; {CONNECTIONS} clones become ready and are kept without a call, as \
             after a `select!`; one more makes a request."
        ),
        observed: vec![
            paused(async {
                let network = Network::default();
                hoard(version("hyper-util"), composed(&network)).await
            })?,
            paused(async {
                let network = Network::default();
                hoard(towline_name(), handle(&network, CONNECTIONS).await?).await
            })?,
        ],
    })
}

async fn hoard<C: Client>(pool: String, client: C) -> Result<Observed> {
    let mut requests = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut client = client.clone();
        requests.spawn(async move { client.request().await });
    }
    while let Some(request) = requests.join_next().await {
        request??;
    }
    let mut ready = vec![client.clone(); CONNECTIONS];
    for clone in &mut ready {
        timeout(STUCK, clone.ready()).await.context("a clone did not become ready")??;
    }
    let mut client = client;
    let began = Instant::now();
    let served = timeout(STUCK, client.request()).await.is_ok_and(|request| request.is_ok());
    let did = match served {
        true => format!("the request is done after {:?}", began.elapsed()),
        false => format!("the request waits for {STUCK:?} and more, with {CONNECTIONS} connections that nobody uses"),
    };
    drop(ready);
    Ok(Observed { pool, did, has_bug: Some(!served) })
}
