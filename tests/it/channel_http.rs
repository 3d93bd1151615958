//! The channel under hyper's users: both versions, TLS that chooses, Unix sockets, retries with bodies, sessions, tower-http around it.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, SET_COOKIE};
use http::{Method, Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::decompression::DecompressionLayer;
use tower_http::set_header::SetRequestHeaderLayer;
use tower_http::trace::TraceLayer;
use towline::balance::{AtBodyEnd, BalanceBuilder, P2c, fixed};
use towline::connect::TcpConnector;
use towline::core::{CallContext, Endpoint, Report, SessionKey, TokioExecutor as Tasks};
use towline::pool::PoolBuilder;
use towline::retry::{RetryLayer, RetryPolicy};
use towline::sticky::Tokens;
use towline::timeout::DeadlineLayer;
use towline::tls::TlsConfig;
use towline_http::{ByStatus, Channel, ChannelBuilder, Http1Layer, InExtensions, SessionToken};
use towline_testbed::Authority;

type Body = Full<Bytes>;
type AnyBody = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Arc<dyn Fn(usize, Request<Incoming>) -> BoxFuture<'static, Response<AnyBody>> + Send + Sync>;

/// A server that counts what it is asked.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Both versions of HTTP on one stream.
async fn speak(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, asked: Arc<AtomicUsize>, answer: Answer) {
    let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
        let answering = answer(asked.fetch_add(1, Ordering::Relaxed), request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    let _ended = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), answer).await;
}

fn answer_by<F, B>(answer: impl Fn(usize, Request<Incoming>) -> F + Send + Sync + 'static) -> Answer
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    Arc::new(move |number, request| {
        let answering = answer(number, request);
        Box::pin(async move { answering.await.map(BodyExt::boxed_unsync) })
    })
}

/// A server in the clear, which gives every request, by its number, this answer.
pub(crate) async fn server<F, B>(answer: impl Fn(usize, Request<Incoming>) -> F + Send + Sync + 'static) -> Server
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server { address: listener.local_addr().unwrap(), asked: Arc::default() };
    let (asked, answer) = (server.asked.clone(), answer_by(answer));
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(speak(io, asked.clone(), answer.clone()));
        }
    });
    server
}

/// One that says what it was asked.
async fn echo() -> Server {
    server(|_, request| async move {
        let host = request.headers().get(HOST).map(|host| host.to_str().unwrap().to_owned());
        let asked = format!(
            "{:?} {} host {host:?} authority {:?} ",
            request.version(),
            request.uri().path(),
            request.uri().authority()
        );
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(asked + std::str::from_utf8(&body).unwrap())
    })
    .await
}

fn status(status: u16) -> Response<String> {
    Response::builder().status(status).body(String::new()).unwrap()
}

fn over<'a>(servers: impl IntoIterator<Item = &'a Server>) -> ChannelBuilder<Body> {
    Channel::http().endpoints(servers.into_iter().map(Server::uri))
}

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::default()).unwrap()
}

async fn text(channel: &Channel<Body>, request: Request<Body>) -> String {
    let response = channel.clone().oneshot(request).await.unwrap();
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn requests_say_whom_they_are_for_or_the_origin_does_or_the_endpoint() {
    let server = echo().await;
    let address = server.address;
    for (http2, origin, uri, name) in [
        (false, None, "/a", address.to_string()),
        (true, None, "/a", address.to_string()),
        (false, Some("api.example"), "/a", "api.example".into()),
        (true, Some("https://api.example:8443/"), "/a", "api.example:8443".into()),
        (false, Some("api.example"), "http://other.example/a", "other.example".into()),
        (true, Some("api.example"), "http://other.example/a", "other.example".into()),
        (false, None, "http://me:secret@other.example/a", "other.example".into()),
        (true, None, "http://me:secret@other.example/a", "other.example".into()),
    ] {
        let mut builder = over([&server]);
        builder = if http2 { builder.http2_only() } else { builder };
        builder = origin.iter().fold(builder, |builder, origin| builder.origin(origin));
        let channel = builder.build().unwrap();
        let said = text(&channel, get(uri)).await;
        // As gateways have it: a path, and a header.
        let mut with_host = get("/a");
        with_host.headers_mut().insert(HOST, name.parse().unwrap());
        assert_eq!(text(&channel, with_host).await, said);
        let expected = match http2 {
            false => format!("HTTP/1.1 /a host Some({name:?}) authority None "),
            true => format!("HTTP/2.0 /a host None authority Some({name}) "),
        };
        assert_eq!(said, expected);
    }
}

#[tokio::test]
async fn over_tls_the_version_is_what_both_sides_agree_on() {
    let authority = Authority::new("channel");
    for (offered, expected) in [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")] {
        let acceptor = authority.certify(&["localhost"]).acceptor_with_alpn(offered).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = answer_by(|_, request| async move {
            Response::new(format!("{:?} {:?}", request.version(), request.uri().scheme_str()))
        });
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    if let Ok(io) = acceptor.accept(io).await {
                        speak(io, Arc::default(), answer).await;
                    }
                });
            }
        });
        let tls = TlsConfig::builder().root_pem(authority.pem()).alpn(["h2", "http/1.1"]).build().unwrap();
        let channel = Channel::http().endpoints([format!("https://localhost:{port}")]).tls(tls).build().unwrap();
        assert!(text(&channel, get("/")).await.starts_with(expected));
        assert!(text(&channel, get("https://localhost/")).await.starts_with(expected));
    }
}

