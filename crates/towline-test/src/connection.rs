//! Connections for a pool, and what makes them, with every fate in the test's hands.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::oneshot;
use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{CloseReason, Error, Kind, Phase, Poolable, Rejected, Sent, Sharing, State};

/// Makes [`ScriptedConnection`]s. Clones share everything.
///
/// Every dial succeeds at once unless the test [`hold`](Self::hold)s or [`fail`](Self::fail)s it.
pub struct ScriptedMaker {
    shared: Arc<Lock<Maker>>,
    sharing: Sharing,
}

#[derive(Default)]
struct Maker {
    dials: usize,
    fail: Option<Error>,
    hold: bool,
    held: VecDeque<oneshot::Sender<Result<(), Error>>>,
    wires: Vec<Wire>,
}

/// A dial that is held: the test decides how it ends. Dropping it fails the dial.
#[derive(Debug)]
pub struct DialGate(oneshot::Sender<Result<(), Error>>);

impl DialGate {
    /// Lets the dial succeed.
    pub fn open(self) {
        let _ = self.0.send(Ok(()));
    }

    /// Fails the dial.
    pub fn fail(self, error: Error) {
        let _ = self.0.send(Err(error));
    }
}

impl ScriptedMaker {
    /// Makes connections that carry one call at a time.
    pub fn exclusive() -> Self {
        Self { shared: Arc::default(), sharing: Sharing::Exclusive }
    }

    /// Makes connections that carry `limit` calls at once.
    pub fn shared(limit: usize) -> Self {
        Self { shared: Arc::default(), sharing: Sharing::Shared { limit } }
    }

    /// Holds dials from now on, or no longer.
    pub fn hold(&self, hold: bool) {
        self.shared.lock().hold = hold;
    }

    /// The dial that has been held for longest.
    pub fn held(&self) -> Option<DialGate> {
        self.shared.lock().held.pop_front().map(DialGate)
    }

    /// Fails dials from now on, or no longer.
    pub fn fail(&self, error: Option<Error>) {
        self.shared.lock().fail = error;
    }

    /// How many dials were begun.
    pub fn dials(&self) -> usize {
        self.shared.lock().dials
    }

    /// Every connection made so far, oldest first.
    pub fn wires(&self) -> Vec<Wire> {
        self.shared.lock().wires.clone()
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        self.wires().iter().filter(|wire| wire.is_open()).count()
    }
}

impl Clone for ScriptedMaker {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), sharing: self.sharing }
    }
}

impl fmt::Debug for ScriptedMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedMaker").field("dials", &self.dials()).finish_non_exhaustive()
    }
}

impl<T> Service<T> for ScriptedMaker {
    type Response = ScriptedConnection;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<ScriptedConnection, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _target: T) -> Self::Future {
        let (shared, sharing) = (self.shared.clone(), self.sharing);
        let gate = {
            let mut maker = shared.lock();
            maker.dials += 1;
            maker.hold.then(|| {
                let (gate, passed) = oneshot::channel();
                maker.held.push_back(gate);
                passed
            })
        };
        Box::pin(async move {
            if let Some(passed) = gate {
                let dropped = || Error::new(Kind::Unavailable, Phase::Dial).with_message("the dial was dropped");
                passed.await.map_err(|_| dropped())??;
            }
            let mut maker = shared.lock();
            if let Some(error) = &maker.fail {
                return Err(error.clone());
            }
            let wire = Wire(Arc::new(Lock::new(WireState { number: maker.wires.len(), ..WireState::default() })));
            maker.wires.push(wire.clone());
            Ok(ScriptedConnection { wire, sharing, master: true })
        })
    }
}

/// The test's side of a [`ScriptedConnection`].
#[derive(Clone, Debug)]
pub struct Wire(Arc<Lock<WireState>>);

#[derive(Debug, Default)]
struct WireState {
    number: usize,
    in_flight: usize,
    calls: usize,
    closed: Option<CloseReason>,
    draining: bool,
    hold: bool,
    dropped: bool,
    refuse: bool,
    watcher: Option<Waker>,
    callers: Vec<Waker>,
}

impl Wire {
    fn change(&self, change: impl FnOnce(&mut WireState)) {
        let (watcher, callers) = {
            let mut state = self.0.lock();
            change(&mut state);
            (state.watcher.take(), std::mem::take(&mut state.callers))
        };
        watcher.into_iter().chain(callers).for_each(Waker::wake);
    }

    /// The peer closes, or breaks, the connection.
    pub fn close(&self, reason: CloseReason) {
        self.change(|state| state.closed = Some(reason));
    }

