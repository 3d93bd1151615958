//! Whether an endpoint can be reached, and when it may be dialled again.

use std::time::Duration;

use tokio::time::Instant;
use towline_core::sync::after;
use towline_core::{Backoff, Error, Jitter, Kind, Rng};

/// So long a pause callers wait out after a first failure.
const SOON: Duration = Duration::from_millis(50);

/// At the least, after a handshake that failed for what was shown or is configured: no second one goes better before somebody
/// has mended it, and each costs both sides a thousand times what a refused connection does.
const UNTRUSTED: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30)).with_jitter(Jitter::Equal);

#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Failures in a row: dials, and connections that died as they were born.
    row: u32,
    /// Those of them that were refused for what was shown or is configured.
    untrusted: u32,
    /// Failures in all.
    total: u64,
    last: Option<(Instant, Error)>,
    not_before: Option<Instant>,
    /// The last thing that happened was a failure.
    down: bool,
    /// It may be an accident, and the next dial will soon tell.
    unclear: bool,
}

impl Reach {
    /// A dial failed; when the next may start.
    pub(crate) fn failed(&mut self, error: Error, now: Instant, backoff: Backoff, rng: &mut Rng) -> Instant {
        let mut pause = backoff.delay(self.row, rng);
        if error.kind() == Kind::Tls {
            pause = pause.max(UNTRUSTED.delay(self.untrusted, rng));
            self.untrusted = self.untrusted.saturating_add(1);
        }
        let at = after(now, pause);
        // Who ran out of time has waited already, and a second time would take as long.
        self.unclear = self.row == 0 && pause <= SOON && error.kind() != Kind::Timeout;
        self.row = self.row.saturating_add(1);
        self.total += 1;
        self.not_before = Some(at);
        self.last = Some((now, error));
        self.down = true;
        at
    }

    /// A connection was made. That alone resets nothing: it may die at its first call.
    pub(crate) fn opened(&mut self) {
        self.down = false;
    }

    /// A call succeeded on a connection that was made at `born`. One made before the last failure says nothing about
    /// the dials that fail since.
    pub(crate) fn succeeded(&mut self, born: Instant) {
        self.down = false;
        if self.last.as_ref().is_none_or(|(failed, _)| born >= *failed) {
            *self = Self { total: self.total, ..Self::default() };
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down
    }

    /// Whether to wait for the next dial before callers are told.
    pub(crate) fn is_unclear(&self) -> bool {
        self.down && self.unclear
    }

    /// Dials have failed and no call has succeeded since.
    pub(crate) fn is_suspect(&self) -> bool {
        self.row > 0
    }

    pub(crate) fn backs_off(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|at| now < at)
    }

    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    pub(crate) fn last_error(&self) -> Option<&Error> {
        self.last.as_ref().map(|(_, error)| error)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.total
    }
}