#[tokio::test]
async fn headers_of_one_connection_go_no_further_and_end_none_of_ours() {
    let server = server(|_, request| async move {
        let names: Vec<_> = request.headers().keys().map(http::HeaderName::as_str).collect();
        Response::builder().header("keep-alive", "timeout=5").body(names.join(" ")).unwrap()
    });
    let server = server.await;
    let channel = over([&server]).build().unwrap();
    for _ in 0..3 {
        let request = Request::get("/").header("connection", "close, x-private").header("x-private", "1");
        let request = request.header("x-public", "2").body(Body::default()).unwrap();
        let response = channel.clone().oneshot(request).await.unwrap();
        assert!(response.headers().get("keep-alive").is_none());
        assert_eq!(text_of(response).await, "x-public host");
    }
    assert_eq!(channel.stats().opened, 1);
}

#[tokio::test]
async fn cookies_of_several_fields_are_one_field_in_http1() {
    let server = server(|_, request| async move {
        let cookies = request.headers().get_all(COOKIE).iter().map(|value| value.to_str().unwrap());
        Response::new(cookies.collect::<Vec<_>>().join(" | "))
    });
    let server = server.await;
    for (builder, expected) in [(over([&server]), "a=1; b=2"), (over([&server]).http2_only(), "a=1 | b=2")] {
        let request = Request::get("/").header(COOKIE, "a=1").header(COOKIE, "b=2").body(Body::default()).unwrap();
        assert_eq!(text(&builder.build().unwrap(), request).await, expected);
    }
}

#[tokio::test]
async fn unix_sockets_serve_both_versions() {
    let path = std::env::temp_dir().join(format!("towline-channel-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let answer = answer_by(|_, request| async move { Response::new(format!("{:?}", request.version())) });
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(speak(io, Arc::default(), answer.clone()));
        }
    });
    let over = || Channel::http().endpoints([format!("unix:{}", path.display())]).plaintext();
    assert_eq!(text(&over().build().unwrap(), get("/")).await, "HTTP/1.1");
    assert_eq!(text(&over().http2_only().build().unwrap(), get("/")).await, "HTTP/2.0");
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn idempotent_methods_go_again_elsewhere_and_others_do_not() {
    for http2 in [false, true] {
        let fails = server(|_, _| async { status(503) }).await;
        let serves = server(|_, _| async { status(200) }).await;
        let retry = RetryPolicy::default().budget(towline::Budget::new(1.0, 1_000).unwrap());
        let builder = over([&fails, &serves]).retry(retry);
        let channel = if http2 { builder.http2_only() } else { builder }.build().unwrap();
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS] {
            for _ in 0..5 {
                let request = Request::builder().method(method.clone()).uri("/").body(Body::from("body")).unwrap();
                let response = channel.clone().oneshot(request).await.unwrap();
                assert_eq!(response.status(), 200, "{method}");
            }
        }
        assert!(channel.retries().retries > 0 && fails.asked() > 0);
        let builder = over([&fails]);
        let channel = if http2 { builder.http2_only() } else { builder }.build().unwrap();
        let before = fails.asked();
        let request = Request::post("/").body(Body::from("body")).unwrap();
        assert_eq!(channel.oneshot(request).await.unwrap().status(), 503);
        assert_eq!(fails.asked(), before + 1);
    }
}

