//! How a balancer is put together.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::task::{Context, Poll};

use arc_swap::ArcSwapOption;
use futures_core::Stream;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tower::discover::Change;
use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{BoxError, Carried, Endpoint, EndpointKey, Error, Executor, Lend, Observers, Policy, Rng, Target};

use crate::balance::Balance;
use crate::driver::Driver;
use crate::set::{Shared, Users};

/// The [`Balance`] over what `M` makes, by what `P` picks.
pub type Balanced<M, P, A = Carried> = Balance<<M as Service<Target>>::Response, <P as Policy>::Picker, A>;

/// Settings of a [`Balance`].
#[derive(Clone, Debug)]
#[must_use]
pub struct BalanceBuilder<P, A = Carried> {
    policy: P,
    access: A,
    observers: Observers,
    rng: Rng,
}

impl<P: Policy> BalanceBuilder<P> {
    /// Picks by `policy`, for requests that carry a context.
    pub fn new(policy: P) -> Self {
        Self { policy, access: Carried, observers: Observers::default(), rng: Rng::new() }
    }
}

impl<P: Policy, A> BalanceBuilder<P, A> {
    /// Reaches the context through `access`; [`Blind`](towline_core::Blind) takes any request.
    pub fn with_access<B>(self, access: B) -> BalanceBuilder<P, B> {
        BalanceBuilder { policy: self.policy, access, observers: self.observers, rng: self.rng }
    }

    /// Sends events here.
    pub fn observers(mut self, observers: Observers) -> Self {
        self.observers = observers;
        self
    }

    /// Picks by this randomness, for runs that repeat.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }

    /// A balancer over the endpoints that `discover` yields, each made by `make`, and its driver. The driver must be
    /// polled for changes to arrive; it ends when the last clone of the balancer is dropped.
    pub fn pair<D, M, E>(self, discover: D, make: M) -> (Balanced<M, P, A>, Driver<D, M, P>)
    where
        D: Stream<Item = Result<Change<EndpointKey, Endpoint>, E>>,
        E: Into<BoxError>,
        M: Service<Target> + Clone,
        M::Response: Lend,
        M::Error: Into<BoxError>,
    {
        let mut rng = self.rng;
        let shared = Arc::new(Shared {
            snapshot: ArcSwapOption::empty(),
            published: Arc::new(Notify::new()),
            driver: AtomicWaker::new(),
            abandoned: AtomicBool::new(false),
            driving: AtomicBool::new(true),
            seeds: AtomicU64::new(rng.next_u64()),
            failure: Lock::new(None),
            observers: self.observers,
        });
        let driver = Driver::new(shared.clone(), discover, make, self.policy);
        (Balance::new(Arc::new(Users(shared)), self.access), driver)
    }

    /// As [`pair`](Self::pair), with the driver spawned on `executor`.
    ///
    /// # Errors
    ///
    /// [`Kind::Runtime`](towline_core::Kind::Runtime) when the executor has nothing to run it on.
    pub fn spawn<D, M, E>(self, discover: D, make: M, executor: &dyn Executor) -> Result<Balanced<M, P, A>, Error>
    where
        D: Stream<Item = Result<Change<EndpointKey, Endpoint>, E>> + Send + 'static,
        E: Into<BoxError>,
        M: Service<Target> + Clone + Send + 'static,
        M::Response: Lend + Send + Sync + 'static,
        M::Error: Into<BoxError>,
        M::Future: Send + 'static,
    {
        let (balance, driver) = self.pair(discover, make);
        executor.spawn(Box::pin(driver))?;
        Ok(balance)
    }
}

/// A set of endpoints that does not change: a stream of them that then stays silent.
pub fn fixed(endpoints: impl IntoIterator<Item = Endpoint>) -> Fixed {
    Fixed(endpoints.into_iter().collect::<Vec<_>>().into_iter())
}

/// The stream of [`fixed`].
#[derive(Debug)]
pub struct Fixed(std::vec::IntoIter<Endpoint>);

impl Stream for Fixed {
    type Item = Result<Change<EndpointKey, Endpoint>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.next() {
            Some(endpoint) => Poll::Ready(Some(Ok(Change::Insert(endpoint.key().clone(), endpoint)))),
            None => Poll::Pending,
        }
    }
}
