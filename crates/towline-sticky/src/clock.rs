//! Time in steps, for what counts idleness in minutes: reading a clock costs as much as a pick.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A step of the clock. Wraps, so only differences mean something.
pub(crate) type Tick = u32;

/// What is idle for this part of its time more than it may be is gone.
const STEPS: u32 = 32;
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(60);

/// Says in which step we are, as of when it was last set.
pub(crate) struct Clock {
    origin: Instant,
    step: Duration,
    now: AtomicU32,
    idle: Tick,
}

impl Clock {
    /// A clock for what may be idle for so long.
    pub(crate) fn new(idle: Duration) -> Self {
        let step = (idle / STEPS).clamp(SHORTEST, LONGEST);
        let steps = idle.as_nanos().div_ceil(step.as_nanos());
        Self {
            origin: Instant::now(),
            step,
            now: AtomicU32::new(0),
            // Far from where differences wrap.
            idle: Tick::try_from(steps).unwrap_or(Tick::MAX).min(Tick::MAX / 4),
        }
    }

    /// How often it is to be set.
    pub(crate) fn step(&self) -> Duration {
        self.step
    }

    /// As it was last set.
    #[inline]
    pub(crate) fn read(&self) -> Tick {
        self.now.load(Ordering::Relaxed)
    }

    /// Sets it. Two that do so at once may set it back by a step for a moment, which harms nobody.
    pub(crate) fn set(&self, now: Instant) -> Tick {
        let steps = now.saturating_duration_since(self.origin).as_nanos() / self.step.as_nanos();
        let tick = steps as Tick;
        self.now.store(tick, Ordering::Relaxed);
        tick
    }

    /// What was used last in a step that is more than this many back has been idle for as long as it may be: the step itself
    /// may have been nearly over.
    pub(crate) fn idle(&self) -> Tick {
        self.idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_idle_for_too_long_before_its_time_or_much_after() {
        for idle in [1, 20, 1_000, 30_000, 1_800_000, 90_000_000].map(Duration::from_millis) {
            let clock = Clock::new(idle);
            for offset in [0.0, 0.3, 0.999] {
                let used = Instant::now() + clock.step().mul_f64(offset);
                let tick = clock.set(used);
                let is_over = |after: Duration| clock.set(used + after).wrapping_sub(tick) > clock.idle();
                assert!(!is_over(idle), "{idle:?}");
                assert!(is_over(idle + 3 * clock.step()), "{idle:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn for_ever_does_not_overflow() {
        let clock = Clock::new(Duration::MAX);
        let (first, second) = (clock.set(Instant::now()), clock.set(Instant::now() + Duration::from_secs(1 << 30)));
        assert!(second.wrapping_sub(first) < clock.idle());
    }
}
