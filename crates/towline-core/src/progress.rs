//! How far a call, or a dial, has come: the phase, the endpoint, and whether the request can have left.
//!
//! An outer layer that gives up (a deadline) must say what was going on inside, and a retry must know which
//! endpoint it leaves. Inner layers cannot tell them through the request, which is consumed, nor through the
//! future, which may be anybody's. They are polled on the same stack, though: the outer layer opens a
//! [`scope`](Progress::scope) around each poll, and whoever is inside reports with [`enter`] and [`at`]. That costs
//! no allocation, works with any request type and through foreign layers, and where a layer hops to another task
//! (tower's `Buffer`) it degrades to "somewhere in the call".
//!
//! Two rules keep [`Progress::sent`] honest. Whoever hands a request to a service that it does not know enters
//! [`Phase::Call`] first: from there on it may have been sent, whatever phase follows, until a connection takes the
//! responsibility by entering [`Phase::Write`], or it comes [`back`] unsent. And whoever knows that a byte was accepted,
//! or gets an answer or an error that says it may have been, calls [`written`]; that is never taken back.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::time::Instant;

use crate::{EndpointId, EndpointKey, Phase, Sent};

/// What has been reported inside a scope so far. Kept by the layer that opened it, across polls.
///
/// ```
/// use towline_core::{progress::{self, Progress}, Phase, Sent};
///
/// let mut progress = Progress::default();
/// progress.scope(|| progress::enter(Phase::Queue));
/// assert_eq!((progress.phase(), progress.sent()), (Phase::Queue, Sent::Never));
/// progress.scope(|| { progress::enter(Phase::Write); progress::written() });
/// assert_eq!(progress.sent(), Sent::Maybe);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Progress {
    facts: Facts,
    endpoint: Option<(EndpointId, EndpointKey)>,
}

/// What is reported often.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    phase: Phase,
    /// With somebody of whom nobody knows what they do with it.
    handed_over: bool,
    written: bool,
}

/// How long a call spends in each phase, for the error that ends it. Time passes between polls, so whoever polls a call says
/// after each in which phase it was left; the clock is read when that is another one than before, and so hardly ever.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// In which a poll has left the call; `None` before the first.
    phase: Option<Phase>,
    /// What was before that phase, for the few calls of which a poll says something new.
    before: Option<Box<Before>>,
}

#[derive(Clone, Debug)]
struct Before {
    until: Instant,
    spent: [Duration; PHASES.len()],
}

/// In their own order.
const PHASES: [Phase; 10] = [
    Phase::Call,
    Phase::Build,
    Phase::Pick,
    Phase::Queue,
    Phase::Resolve,
    Phase::Dial,
    Phase::Handshake,
    Phase::Write,
    Phase::Read,
    Phase::Backoff,
];

impl Times {
    /// A poll has left the call, which began at `start`, in `phase`.
    #[inline]
    pub fn left_in(&mut self, phase: Phase, start: Instant) {
        if self.phase != Some(phase) {
            self.enter(phase, start);
        }
    }

    fn enter(&mut self, phase: Phase, start: Instant) {
        if let Some(last) = self.phase.replace(phase) {
            self.spent(last, start);
        }
    }

    fn spent(&mut self, phase: Phase, start: Instant) {
        let nothing = || Box::new(Before { until: start, spent: [Duration::ZERO; PHASES.len()] });
        let before = self.before.get_or_insert_with(nothing);
        let now = Instant::now();
        before.spent[phase as usize] += now.saturating_duration_since(before.until);
        before.until = now;
    }

    /// The phases that took any time until now, in the order of [`Phase`].
    pub fn to_vec(&mut self, start: Instant) -> Vec<(Phase, Duration)> {
        if let Some(phase) = self.phase {
            self.spent(phase, start);
        }
        let spent = self.before.iter().flat_map(|before| PHASES.into_iter().zip(before.spent));
        spent.filter(|(_, took)| !took.is_zero()).collect()
    }
}

/// The innermost open scope of the future that is being polled on this thread.
struct Current {
    /// `None` when no scope is open.
    facts: Cell<Option<Facts>>,
    endpoint: RefCell<Option<(EndpointId, EndpointKey)>>,
}

thread_local! {
    static CURRENT: Current = const { Current { facts: Cell::new(None), endpoint: RefCell::new(None) } };
}

impl Progress {
    /// A scope that begins in `phase`.
    pub fn starting(phase: Phase) -> Self {
        Self { facts: Facts { phase, ..Facts::default() }, endpoint: None }
    }

