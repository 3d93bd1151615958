//! The seams fit what is to be put into them: a service that is `Clone`, an exclusive connection like hyper's HTTP/1,
//! and a multiplexed one like HTTP/2. Compiling is the test.

use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use tower_service::Service;
use towline_core::{
    Access, Blind, ByError, Call, CallContext, Carried, Classify, Error, GiveBack, HasContext, Lend, Lent, LoadReport,
    Members, Pick, Policy, Poolable, Rejected, Replay, Rng, Sharing, State, Unwatched, UnwrapCall, View,
};

/// A message that is neither `Clone` nor `Debug`.
struct Message;

/// A service that is `Clone`.
#[derive(Clone)]
struct Shared;

impl<Req> Service<Req> for Shared {
    type Response = ();
    type Error = Error;
    type Future = Ready<Result<(), Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Req) -> Self::Future {
        ready(Ok(()))
    }
}

/// Like hyper's HTTP/1: one call at a time, reusable once the response body was read, gives unsent requests back.
struct Exclusive {
    reading_body: bool,
}

impl Poolable for Exclusive {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }

    fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        match (self.reading_body, seen) {
            (true, State::Busy) | (false, State::Idle) => Poll::Pending,
            (true, _) => Poll::Ready(State::Busy),
            (false, _) => Poll::Ready(State::Idle),
        }
    }
}

impl<Req> Service<Req> for Exclusive {
    type Response = ();
    type Error = Rejected<Req>;
    type Future = Ready<Result<(), Rejected<Req>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.reading_body = true;
        ready(Err(Rejected {
            error: Error::new(towline_core::Kind::Closed, Default::default()),
            request: Some(request),
        }))
    }
}

/// Like HTTP/2: many calls at once, drains after GOAWAY.
#[derive(Clone)]
struct Multiplexed;

impl Poolable for Multiplexed {
    fn sharing(&self) -> Sharing {
        Sharing::Shared { limit: 100 }
    }

    fn poll_change(&mut self, _seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        Poll::Ready(State::Draining)
    }

    fn share(&self) -> Option<Self> {
        Some(self.clone())
    }
}

/// A picker that looks at the request itself.
struct ByRequest;

impl Policy for ByRequest {
    type Picker = ByRequest;

    fn build(&mut self, _set: &Members, _last: Option<&ByRequest>) -> ByRequest {
        ByRequest
    }
}

impl Pick<Call<Message>> for ByRequest {
    type Order<'a> = std::iter::Once<usize>;

    fn order<'a>(
        &'a self,
        request: &'a Call<Message>,
        _context: Option<&'a CallContext>,
        _view: View<'a>,
        _rng: &mut Rng,
    ) -> Self::Order<'a> {
        let Message = request.message();
        std::iter::once(0)
    }
}

/// What a pool asks of a connection for requests `Req`.
fn pools<C, Req>(_: C)
where
    C: Poolable + Service<Req>,
    C::Error: GiveBack<Req>,
{
}

/// What a balancer asks of an endpoint for requests `Req`.
fn balances<L, P, A, Req>(_: L, _: P, _: A)
where
    L: Lend,
    L::Checkout: Service<Req>,
    P: Policy,
    P::Picker: Pick<Req>,
    A: Access<Req>,
{
}

#[test]
fn each_kind_of_connection_fits_the_pool() {
    pools::<_, Message>(Exclusive { reading_body: false });
    pools::<_, Call<Message>>(UnwrapCall::new(Exclusive { reading_body: false }));
    pools::<_, Message>(Unwatched::new(Shared));
    fn shared<C: Poolable>(_: C) {}
    shared(Multiplexed);
}

#[test]
fn a_clone_service_fits_the_balancer_for_requests_with_and_without_a_context() {
    balances::<_, _, _, Call<Message>>(Lent::new(Shared), ByRequest, Carried);
    balances::<_, _, _, Call<Message>>(Lent::new(Shared), ByRequest, Blind);
}

#[test]
fn a_request_type_of_ones_own_carries_a_context() {
    #[derive(Clone, Default)]
    struct Own {
        context: CallContext,
    }
    impl HasContext for Own {
        fn context(&self) -> &CallContext {
            &self.context
        }
        fn context_mut(&mut self) -> &mut CallContext {
            &mut self.context
        }
    }
    let mut own = Own::default();
    Carried.edit(&mut own, |context| context.set_idempotent(true));
    assert!(own.replay().is_some_and(|again| again.context().is_idempotent()));
    Blind.edit(&mut own, |_| unreachable!("there is nothing to edit"));
}

#[test]
fn any_response_can_be_classified_by_its_result_alone() {
    fn classifies<K: Classify<Message>>(_: K) {}
    classifies(ByError);
}

#[test]
fn a_call_that_is_dropped_as_its_thread_ends_reports_to_nobody() {
    use towline_core::progress;

    /// Reports when it is dropped, as calls on connections do.
    struct Reports;
    impl Drop for Reports {
        fn drop(&mut self) {
            progress::written();
        }
    }
    thread_local! {
        static LAST: std::cell::RefCell<Option<Reports>> = const { std::cell::RefCell::new(None) };
    }
    std::thread::spawn(|| {
        LAST.with(|last| *last.borrow_mut() = Some(Reports));
        progress::Progress::default().scope(progress::written);
    })
    .join()
    .unwrap();
}

#[tokio::test]
async fn a_request_that_comes_back_keeps_its_context() {
    let mut connection = UnwrapCall::new(Exclusive { reading_body: false });
    let rejected = connection.call(Call::new(Message).with_session("alice")).await.unwrap_err();
    let back = rejected.request.unwrap();
    assert_eq!(back.context().session().unwrap().as_bytes(), b"alice");
}

#[tokio::test]
async fn an_unwatched_service_is_closed_by_a_failed_or_dropped_call_only() {
    let state = |connection: &mut Unwatched<Shared>| {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        connection.poll_change(State::Busy, &mut cx)
    };
    let mut connection = Unwatched::new(Shared);
    Service::<()>::call(&mut connection, ()).await.unwrap();
    assert_eq!(state(&mut connection), Poll::Ready(State::Idle));
    drop(Service::<()>::call(&mut connection, ()));
    assert_eq!(state(&mut connection), Poll::Ready(State::Closed));
}

#[test]
fn what_a_server_says_about_its_load_passes_the_seam() {
    struct Reports;
    impl Poolable for Reports {
        fn sharing(&self) -> Sharing {
            Sharing::Exclusive
        }
        fn poll_change(&mut self, _seen: State, _cx: &mut Context<'_>) -> Poll<State> {
            Poll::Pending
        }
        fn reported(&self) -> Option<LoadReport> {
            Some(LoadReport { in_flight: 7, latency: Duration::ZERO })
        }
    }
    assert_eq!(UnwrapCall::new(Reports).reported(), Reports.reported());
}
