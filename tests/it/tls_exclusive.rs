//! What a TLS stream keeps to itself.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tower::{Layer, Service, ServiceExt, service_fn};
use towline::codec::ProstCodec;
use towline::tls::{TlsConfig, TlsLayer};
use towline::transport::{Exclusive, serve_connection};
use towline::{Error, Kind, Sent, Target};
use towline_proto::{Request, Response};
use towline_testbed::Authority;

use super::request;

/// A stream that accepts so many more bytes, then stalls.
struct Gated(DuplexStream, Gate);

#[derive(Clone)]
struct Gate(Arc<Mutex<(usize, Option<Waker>)>>);

impl Gate {
    fn open_for(&self, bytes: usize) {
        let waker = {
            let mut gate = self.0.lock().unwrap();
            gate.0 = bytes;
            gate.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl AsyncRead for Gated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Gated(stream, Gate(gate)) = &mut *self;
        let mut gate = gate.lock().unwrap();
        if gate.0 == 0 {
            gate.1 = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let written = std::task::ready!(Pin::new(stream).poll_write(cx, &bytes[..bytes.len().min(gate.0)]))?;
        gate.0 -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

// F1: a TLS stream that says `Pending` has encrypted the record, and sends it before whatever is written next.
#[tokio::test]
async fn over_tls_a_dropped_call_leaves_nothing_behind_for_the_next() {
    for accepted in [0, 7] {
        let authority = Authority::new("tests");
        let certified = authority.certify(&["db.example"]);
        let gate = Gate(Arc::new(Mutex::new((usize::MAX, None))));
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let server = certified.acceptor().unwrap();
        tokio::spawn(async move {
            let stream = server.accept(theirs).await.unwrap();
            let echo = service_fn(|request: Request| async {
                Ok::<_, Error>(Response { id: request.id, payload: request.payload })
            });
            let _ = serve_connection(stream, ProstCodec::<Response, Request>::default(), echo, 4).await;
        });
        let (gated, ours) = (gate.clone(), Mutex::new(Some(ours)));
        let dial = service_fn(move |_: Target| {
            let io = Gated(ours.lock().unwrap().take().unwrap(), gated.clone());
            async move { Ok::<_, io::Error>(io) }
        });
        let tls = TlsLayer::new(TlsConfig::builder().root_pem(authority.pem()).build().unwrap()).layer(dial);
        let stream = tls.oneshot("db.example:1".parse::<Target>().unwrap()).await.unwrap();
        let mut connection = Exclusive::new(stream, ProstCodec::<Request, Response>::default());
        assert_eq!(connection.call(request("warm-up")).await.unwrap().id, "warm-up");

        gate.open_for(accepted);
        {
            let mut dropped = std::pin::pin!(connection.call(request("dropped")));
            assert!(futures_util::poll!(dropped.as_mut()).is_pending());
        }
        gate.open_for(usize::MAX);
        let rejected = connection.call(request("next")).await.unwrap_err();
        assert_eq!((rejected.error.kind(), rejected.error.sent()), (Kind::Closed, Sent::Never));
        assert_eq!(rejected.request.unwrap().id, "next");
    }
}
