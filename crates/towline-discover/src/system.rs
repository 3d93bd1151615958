//! Names by the system's own resolver.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::task::{JoinHandle, spawn_blocking};
use towline_core::{Endpoint, Error, Kind, Phase, Sent};

use crate::resolving::sorted;
use crate::{Answer, Failure, Resolve};

/// A name and a port, resolved by the system (`getaddrinfo`): `/etc/hosts`, search domains and whatever else it is set to do.
///
/// It needs no library and tells no TTL, so it is asked by the clock; and it blocks a thread of tokio's for as long as the system
/// takes, though never more than one. `towline-discover-dns` does without both.
///
/// Endpoints are called by their addresses, and verified by the name.
///
/// ```
/// use futures_util::StreamExt;
/// use towline_discover::{Resolving, System};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut source = Resolving::new(System::new("localhost", 7000)).source()?;
/// let set = source.next().await.unwrap()?;
/// assert_eq!(set[0].target().tls_name(), Some("localhost"));
/// # Ok::<(), towline_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct System {
    host: Arc<str>,
    port: u16,
    /// What has been begun. It cannot be stopped, so that it is waited for before another begins.
    looking: Option<JoinHandle<std::io::Result<Vec<SocketAddr>>>>,
}

impl System {
    /// The addresses of `host`, each with this port.
    pub fn new(host: impl Into<Arc<str>>, port: u16) -> Self {
        Self { host: host.into(), port, looking: None }
    }
}

impl Resolve for System {
    async fn resolve(&mut self) -> Result<Answer, Failure> {
        let (host, port) = (self.host.clone(), self.port);
        let looking = self
            .looking
            .get_or_insert_with(|| spawn_blocking(move || (&*host, port).to_socket_addrs().map(Iterator::collect)));
        let found = looking.await;
        self.looking = None;
        let failed = || {
            let why = format!("the system cannot resolve {}", self.host);
            Error::new(Kind::Unavailable, Phase::Resolve).with_sent(Sent::Never).with_message(why)
        };
        let addresses =
            found.map_err(|cause| failed().with_source(cause))?.map_err(|cause| failed().with_source(cause))?;
        let endpoint = |address: SocketAddr| Endpoint::from(address).with_tls_name(self.host.clone());
        Ok(Answer::new(sorted(addresses.into_iter().map(endpoint).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_the_system_is_resolved_and_one_that_is_none_fails() {
        let answer = System::new("localhost", 7).resolve().await.unwrap();
        assert!(answer.endpoints.iter().all(|endpoint| endpoint.key().as_str().ends_with(":7")));
        assert!(!answer.endpoints.is_empty());
        let failure = System::new("no such name.invalid", 7).resolve().await.unwrap_err();
        assert_eq!(failure.error.kind(), Kind::Unavailable);
        assert!(failure.error.to_string().contains("no such name.invalid"), "{}", failure.error);
    }
}