    /// Runs `poll` with this as the place that [`enter`] and [`at`] report to. What is reported is passed on to
    /// the scope around this one.
    // On the path of every poll of every call: what is open changes places with what is opened, and nothing is moved or dropped.
    #[inline]
    pub fn scope<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        /// Restores the outer scope even when `poll` panics.
        struct Close<'a> {
            /// Its endpoint is the outer scope's meanwhile.
            own: &'a mut Progress,
            outer: Option<Facts>,
        }
        impl Drop for Close<'_> {
            #[inline]
            fn drop(&mut self) {
                let _gone = CURRENT.try_with(|current| self.own.close(self.outer, current));
            }
        }
        let outer = CURRENT.try_with(|current| {
            std::mem::swap(&mut *current.endpoint.borrow_mut(), &mut self.endpoint);
            current.facts.replace(Some(self.facts))
        });
        // While a thread ends there is no scope, and nobody left to tell.
        let Ok(outer) = outer else { return poll() };
        let _close = Close { own: self, outer };
        poll()
    }

    #[inline]
    fn close(&mut self, outer: Option<Facts>, current: &Current) {
        self.facts = current.facts.get().unwrap_or_default();
        let mut endpoint = current.endpoint.borrow_mut();
        std::mem::swap(&mut *endpoint, &mut self.endpoint);
        current.facts.set(outer.map(|outer| Facts { written: outer.written | self.facts.written, ..self.facts }));
        if outer.is_none() {
            return;
        }
        if let Some((id, _)) = &self.endpoint {
            if endpoint.as_ref().is_none_or(|(outer, _)| outer != id) {
                endpoint.clone_from(&self.endpoint);
            }
        }
    }

    /// The phase last entered.
    pub fn phase(&self) -> Phase {
        self.facts.phase
    }

    /// Whether somebody has reported that the request was written, or may have been.
    pub fn was_written(&self) -> bool {
        self.facts.written
    }

    /// The endpoint last picked.
    pub fn endpoint(&self) -> Option<(EndpointId, &EndpointKey)> {
        self.endpoint.as_ref().map(|(id, key)| (*id, key))
    }

    /// Whether a byte of the request can have left, in any attempt. [`Sent::Maybe`] when nobody inside reported.
    pub fn sent(&self) -> Sent {
        match self.facts.phase {
            _ if self.facts.written || self.facts.handed_over => Sent::Maybe,
            Phase::Call | Phase::Read => Sent::Maybe,
            _ => Sent::Never,
        }
    }
}

/// Reports that the call has entered `phase`. Does nothing outside a scope.
#[inline]
pub fn enter(phase: Phase) {
    with_facts(|facts| {
        facts.phase = phase;
        match phase {
            Phase::Call => facts.handed_over = true,
            Phase::Write => facts.handed_over = false,
            _ => {}
        }
    });
}

/// Reports that the call goes to this endpoint, in the hands of somebody of whom nobody knows what they do with it: [`at`]
/// and [`enter`] of [`Phase::Call`] in one. Does nothing outside a scope.
#[inline]
pub fn handed_over(id: EndpointId, key: &EndpointKey) {
    enter(Phase::Call);
    at(id, key);
}

/// Reports that the request has come back unsent. Does nothing outside a scope.
#[inline]
pub fn back() {
    with_facts(|facts| facts.handed_over = false);
}

/// Reports that a byte of the request can have left. Does nothing outside a scope.
#[inline]
pub fn written() {
    with_facts(|facts| facts.written = true);
}

/// Reports that the call goes to this endpoint. Does nothing outside a scope.
#[inline]
pub fn at(id: EndpointId, key: &EndpointKey) {
    let _gone = CURRENT.try_with(|current| {
        if current.facts.get().is_some() {
            *current.endpoint.borrow_mut() = Some((id, key.clone()));
        }
    });
}

#[inline]
fn with_facts(report: impl FnOnce(&mut Facts)) {
    // While a thread ends this is gone before what reports to it, and there is nobody left to tell.
    let _gone = CURRENT.try_with(|current| {
        if let Some(mut facts) = current.facts.get() {
            report(&mut facts);
            current.facts.set(Some(facts));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inner_scope_reports_to_the_outer_one() {
        let (id, key) = (EndpointId::fresh(), EndpointKey::new("a"));
        let (mut outer, mut inner) = (Progress::default(), Progress::default());
        outer.scope(|| {
            enter(Phase::Pick);
            inner.scope(|| {
                at(id, &key);
                enter(Phase::Write);
            });
        });
        assert_eq!(outer.phase(), Phase::Write);
        assert_eq!(outer.endpoint().unwrap().0, id);
        enter(Phase::Read);
        assert_eq!(outer.phase(), Phase::Write, "nothing reports outside a scope");
    }

    #[test]
    fn what_was_written_once_stays_written_in_later_attempts() {
        let mut progress = Progress::default();
        progress.scope(written);
        progress.scope(|| enter(Phase::Queue));
        assert_eq!((progress.phase(), progress.sent()), (Phase::Queue, Sent::Maybe));
    }

    #[test]
    fn what_was_handed_to_somebody_unknown_may_have_been_sent_until_it_is_written_or_comes_back() {
        let mut progress = Progress::starting(Phase::Pick);
        progress.scope(|| enter(Phase::Call));
        progress.scope(|| enter(Phase::Queue)); // another call in the same scope
        assert_eq!((progress.phase(), progress.sent()), (Phase::Queue, Sent::Maybe));
        progress.scope(back);
        assert_eq!(progress.sent(), Sent::Never);
        progress.scope(|| enter(Phase::Call));
        progress.scope(|| enter(Phase::Write));
        assert_eq!(progress.sent(), Sent::Never);
    }

    #[test]
    fn without_a_report_the_request_may_have_been_sent() {
        assert_eq!(Progress::default().sent(), Sent::Maybe);
    }

    #[test]
    fn a_panic_inside_leaves_no_scope_behind() {
        let mut progress = Progress::default();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| progress.scope(|| panic!("inside"))));
        assert!(caught.is_err());
        assert!(CURRENT.with(|current| current.facts.get().is_none() && current.endpoint.borrow().is_none()));
    }
}