    /// The peer closes the connection, and nothing is heard of it: as after a machine has slept.
    pub fn close_unheard(&self, reason: CloseReason) {
        self.0.lock().closed = Some(reason);
    }

    /// The peer asks for no more calls.
    pub fn drain(&self) {
        self.change(|state| state.draining = true);
    }

    /// Calls wait for their answer from now on, or no longer.
    pub fn hold(&self, hold: bool) {
        self.change(|state| state.hold = hold);
    }

    /// The next call comes back unsent, and the connection closes with it.
    pub fn refuse(&self) {
        self.change(|state| state.refuse = true);
    }

    /// How many calls are in flight.
    pub fn in_flight(&self) -> usize {
        self.0.lock().in_flight
    }

    /// How many calls were begun.
    pub fn calls(&self) -> usize {
        self.0.lock().calls
    }

    /// Whether neither side has closed it.
    pub fn is_open(&self) -> bool {
        let state = self.0.lock();
        state.closed.is_none() && !state.dropped
    }
}

/// A connection that answers a request with the number of the connection and the request itself.
#[derive(Debug)]
pub struct ScriptedConnection {
    wire: Wire,
    sharing: Sharing,
    /// The first handle, whose drop closes the connection.
    master: bool,
}

impl Drop for ScriptedConnection {
    fn drop(&mut self) {
        if self.master {
            self.wire.change(|state| state.dropped = true);
        }
    }
}

impl Poolable for ScriptedConnection {
    fn sharing(&self) -> Sharing {
        self.sharing
    }

    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        let mut wire = self.wire.0.lock();
        let state = match &*wire {
            WireState { closed: Some(_), .. } => State::Closed,
            WireState { draining: true, .. } => State::Draining,
            WireState { in_flight: 0, .. } => State::Idle,
            _ => State::Busy,
        };
        if state != seen {
            return Poll::Ready(state);
        }
        wire.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    fn share(&self) -> Option<Self> {
        match self.sharing {
            Sharing::Shared { .. } => Some(Self { wire: self.wire.clone(), sharing: self.sharing, master: false }),
            Sharing::Exclusive => None,
        }
    }

    fn abort(&mut self) {
        self.wire.close(CloseReason::Shutdown);
    }

    fn close_reason(&self) -> CloseReason {
        let wire = self.wire.0.lock();
        wire.closed.unwrap_or(if wire.draining { CloseReason::Drained } else { CloseReason::Failed })
    }
}

impl<Req> Service<Req> for ScriptedConnection {
    type Response = (usize, Req);
    type Error = Rejected<Req>;
    type Future = ScriptedFuture<Req>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ScriptedFuture { wire: self.wire.clone(), sharing: self.sharing, request: Some(request), begun: false }
    }
}

/// The response of a [`ScriptedConnection`]. Dropped unfinished, it leaves an exclusive connection closed as dirty.
#[derive(Debug)]
pub struct ScriptedFuture<Req> {
    wire: Wire,
    sharing: Sharing,
    request: Option<Req>,
    begun: bool,
}

impl<Req> Unpin for ScriptedFuture<Req> {}

impl<Req> Future for ScriptedFuture<Req> {
    type Output = Result<(usize, Req), Rejected<Req>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.wire.0.lock();
        if !this.begun {
            if std::mem::take(&mut state.refuse) {
                state.closed = Some(CloseReason::Peer);
            }
            if state.closed.is_some() {
                let request = this.request.take().expect("polled after completion");
                let closed = Error::new(Kind::Closed, Phase::Write);
                return Poll::Ready(Err(Rejected::unsent(closed, request)));
            }
            this.begun = true;
            state.in_flight += 1;
            state.calls += 1;
        }
        let result = if state.closed.is_some() {
            Err(Error::new(Kind::UnexpectedEof, Phase::Read).with_sent(Sent::Maybe).into())
        } else if state.hold {
            state.callers.push(cx.waker().clone());
            return Poll::Pending;
        } else {
            Ok((state.number, this.request.take().expect("polled after completion")))
        };
        drop(state);
        this.begun = false;
        this.wire.change(|state| state.in_flight -= 1);
        Poll::Ready(result)
    }
}

impl<Req> Drop for ScriptedFuture<Req> {
    fn drop(&mut self) {
        if self.begun {
            let exclusive = self.sharing == Sharing::Exclusive;
            self.wire.change(|state| {
                state.in_flight -= 1;
                if exclusive {
                    state.closed.get_or_insert(CloseReason::Dirty);
                }
            });
        }
    }
}
