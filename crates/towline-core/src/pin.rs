//! Calls that have to use one and the same connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ConnectionId;

/// Pins the calls of a session to one connection: for what a server keeps per connection, such as a login, a
/// subscription or a temporary table.
///
/// The first call that carries it may use any connection, and binds it to that one; each later call uses the same, waits
/// for it if it is busy, and fails with [`Kind::PinLost`](crate::Kind::PinLost) once it is gone, whether closed by the
/// peer, idle for too long or old: never does it silently go to another. A new session begins with a new pin.
///
/// It names a connection, not an endpoint: where there are several, give the session's calls a session key as well, so that
/// all of them go to the endpoint that has it. A balancer hands the pin to the pool, as does [`Lend::lend`](crate::Lend::lend); a pool's handle that is called as a plain
/// `Service` knows no contexts. Pinning excludes nobody else from the connection; for that, hold a checkout. Clones share what they are bound to.
///
/// ```
/// use towline_core::{Call, ConnectionPin};
///
/// let session = ConnectionPin::new();
/// let call = Call::new("log in").with_pin(&session);
/// // … and after it, on the same connection:
/// let call = Call::new("who am I?").with_pin(&session);
/// # drop(call);
/// ```
#[derive(Clone, Debug, Default)]
pub struct ConnectionPin(Arc<AtomicU64>);

impl ConnectionPin {
    /// A pin that the first call binds.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pin to this connection, as a [report](crate::Report) or a checkout names it.
    pub fn to(connection: ConnectionId) -> Self {
        Self(Arc::new(AtomicU64::new(connection.number())))
    }

    /// What it is bound to.
    pub fn connection(&self) -> Option<ConnectionId> {
        ConnectionId::from_number(self.0.load(Ordering::Acquire))
    }

    /// For pools: binds it to `connection`, unless it is bound. Whether it is bound to that one now.
    pub fn bind(&self, connection: ConnectionId) -> bool {
        let number = connection.number();
        match self.0.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(bound) => bound == number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_bound_once_and_by_whoever_comes_first() {
        let (pin, [a, b]) = (ConnectionPin::new(), [ConnectionId::fresh(), ConnectionId::fresh()]);
        assert_eq!(pin.connection(), None);
        assert!(pin.clone().bind(a));
        assert!(pin.bind(a) && !pin.bind(b));
        assert_eq!(pin.connection(), Some(a));
        assert_eq!(ConnectionPin::to(b).connection(), Some(b));
    }
}
