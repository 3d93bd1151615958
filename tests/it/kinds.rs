//! The same client over every kind of connection, over TLS.

use std::time::Duration;

use prost::bytes::Bytes;
use tower::ServiceExt;
use towline::tls::TlsConfig;
use towline::transport::{HEADER_ALPN, SharedConfig};
use towline::{Call, Client, Kind, Sent};
use towline_proto::{Request, Response};
use towline_testbed::ById;

use super::{Bed, EchoClient};

fn request(id: usize) -> Request {
    Request { id: id.to_string(), payload: Bytes::from(vec![id as u8; id % 5_000]) }
}

/// Two hundred calls at once.
async fn all_get_their_own_answers(client: &EchoClient) {
    let calls = (0..200).map(|id| async move {
        let Request { id, payload } = request(id);
        let answer = client.clone().oneshot(Request { id: id.clone(), payload: payload.clone() }).await.unwrap();
        assert_eq!(answer, Response { id, payload });
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test]
async fn every_kind_of_connection_gives_each_caller_its_own_answer() {
    let bed = Bed::new(2).await;
    let exclusive = bed.builder().build().unwrap();
    let multiplexed = bed.builder().multiplexed(ById).build().unwrap();
    let few = SharedConfig::default().in_flight(16).unwrap();
    let narrow = bed.builder().multiplexed(ById).connection(few).build().unwrap();
    for client in [exclusive, multiplexed, narrow] {
        all_get_their_own_answers(&client).await;
        client.close().await;
    }
}

#[tokio::test]
async fn a_server_that_agrees_by_alpn_gets_frame_headers_and_with_them_the_deadline() {
    let bed = Bed::new(1).await;
    let tls = TlsConfig::builder().root_pem(bed.authority.pem()).alpn([HEADER_ALPN]).build().unwrap();
    let client: EchoClient =
        Client::builder().tls(tls).header_by_alpn().endpoints([bed.backends[0].address().to_string()]).build().unwrap();
    // Requests whose ids are all the same: only the header can tell whose an answer is.
    let calls = (0..100).map(|i| {
        let client = &client;
        async move {
            let payload = Bytes::from(format!("{i}"));
            let answer = client.clone().oneshot(Request { id: String::new(), payload: payload.clone() }).await.unwrap();
            assert_eq!(answer.payload, payload);
        }
    });
    futures_util::future::join_all(calls).await;
    assert!(bed.backends[0].connected() <= 2, "{} connections for 100 calls", bed.backends[0].connected());

    // A handler is dropped when its caller's time is over, and its connection lives.
    bed.backends[0].faults().stall(true);
    let late = Call::new(request(1)).with_timeout(Duration::from_millis(50));
    let error = client.calls().oneshot(late).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Timeout, Sent::Maybe));
    bed.backends[0].faults().stall(false);
    client.clone().oneshot(request(2)).await.unwrap();
    assert!(bed.backends[0].connected() <= 2);
}

#[tokio::test]
async fn a_server_that_does_not_agree_gets_none() {
    let bed = Bed::new(1).await;
    let tls = TlsConfig::builder().root_pem(bed.authority.pem()).build().unwrap();
    let refused = Client::<Request, Response>::builder().tls(tls).header_by_alpn().endpoints(["127.0.0.1:1"]).build();
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("HEADER_ALPN"), "{error}");
}
