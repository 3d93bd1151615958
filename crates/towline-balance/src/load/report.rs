//! What servers say about themselves, in one word per endpoint.

use std::time::Duration;

use towline_core::{LoadReport, Reported};

use super::{Nanos, nanos};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A report, packed: 16 bits of requests in flight, 16 of latency (see [`pack_latency`]), 8 of this client's own calls at
/// the time, 24 of ticks. 0 when there is none.
#[derive(Debug, Default)]
pub(crate) struct Report(AtomicU64);

/// 2^20 ns, about a millisecond; 24 bits of them are nearly five hours. The sweep clears what is older than
/// [`MAX_AGE`] long before.
const TICK: u32 = 20;
const TICKS: u64 = (1 << 24) - 1;
/// Another thread's report may be newer than our `now`, by four seconds at most.
const AHEAD: u64 = TICKS - (1 << 12);

/// An older report says nothing about the present.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(5);

impl Report {
    pub(crate) fn store(&self, now: Nanos, report: LoadReport, own: u32) {
        let in_flight = u64::from(report.in_flight.min(0xffff));
        let latency = u64::from(pack_latency(nanos(report.latency)));
        let own = u64::from(own.min(0xff));
        // The lowest bit of the ticks is always set, so that no report is 0.
        let ticks = ((now >> TICK) & TICKS) | 1;
        self.0.store(in_flight << 48 | latency << 32 | own << 24 | ticks, Ordering::Relaxed);
    }

    /// The report with what this client has begun and ended since; `None` when there is none that is fresh.
    pub(crate) fn read(&self, now: Nanos, own: u32) -> Option<Reported> {
        let word = self.0.load(Ordering::Relaxed);
        if word == 0 {
            return None;
        }
        let age = ((now >> TICK) | 1).wrapping_sub(word) & TICKS;
        let age = if age > AHEAD { 0 } else { age << TICK };
        let then = (word >> 24) as u32 & 0xff;
        let in_flight = ((word >> 48) as u32 + own.min(0xff)).saturating_sub(then);
        let latency = Duration::from_nanos(unpack_latency((word >> 32) as u16));
        (age <= nanos(MAX_AGE)).then_some(Reported { in_flight, latency, age: Duration::from_nanos(age) })
    }

    /// Forgets a report that is too old.
    pub(crate) fn sweep(&self, now: Nanos) {
        let word = self.0.load(Ordering::Relaxed);
        if word != 0 && self.read(now, 0).is_none() {
            // A report that comes in between stays.
            let _newer = self.0.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Six bits of exponent and ten of mantissa, with a hidden bit: all of `u64` to one part in a thousand.
fn pack_latency(nanos: u64) -> u16 {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(11);
    if nanos < 1 << 10 { nanos as u16 } else { ((shift + 1) << 10) as u16 | (nanos >> shift) as u16 & 0x3ff }
}

fn unpack_latency(packed: u16) -> u64 {
    let mantissa = u64::from(packed & 0x3ff);
    match packed >> 10 {
        0 => mantissa,
        exponent => (mantissa | 1 << 10) << (exponent - 1),
    }
}

/// The endpoints that reported last, by index: a ring that any thread writes and any reads.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Index plus 1, 0 when empty.
    ring: [AtomicU32; Recent::LEN],
    next: AtomicU32,
}

impl Recent {
    pub(crate) const LEN: usize = 16;

    pub(crate) fn push(&self, index: usize) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) as usize % Self::LEN;
        let index = u32::try_from(index).ok().and_then(|index| index.checked_add(1)).unwrap_or(0);
        self.ring[at].store(index, Ordering::Relaxed);
    }

    /// The `n`th from the last.
    pub(crate) fn get(&self, n: usize) -> Option<usize> {
        if n >= Self::LEN {
            return None;
        }
        let at = (self.next.load(Ordering::Relaxed) as usize).wrapping_sub(n + 1) % Self::LEN;
        self.ring[at].load(Ordering::Relaxed).checked_sub(1).map(|index| index as usize)
    }

    /// After a change of the set indices mean others.
    pub(crate) fn clear(&self) {
        self.ring.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn report(in_flight: u32, millis: u64) -> LoadReport {
        LoadReport { in_flight, latency: Duration::from_millis(millis) }
    }

    #[test]
    fn latencies_survive_packing_to_one_part_in_a_thousand() {
        for shift in 0..64 {
            for nanos in [1u64 << shift, (1u64 << shift) + (1u64 << shift) / 3, u64::MAX >> shift] {
                let back = unpack_latency(pack_latency(nanos));
                assert!(back <= nanos && nanos - back <= nanos / 1_000, "{nanos} {back}");
            }
        }
        assert_eq!(unpack_latency(pack_latency(0)), 0);
    }

    #[test]
    fn a_report_is_brought_up_to_date_by_what_this_client_has_done_since() {
        let word = Report::default();
        assert_eq!(word.read(0, 0), None);
        word.store(10 * MS, report(7, 20), 2);
        let read = word.read(13 * MS, 5).unwrap();
        assert_eq!(read.in_flight, 10);
        assert!(read.latency.abs_diff(Duration::from_millis(20)) < Duration::from_micros(20));
        assert!(read.age >= Duration::from_millis(2) && read.age <= Duration::from_millis(5));
        assert_eq!(word.read(13 * MS, 0).unwrap().in_flight, 5);
        assert_eq!(word.read(0, 2).unwrap().age, Duration::ZERO, "a clock read before the report came");
    }

    #[test]
    fn an_old_report_says_nothing_and_the_sweep_clears_it() {
        let word = Report::default();
        word.store(0, report(7, 20), 0);
        word.sweep(4_000 * MS);
        assert!(word.read(4_000 * MS, 0).is_some());
        assert!([6_000, 60_000, 3 * 3_600_000].iter().all(|later| word.read(later * MS, 0).is_none()));
        word.sweep(6_000 * MS);
        assert_eq!(word.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_last_to_report_comes_first_and_sixteen_are_remembered() {
        let recent = Recent::default();
        assert_eq!(recent.get(0), None);
        (0..20).for_each(|index| recent.push(index));
        let all: Vec<_> = (0..20).map_while(|n| recent.get(n)).collect();
        assert_eq!(all, (4..20).rev().collect::<Vec<_>>());
        recent.clear();
        assert_eq!(recent.get(0), None);
    }
}
