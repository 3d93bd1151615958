//! The channel beside reqwest and under axum, as `docs/reqwest.md` and `docs/axum.md` say.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tower::ServiceExt;
use towline_http::{Channel, ChannelBody};

use crate::channel_http::{Server, server};

async fn upstream() -> Server {
    server(|_, request| async move {
        let (path, method) = (request.uri().path().to_owned(), request.method().clone());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        http::Response::new(format!("{method} {path} {}", std::str::from_utf8(&body).unwrap()))
    })
    .await
}

/// Requests made by reqwest, sent by the channel, answers read by reqwest.
async fn send(
    channel: &Channel<reqwest::Body>,
    request: reqwest::Request,
) -> Result<reqwest::Response, towline::Error> {
    let request = http::Request::try_from(request).map_err(towline::Error::wrap)?;
    let response: http::Response<ChannelBody> = channel.clone().oneshot(request).await?;
    Ok(response.map(reqwest::Body::wrap).into())
}

#[tokio::test]
async fn reqwest_makes_requests_that_the_channel_sends() {
    let (a, b) = (upstream().await, upstream().await);
    let channel = Channel::http().endpoints([a.uri(), b.uri()]).build().unwrap();
    let maker = reqwest::Client::new();
    for call in 0..10 {
        let request = maker.post("http://service.example/items").body(format!("item {call}")).build().unwrap();
        let response = send(&channel, request).await.unwrap().error_for_status().unwrap();
        assert_eq!(response.text().await.unwrap(), format!("POST /items item {call}"));
    }
    assert_eq!(a.asked() + b.asked(), 10);
}

/// A gateway: whatever comes in goes to one of the upstreams.
async fn forward(State(channel): State<Channel<Body>>, mut request: Request) -> Response {
    // What the caller called us is no business of the upstream; the channel says what that is called.
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = path.into();
    request.headers_mut().remove(HOST);
    match channel.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(error) if error.is_timeout() => (StatusCode::GATEWAY_TIMEOUT, error.to_string()).into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

#[tokio::test]
async fn axum_forwards_over_the_channel() {
    let upstream = upstream().await;
    let channel = Channel::http().endpoints([upstream.uri()]).build().unwrap();
    let gateway = Router::new().fallback(forward).with_state(channel);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, gateway).await });
    let client = reqwest::Client::new();
    let said = client.put(format!("http://{address}/a/b")).body("body").send().await.unwrap().text().await.unwrap();
    assert_eq!(said, "PUT /a/b body");

    let nowhere = Channel::http().endpoints(["http://127.0.0.1:1"]).build().unwrap();
    let response = Router::new().fallback(forward).with_state(nowhere);
    let response = response.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
}
