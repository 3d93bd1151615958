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

use std::cell::RefCell;
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
    phase: Phase,
    /// With somebody of whom nobody knows what they do with it.
    handed_over: bool,
    written: bool,
    endpoint: Option<(EndpointId, EndpointKey)>,
}

/// How long a call spends in each phase, for the error that ends it. Time passes between polls, so whoever polls a call says
/// after each in which phase it was left; the clock is read when that is another one than before, and so hardly ever.
#[derive(Clone, Debug)]
pub struct Times {
    /// Since when the call has been in this phase; `None` before the first poll.
    phase: Option<Phase>,
    since: Instant,
    /// In microseconds, up to 71 minutes each: every call carries them.
    micros: [u32; PHASES.len()],
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
    /// Of a call that begins now.
    pub fn from(start: Instant) -> Self {
        Self { phase: None, since: start, micros: [0; PHASES.len()] }
    }

    /// A poll has left the call in `phase`.
    #[inline]
    pub fn left_in(&mut self, phase: Phase) {
        if self.phase != Some(phase) {
            self.enter(phase);
        }
    }

    fn enter(&mut self, phase: Phase) {
        if let Some(last) = self.phase.replace(phase) {
            self.spent(last);
        }
    }

    fn spent(&mut self, phase: Phase) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.since).as_micros();
        let micros = &mut self.micros[phase as usize];
        *micros = micros.saturating_add(u32::try_from(took).unwrap_or(u32::MAX));
        self.since = now;
    }

    /// The phases that took any time until now, in the order of [`Phase`].
    pub fn to_vec(&mut self) -> Vec<(Phase, Duration)> {
        if let Some(phase) = self.phase {
            self.spent(phase);
        }
        let times = PHASES.into_iter().zip(self.micros).filter(|(_, micros)| *micros > 0);
        times.map(|(phase, micros)| (phase, Duration::from_micros(u64::from(micros)))).collect()
    }
}

thread_local! {
    /// The innermost open scope of the future that is being polled on this thread.
    static CURRENT: RefCell<Option<Progress>> = const { RefCell::new(None) };
}

impl Progress {
    /// A scope that begins in `phase`.
    pub fn starting(phase: Phase) -> Self {
        Self { phase, ..Self::default() }
    }

    /// Runs `poll` with this as the place that [`enter`] and [`at`] report to. What is reported is passed on to
    /// the scope around this one.
    pub fn scope<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        /// Restores the outer scope even when `poll` panics.
        struct Restore<'a> {
            own: &'a mut Progress,
            outer: Option<Progress>,
        }
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                let inner = CURRENT.try_with(|current| current.replace(self.outer.take()));
                *self.own = inner.ok().flatten().unwrap_or_default();
                with_current(|outer| outer.absorb(self.own));
            }
        }
        let mine = std::mem::take(self);
        let outer = CURRENT.try_with(|current| current.replace(Some(mine))).ok().flatten();
        let _restore = Restore { own: self, outer };
        poll()
    }

    /// The phase last entered.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether somebody has reported that the request was written, or may have been.
    pub fn was_written(&self) -> bool {
        self.written
    }

    /// The endpoint last picked.
    pub fn endpoint(&self) -> Option<(EndpointId, &EndpointKey)> {
        self.endpoint.as_ref().map(|(id, key)| (*id, key))
    }

    /// Whether a byte of the request can have left, in any attempt. [`Sent::Maybe`] when nobody inside reported.
    pub fn sent(&self) -> Sent {
        match self.phase {
            _ if self.written || self.handed_over => Sent::Maybe,
            Phase::Call | Phase::Read => Sent::Maybe,
            _ => Sent::Never,
        }
    }

    fn absorb(&mut self, inner: &Self) {
        self.phase = inner.phase;
        self.handed_over = inner.handed_over;
        self.written |= inner.written;
        if let Some((id, _)) = &inner.endpoint {
            if self.endpoint.as_ref().is_none_or(|(own, _)| own != id) {
                self.endpoint.clone_from(&inner.endpoint);
            }
        }
    }
}

/// Reports that the call has entered `phase`. Does nothing outside a scope.
#[inline]
pub fn enter(phase: Phase) {
    with_current(|progress| {
        progress.phase = phase;
        match phase {
            Phase::Call => progress.handed_over = true,
            Phase::Write => progress.handed_over = false,
            _ => {}
        }
    });
}

/// Reports that the call goes to this endpoint, in the hands of somebody of whom nobody knows what they do with it: [`at`]
/// and [`enter`] of [`Phase::Call`] in one. Does nothing outside a scope.
#[inline]
pub fn handed_over(id: EndpointId, key: &EndpointKey) {
    with_current(|progress| {
        progress.phase = Phase::Call;
        progress.handed_over = true;
        progress.endpoint = Some((id, key.clone()));
    });
}

/// Reports that the request has come back unsent. Does nothing outside a scope.
#[inline]
pub fn back() {
    with_current(|progress| progress.handed_over = false);
}

/// Reports that a byte of the request can have left. Does nothing outside a scope.
#[inline]
pub fn written() {
    with_current(|progress| progress.written = true);
}

/// Reports that the call goes to this endpoint. Does nothing outside a scope.
#[inline]
pub fn at(id: EndpointId, key: &EndpointKey) {
    with_current(|progress| progress.endpoint = Some((id, key.clone())));
}

#[inline]
fn with_current(report: impl FnOnce(&mut Progress)) {
    // While a thread ends this is gone before what reports to it, and there is nobody left to tell.
    let _gone = CURRENT.try_with(|current| {
        if let Some(progress) = current.borrow_mut().as_mut() {
            report(progress);
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
        assert!(CURRENT.with(|current| current.borrow().is_none()));
    }
}
