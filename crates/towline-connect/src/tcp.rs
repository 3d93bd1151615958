//! Resolving and dialling.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tower_service::Service;
use towline_core::{Address, Error, Kind, Phase, Target, progress};

use crate::Socket;
use crate::race::{interleave, race};

/// Socket options. The defaults notice a vanished peer well before a load balancer's usual 60 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpConfig {
    /// Send small writes at once (`TCP_NODELAY`). Default: true.
    pub nodelay: bool,
    /// Probe a silent connection after this long, and as often again; from 1 s to 32,767 s. Default: 30 s; `None` turns
    /// it off.
    pub keepalive: Option<Duration>,
    /// Give up on written data that stays unacknowledged for this long (`TCP_USER_TIMEOUT`, Linux only).
    /// Default: 20 s.
    pub user_timeout: Option<Duration>,
    /// How long one address may be silent before the next gets its turn. Default: 250 ms (RFC 8305).
    pub attempt_delay: Duration,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(Duration::from_secs(30)),
            user_timeout: Some(Duration::from_secs(20)),
            attempt_delay: Duration::from_millis(250),
        }
    }
}

impl TcpConfig {
    fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(self.nodelay)?;
        let socket = SockRef::from(stream);
        if let Some(every) = self.keepalive {
            // What systems take: whole seconds, 15 bits of them.
            let every = every.clamp(Duration::from_secs(1), Duration::from_secs(32_767));
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(every).with_interval(every))?;
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(self.user_timeout)?;
        Ok(())
    }
}

/// Dials a [`Target`], or anything that becomes one: a `SocketAddr` for instance.
///
/// Always ready. Dropping the future closes whatever it had opened.
///
/// # Errors
///
/// [`Kind::Unavailable`], in [`Phase::Resolve`] or [`Phase::Dial`], with the system's error as source.
#[derive(Clone, Debug, Default)]
pub struct TcpConnector {
    config: TcpConfig,
}

impl TcpConnector {
    /// A connector with the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// A connector with these options.
    pub fn with_config(config: TcpConfig) -> Self {
        Self { config }
    }
}

/// A dial in progress; boxed, since a dial costs a thousand times more than a box.
pub type ConnectFuture = Pin<Box<dyn Future<Output = Result<Socket, Error>> + Send>>;

impl<T: Into<Target>> Service<T> for TcpConnector {
    type Response = Socket;
    type Error = Error;
    type Future = ConnectFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> ConnectFuture {
        let (target, config) = (target.into(), self.config);
        Box::pin(async move { dial(target, config).await })
    }
}

async fn dial(target: Target, config: TcpConfig) -> Result<Socket, Error> {
    let failed = |phase, message: String| Error::new(Kind::Unavailable, phase).with_message(message);
    let addresses = match target.address() {
        Address::Ip(addr) => [*addr].into(),
        Address::Name { host, port } => {
            progress::enter(Phase::Resolve);
            let found = lookup_host((&**host, *port)).await;
            interleave(
                found.map_err(|error| failed(Phase::Resolve, format!("cannot resolve {host}")).with_source(error))?,
            )
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            progress::enter(Phase::Dial);
            let connected = tokio::net::UnixStream::connect(path).await;
            return connected
                .map(Socket::Unix)
                .map_err(|error| failed(Phase::Dial, format!("cannot reach {target}")).with_source(error));
        }
        _ => return Err(failed(Phase::Dial, format!("{target} cannot be dialled on this system"))),
    };
    progress::enter(Phase::Dial);
    let connect = |addr: SocketAddr| async move {
        let stream = TcpStream::connect(addr).await?;
        config.apply(&stream)?;
        Ok::<_, io::Error>(stream)
    };
    match race(addresses, config.attempt_delay, connect).await {
        Some(Ok(stream)) => Ok(Socket::Tcp(stream)),
        Some(Err((addr, error))) => Err(failed(Phase::Dial, format!("cannot reach {addr}")).with_source(error)),
        None => Err(failed(Phase::Resolve, format!("{target} has no address"))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_dialled_socket_has_nodelay_and_keepalive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpConnector::new().oneshot(listener.local_addr().unwrap()).await.unwrap();
        let Socket::Tcp(stream) = socket else { panic!("dialled {socket:?}") };
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(&stream).keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(Duration::from_secs(20)));
    }

    #[tokio::test]
    async fn a_keepalive_that_the_system_cannot_take_is_brought_within_its_range() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for keepalive in [Duration::from_millis(1), Duration::MAX] {
            let config = TcpConfig { keepalive: Some(keepalive), ..TcpConfig::default() };
            TcpConnector::with_config(config).oneshot(listener.local_addr().unwrap()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_refused_dial_says_where_and_keeps_the_cause() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let error = TcpConnector::new().oneshot(addr).await.unwrap_err();
        assert_eq!((error.kind(), error.phase()), (Kind::Unavailable, Phase::Dial));
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
        assert_eq!(error.find::<io::Error>().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_fails_in_that_phase() {
        let target: Target = "no-such-host.invalid:1".parse().unwrap();
        let error = TcpConnector::new().oneshot(target).await.unwrap_err();
        assert_eq!((error.kind(), error.phase()), (Kind::Unavailable, Phase::Resolve));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_unix_socket_is_dialled_by_path() {
        let path = std::env::temp_dir().join(format!("towline-{}.sock", std::process::id()));
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let target: Target = format!("unix:{}", path.display()).parse().unwrap();
        let socket = TcpConnector::new().oneshot(target.clone()).await.unwrap();
        assert!(matches!(socket, Socket::Unix(_)));
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        let error = TcpConnector::new().oneshot(target).await.unwrap_err();
        assert_eq!(error.phase(), Phase::Dial);
    }
}
