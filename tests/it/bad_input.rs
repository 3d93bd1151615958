//! Whatever is wrong is named, with where and what to change, and costs no other call.

use std::time::Duration;

use towline::codec::{FrameLimits, ProstCodec};
use towline::pool::PoolBuilder;
use towline::tls::{TlsConfig, TlsError, TlsErrorKind};
use towline::{Call, Client, Error, Kind, Phase, Sent};
use towline_proto::{Request, Response};
use towline_testbed::{Authority, Backend, ById};

use super::{Bed, EchoClient, echo, request};

type Builder = towline::ClientBuilder<Request, Response>;

fn builder() -> Builder {
    Client::builder().plaintext()
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_when_the_client_is_built() {
    let one = || builder().endpoints(["127.0.0.1:1"]);
    let silent = futures_util::stream::pending::<Result<towline::Update, Error>>();
    let twin: towline::Endpoint = "127.0.0.1:1".parse().unwrap();
    let cases: [(Builder, &str); 9] = [
        (one().endpoint(twin.with_tls_name("b")), "two different endpoints have the key 127.0.0.1:1"),
        (one().tls(TlsConfig::builder().build().unwrap()), "both tls() and plaintext()"),
        (one().discover(silent), "both as a list and by discover()"),
        (builder().endpoints(["127.0.0.1:1", "nonsense"]), "\"nonsense\" as an endpoint: it has no port"),
        (builder().endpoints(Vec::<String>::new()), "there are no endpoints: call endpoints()"),
        (builder(), "there are no endpoints"),
        (one().pool(PoolBuilder::new().max_connections(0)), "max_connections is 0"),
        (one().deadline(Duration::ZERO), "deadline of 0"),
        (one().connect_deadline(Duration::ZERO), "deadline of 0"),
    ];
    for (builder, why) in cases {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn without_a_runtime_building_is_a_typed_error() {
    assert_eq!(builder().endpoints(["127.0.0.1:1"]).build().unwrap_err().kind(), Kind::Runtime);
}

/// A client of one good and one bad backend, whose bad one comes first for about half of all sessions.
async fn refused_by_one(bad: &Backend, bed: &Bed) -> Error {
    let alone = bed.bare().endpoint(bad.address()).build().unwrap();
    let both = bed.builder().endpoint(bad.address()).build().unwrap();
    for i in 0..40 {
        let call = Call::new(request(i)).with_session(i.to_string());
        echo(&both, call).await.expect("the good backend serves what the bad one cannot");
    }
    let error = echo(&alone, Call::new(request(0))).await.unwrap_err();
    assert_eq!((error.phase(), error.sent()), (Phase::Handshake, Sent::Never));
    assert_eq!(error.endpoint().unwrap().as_str(), bad.address().to_string());
    error
}

fn tls_kind(error: &Error) -> TlsErrorKind {
    error.find::<TlsError>().expect("a TLS error").kind()
}

// F13
#[tokio::test]
async fn a_certificate_for_another_name_an_expired_one_and_an_unknown_root_are_refused_and_named() {
    let bed = Bed::new(1).await;
    let (ours, theirs) = (&bed.authority, Authority::new("strangers"));
    for (certified, kind) in [
        (ours.certify(&["db.example"]), TlsErrorKind::WrongName),
        (ours.certify_for_days(&["127.0.0.1"], -2..-1), TlsErrorKind::Expired),
        (ours.certify_for_days(&["127.0.0.1"], 1..2), TlsErrorKind::NotYetValid),
        (theirs.certify(&["127.0.0.1"]), TlsErrorKind::UnknownIssuer),
    ] {
        let bad = Backend::start("127.0.0.1:0", Some(&certified)).await.unwrap();
        let error = refused_by_one(&bad, &bed).await;
        assert_eq!((error.kind(), tls_kind(&error)), (Kind::Tls, kind));
        assert!(error.to_string().contains("\"127.0.0.1\""), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_accepted_when_the_endpoint_says_that_name() {
    let authority = Authority::new("tests");
    let backend = Backend::start("127.0.0.1:0", Some(&authority.certify(&["db.example"]))).await.unwrap();
    let endpoint: towline::Endpoint = backend.address().into();
    let client: EchoClient = Client::builder()
        .endpoint(endpoint.with_tls_name("db.example"))
        .tls(TlsConfig::builder().root_pem(authority.pem()).build().unwrap())
        .build()
        .unwrap();
    echo(&client, Call::new(request(0))).await.unwrap();
}

#[tokio::test]
async fn a_backend_that_speaks_no_tls_is_named_so() {
    let bed = Bed::new(1).await;
    let bad = Backend::start("127.0.0.1:0", None).await.unwrap();
    let error = refused_by_one(&bad, &bed).await;
    // The backend takes the hello for a huge frame and hangs up.
    assert!(matches!(tls_kind(&error), TlsErrorKind::NotTls | TlsErrorKind::Closed), "{error:?}");
}

// F36
#[tokio::test]
async fn a_request_over_the_limit_is_refused_unsent_and_the_connection_goes_on() {
    let bed = Bed::new(1).await;
    for multiplexed in [false, true] {
        let limits = FrameLimits { encode: 100, ..FrameLimits::default() };
        let mut builder = Client::with_codec(ProstCodec::<Request, Response>::new(limits))
            .endpoint(bed.backends[0].address())
            .tls(TlsConfig::builder().root_pem(bed.authority.pem()).build().unwrap());
        if multiplexed {
            builder = builder.multiplexed(ById);
        }
        let client = builder.build().unwrap();
        echo(&client, Call::new(request(0))).await.unwrap();
        let big = Request { id: "big".into(), payload: vec![0; 1_000].into() };
        let error = echo(&client, Call::new(big)).await.unwrap_err();
        assert_eq!((error.kind(), error.sent()), (Kind::TooLarge, Sent::Never));
        assert!(error.to_string().contains("the limit of 100 bytes for sending (FrameLimits::encode)"), "{error}");
        echo(&client, Call::new(request(1))).await.unwrap();
        assert_eq!(client.endpoints()[0].pool.opened, 1);
    }
}

// F4, F36
#[tokio::test]
async fn garbage_a_hostile_length_and_a_cut_answer_fail_their_call_alone() {
    let bed = Bed::new(2).await;
    let faults = bed.backends[0].faults();
    let alone = bed.bare().endpoint(bed.backends[0].address()).build().unwrap();
    let both = bed.client();
    for (switch, kind) in
        [(Switch::Garbage, Kind::Malformed), (Switch::Oversize, Kind::TooLarge), (Switch::Cut, Kind::UnexpectedEof)]
    {
        switch.set(faults, true);
        let error = echo(&alone, Call::new(request(0))).await.unwrap_err();
        assert_eq!((error.kind(), error.phase(), error.sent()), (kind, Phase::Read, Sent::Maybe), "{error}");
        assert!(error.endpoint().is_some());
        for i in 0..20 {
            let call = Call::new(request(i)).with_session(i.to_string()).idempotent();
            // What the peer sent was too large: asking again elsewhere is for the caller to decide.
            if kind != Kind::TooLarge {
                echo(&both, call).await.unwrap();
            }
        }
        switch.set(faults, false);
        echo(&alone, Call::new(request(1))).await.unwrap();
    }
}

enum Switch {
    Garbage,
    Oversize,
    Cut,
}

impl Switch {
    fn set(&self, faults: &towline_testbed::Faults, on: bool) {
        match self {
            Self::Garbage => faults.garbage(on),
            Self::Oversize => faults.oversize(on),
            Self::Cut => faults.cut(on),
        }
    }
}