#[tokio::test]
async fn retry_after_is_waited_for_and_a_long_one_is_handed_out() {
    let busy = |seconds: &'static str| {
        server(move |number, _| async move {
            match number {
                0 => Response::builder().status(503).header("retry-after", seconds).body(String::new()).unwrap(),
                _ => status(200),
            }
        })
    };
    let server = busy("1").await;
    let began = Instant::now();
    let response = over([&server]).build().unwrap().oneshot(get("/")).await.unwrap();
    assert_eq!((response.status().as_u16(), server.asked()), (200, 2));
    assert!(began.elapsed() >= Duration::from_secs(1));

    let server = busy("3600").await;
    let response = over([&server]).build().unwrap().oneshot(get("/")).await.unwrap();
    assert_eq!((response.status().as_u16(), server.asked()), (503, 1));
}

#[tokio::test]
async fn a_body_is_kept_for_another_attempt_up_to_the_limit_and_beyond_it_the_call_says_so() {
    let server = server(|number, request| async move {
        let length = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
        let code = if number == 0 { 503 } else { 200 };
        Response::builder().status(code).body(length.to_string()).unwrap()
    });
    let server = server.await;
    for (length, expected) in [(1_000, 200), (1_001, 503)] {
        server.asked.store(0, Ordering::Relaxed);
        let frames = (0..length).step_by(100).map(|at| vec![b'x'; (length - at).min(100)]);
        let frames: Vec<_> = frames.map(|data| Ok::<_, Infallible>(Frame::data(Bytes::from(data)))).collect();
        let body = StreamBody::new(stream::iter(frames));
        let channel = Channel::http().endpoints([server.uri()]).replay_limit(1_000).build().unwrap();
        let response = channel.clone().oneshot(Request::put("/").body(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), expected, "{length}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), length.to_string());
        assert_eq!(channel.retries().not_replayable, u64::from(expected == 503));
    }
}

#[tokio::test]
async fn nothing_goes_again_once_the_response_was_handed_out() {
    // Two bytes of three, then the connection ends.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut io, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let _read = io.read(&mut [0; 1_024]).await;
            let _written = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab").await;
        }
    });
    let channel = Channel::http().endpoints([format!("http://{address}")]).build().unwrap();
    let response = channel.clone().oneshot(get("/")).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert_eq!(error.kind(), towline::Kind::UnexpectedEof);
    assert_eq!((channel.retries().retries, accepted.load(Ordering::Relaxed)), (0, 1));
    let endpoint = channel.endpoints().remove(0);
    assert_eq!((endpoint.in_flight, endpoint.pool.live), (0, 0));
}

#[tokio::test]
async fn sessions_stay_by_header_by_cookie_and_by_the_context() {
    let (a, b, c) = (echo().await, echo().await, echo().await);
    let by_header = over([&a, &b, &c]).sticky_by_header("x-user").build().unwrap();
    let by_cookie = over([&a, &b, &c]).sticky_by_cookie("sid").build().unwrap();
    let by_context = over([&a, &b, &c]).build().unwrap();
    let mut homes = HashSet::new();
    for user in 0..20 {
        let mut served = HashSet::new();
        for _ in 0..3 {
            for way in 0..3 {
                let report = Arc::new(Report::default());
                let mut context = CallContext::default();
                context.set_report(report.clone());
                let mut request = get("/");
                let channel = match way {
                    0 => {
                        request.headers_mut().insert("x-user", user.into());
                        &by_header
                    }
                    1 => {
                        request.headers_mut().insert(COOKIE, format!("a=b; sid={user}").parse().unwrap());
                        &by_cookie
                    }
                    _ => {
                        context.set_session(Some(SessionKey::new(user.to_string())));
                        &by_context
                    }
                };
                request.extensions_mut().insert(context);
                text(channel, request).await;
                served.insert(report.endpoint().unwrap().as_str().to_owned());
            }
        }
        assert_eq!(served.len(), 1, "three ways to say the same: {served:?}");
        homes.extend(served);
    }
    assert!(homes.len() > 1);
    assert_eq!(by_header.sessions().followed, 60);
}

