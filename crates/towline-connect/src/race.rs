//! A staggered race over addresses (Happy Eyeballs, RFC 8305 section 5).
//!
//! The next address gets its turn when the one before has failed, or has been silent for the attempt delay. The
//! first to connect wins; the others are dropped, which closes them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;

/// The families in turn, beginning with the one that the resolver put first.
pub(crate) fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let addresses: Vec<_> = addresses.into_iter().collect();
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|addr| addr.is_ipv6() == first_is_v6);
    let mut ordered = VecDeque::with_capacity(ours.len() + others.len());
    while !ours.is_empty() || !others.is_empty() {
        ordered.extend(ours.pop_front());
        ordered.extend(others.pop_front());
    }
    ordered
}

/// Runs `attempt` over `addresses`; `None` when there are none, else the first success or the last failure.
pub(crate) async fn race<T, E, F>(
    mut addresses: VecDeque<SocketAddr>,
    delay: Duration,
    attempt: impl Fn(SocketAddr) -> F,
) -> Option<Result<T, (SocketAddr, E)>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut running = FuturesUnordered::new();
    let mut last = None;
    loop {
        if let Some(address) = addresses.pop_front() {
            let connecting = attempt(address);
            running.push(async move { connecting.await.map_err(|error| (address, error)) });
        }
        let ended = if addresses.is_empty() {
            running.next().await
        } else {
            let turn = std::pin::pin!(tokio::time::sleep(delay));
            match select(running.next(), turn).await {
                Either::Left((ended, _)) => ended,
                Either::Right(_) => continue,
            }
        };
        match ended {
            Some(Ok(connected)) => return Some(Ok(connected)),
            Some(Err(failed)) => last = Some(Err(failed)),
            None => return last,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    fn addresses(n: u16) -> VecDeque<SocketAddr> {
        (1..=n).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    // F11
    #[tokio::test(start_paused = true)]
    async fn a_silent_address_is_overtaken_after_the_attempt_delay() {
        let start = Instant::now();
        let won = race(addresses(2), Duration::from_millis(250), |addr| async move {
            if addr.port() == 1 {
                std::future::pending::<()>().await;
            }
            Ok::<_, ()>(addr.port())
        });
        assert_eq!(won.await, Some(Ok(2)));
        assert_eq!(start.elapsed(), Duration::from_millis(250));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_gives_the_next_address_its_turn_at_once() {
        let start = Instant::now();
        let won = race(addresses(3), Duration::from_millis(250), |addr| async move {
            sleep(Duration::from_millis(1)).await;
            if addr.port() < 3 { Err("refused") } else { Ok(addr.port()) }
        });
        assert_eq!(won.await, Some(Ok(3)));
        assert_eq!(start.elapsed(), Duration::from_millis(3));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_last_failure_is_told() {
        let lost = race(addresses(2), Duration::from_millis(250), |addr| async move { Err::<(), _>(addr.port()) });
        assert_eq!(lost.await, Some(Err((addresses(2)[1], 2))));
        let none = race(addresses(0), Duration::ZERO, |_| async { Ok::<(), ()>(()) });
        assert_eq!(none.await, None);
    }

    #[test]
    fn families_take_turns() {
        let [a, b, c, d] = ["1.1.1.1:1", "2.2.2.2:1", "[::1]:1", "[::2]:1"].map(|text| text.parse().unwrap());
        assert_eq!(interleave([a, b, c, d]), [a, c, b, d]);
        assert_eq!(interleave([c, a, b]), [c, a, b]);
    }
}
