//! Who served this call?

use std::fmt;
use std::sync::Arc;

use crate::sync::Lock;
use crate::{ConnectionId, EndpointKey, TlsPeer};

/// What a caller who asked can read after the call: `call` consumes the request, so the answer comes back here.
///
/// Filled in as the call proceeds, so it also tells how far a failed or cancelled call came. When a call is
/// retried, the last attempt overwrites the ones before.
///
/// ```
/// use towline_core::{Call, EndpointKey};
///
/// let call = Call::new("ping").with_report();
/// let report = call.context().report().cloned().unwrap();
/// // … send `call`, await the answer …
/// # report.picked(&EndpointKey::new("10.0.0.7:7000"));
/// assert_eq!(report.endpoint().unwrap().as_str(), "10.0.0.7:7000");
/// ```
#[derive(Default)]
pub struct Report(Lock<Served>);

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.lock().fmt(f)
    }
}

#[derive(Debug, Default)]
struct Served {
    attempts: u32,
    endpoint: Option<EndpointKey>,
    connection: Option<(ConnectionId, bool)>,
    peer: Option<Arc<TlsPeer>>,
}

impl Report {
    /// How many attempts reached an endpoint.
    pub fn attempts(&self) -> u32 {
        self.0.lock().attempts
    }

    /// The endpoint of the last attempt.
    pub fn endpoint(&self) -> Option<EndpointKey> {
        self.0.lock().endpoint.clone()
    }

    /// The connection of the last attempt.
    pub fn connection(&self) -> Option<ConnectionId> {
        self.0.lock().connection.map(|(id, _)| id)
    }

    /// Whether that connection had been used before.
    pub fn reused(&self) -> Option<bool> {
        self.0.lock().connection.map(|(_, reused)| reused)
    }

    /// Who was at the other end of that connection, if it is encrypted.
    pub fn peer(&self) -> Option<Arc<TlsPeer>> {
        self.0.lock().peer.clone()
    }

    /// For balancers: an attempt goes to `endpoint`, which has lent it a connection and said so, if it is a pool's.
    pub fn picked(&self, endpoint: &EndpointKey) {
        let mut served = self.0.lock();
        served.attempts += 1;
        served.endpoint = Some(endpoint.clone());
    }

    /// For pools: the attempt got this connection, whose peer is this one, if it is encrypted.
    pub fn connected(&self, connection: ConnectionId, reused: bool, peer: Option<Arc<TlsPeer>>) {
        let mut served = self.0.lock();
        served.connection = Some((connection, reused));
        served.peer = peer;
    }
}
