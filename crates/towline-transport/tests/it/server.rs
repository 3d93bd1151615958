//! The server half, against both kinds of connection.

use std::time::Duration;

use bytes::Bytes;
use tower::{Service, service_fn};
use towline_transport::{Exclusive, serve_connection};

use super::codec;

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_one_request_at_a_time_is_answered() {
    let (ours, theirs) = tokio::io::duplex(64);
    let echo = service_fn(|request: Bytes| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok::<_, std::io::Error>(request)
    });
    let server = tokio::spawn(serve_connection(theirs, codec(), echo, 4));
    let mut connection = Exclusive::new(ours, codec());
    for i in 0..20 {
        let body = Bytes::from(format!("{i}").repeat(20));
        assert_eq!(connection.call(body.clone()).await.unwrap(), body);
    }
    drop(connection);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_service_that_fails_ends_the_connection_with_its_error() {
    let (ours, theirs) = tokio::io::duplex(64);
    let fails = service_fn(|_: Bytes| async { Err::<Bytes, _>(std::io::Error::other("no")) });
    let server = tokio::spawn(serve_connection(theirs, codec(), fails, 4));
    let mut connection = Exclusive::new(ours, codec());
    connection.call("ping".into()).await.unwrap_err();
    let error = server.await.unwrap().unwrap_err();
    assert_eq!(error.find::<std::io::Error>().unwrap().to_string(), "no");
}