#[tokio::test]
async fn signed_cookies_bring_a_session_back_to_where_it_was() {
    let (a, b, c) = (echo().await, echo().await, echo().await);
    let tokens = Tokens::new(1, b"thirty-two bytes from /dev/urandom").unwrap();
    let place = SessionToken::cookie("backend").unwrap();
    let channel = over([&a, &b, &c]).session_tokens(tokens, place).build().unwrap();
    for _ in 0..10 {
        let first = channel.clone().oneshot(get("/")).await.unwrap();
        let cookie = first.headers()[SET_COOKIE].to_str().unwrap().to_owned();
        assert!(cookie.ends_with("; Path=/; HttpOnly; Secure; SameSite=Lax"), "{cookie}");
        let cookie = cookie.split_once(';').unwrap().0.to_owned();
        let home = text_of(first).await;
        for _ in 0..5 {
            let request = Request::get("/").header(COOKIE, &cookie).body(Body::default()).unwrap();
            let response = channel.clone().oneshot(request).await.unwrap();
            assert!(response.headers().get(SET_COOKIE).is_none(), "the token is still good");
            assert_eq!(text_of(response).await, home);
        }
        let forged = Request::get("/").header(COOKIE, cookie.to_uppercase()).body(Body::default()).unwrap();
        assert!(channel.clone().oneshot(forged).await.unwrap().headers().contains_key(SET_COOKIE));
    }
}

async fn text_of(response: Response<towline_http::ChannelBody>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn calls_and_bodies_that_are_dropped_at_any_time_leave_nothing_behind() {
    for http2 in [false, true] {
        let server = server(|number, _| async move {
            tokio::time::sleep(Duration::from_micros(number as u64 % 7 * 300)).await;
            let frames = (0..20).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![7; 1_000]))));
            Response::new(StreamBody::new(stream::iter(frames)))
        });
        let server = server.await;
        let builder = over([&server]);
        let channel = if http2 { builder.http2_only() } else { builder }.build().unwrap();
        for micros in (0..4_000).step_by(10) {
            let call = async {
                let mut body = channel.clone().oneshot(get("/")).await.unwrap().into_body();
                while let Some(frame) = body.frame().await {
                    frame.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let _elapsed = tokio::time::timeout(Duration::from_micros(micros), call).await;
        }
        let response = channel.clone().oneshot(get("/")).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 20_000);
        assert_eq!(channel.endpoints()[0].in_flight, 0);
        crate::channel::until("free", || channel.stats().in_use == 0 && channel.stats().waiting == 0).await;
    }
}

#[tokio::test]
async fn layers_of_tower_http_go_around_the_channel() {
    let server =
        server(
            |_, request| async move { Response::new(request.headers()[AUTHORIZATION].to_str().unwrap().to_owned()) },
        );
    let server = server.await;
    let channel = over([&server]).build().unwrap();
    let client = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(SetRequestHeaderLayer::if_not_present(AUTHORIZATION, http::HeaderValue::from_static("Bearer x")))
        .layer(DecompressionLayer::new())
        .service(channel);
    let response = client.oneshot(get("/")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "Bearer x");
}

#[tokio::test]
async fn layers_of_tower_http_go_within_the_stack_that_is_put_together_by_hand() {
    let fails = server(|_, _| async { status(503) }).await;
    let serves =
        server(|_, request| async move { Response::new(request.headers()["x-attempt"].to_str().unwrap().to_owned()) });
    let serves = serves.await;
    let make = ServiceBuilder::new().layer(Http1Layer::<Body>::new()).service(TcpConnector::new());
    let pool = PoolBuilder::new().build(make).unwrap();
    let endpoints = [&fails, &serves].map(|server| Endpoint::from(server.address));
    let balance = BalanceBuilder::new(P2c::new()).with_access(InExtensions).track(AtBodyEnd::new(ByStatus));
    let balance = balance.spawn(fixed(endpoints), pool, &Tasks::current()).unwrap();
    let retry = RetryPolicy::idempotent().budget(towline::Budget::new(1.0, 1_000).unwrap()).classify(ByStatus);
    let mut client = ServiceBuilder::new()
        .layer(DeadlineLayer::new(Duration::from_secs(5)).with_access(InExtensions))
        .layer(RetryLayer::with_policy(retry).with_access(InExtensions))
        // Every attempt passes it.
        .layer(SetRequestHeaderLayer::overriding(
            http::HeaderName::from_static("x-attempt"),
            |request: &Request<Body>| request.extensions().get::<CallContext>().map(|context| context.attempt().into()),
        ))
        .service(balance);
    let mut attempts = HashSet::new();
    for _ in 0..20 {
        let request = Request::get("/").header(HOST, "test").header(CONTENT_TYPE, "text/plain").body(Body::default());
        let response = client.ready().await.unwrap().call(request.unwrap()).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_11));
        attempts.insert(response.into_body().collect().await.unwrap().to_bytes());
    }
    assert!(attempts.contains(&b"1"[..]), "{attempts:?}");
}
