//! Endpoints by DNS, from dnsmasq, while calls run.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};
use towline::discover::{Source, Timing};
use towline::dns::{Dns, Family};
use towline::{Call, Client, EndpointKey};

use super::discover::{Callers, Fleet, known, opened, until_known};
use super::servers::Dnsmasq;
use super::{EchoClient, echo, request};

/// Quick enough for a test: dnsmasq's records have a TTL of a second here.
fn dns(server: &Dnsmasq) -> Dns {
    let timing = Timing::default()
        .floor(Duration::from_millis(200))
        .backoff(Duration::from_millis(50), Duration::from_millis(400));
    Dns::new().server(server.address).family(Family::V4).timing(timing)
}

fn client(source: Source) -> EchoClient {
    Client::builder().plaintext().deadline(Duration::from_secs(10)).discover(source).build().unwrap()
}

fn hosts(fleet: &Fleet, indices: &[usize]) -> String {
    indices.iter().map(|index| format!("{} db.test\n", fleet.backends[*index].address().ip())).collect()
}

/// How long the server is away: a few seconds, or as the environment says.
fn outage() -> Duration {
    let seconds = std::env::var("TOWLINE_DNS_OUTAGE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

// F20, F42
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_come_and_go_and_dns_fails_and_no_call_does_and_who_stays_keeps_its_connections() {
    let Some(mut server) = Dnsmasq::start("").await else { return };
    let fleet = Fleet::new(4).await;
    let keys: Vec<_> = (0..4).map(|index| fleet.key(index)).collect();
    let keyed = |indices: &[usize]| indices.iter().map(|index| keys[*index].clone()).collect::<Vec<_>>();
    server.hosts(&hosts(&fleet, &[0, 1])).await;
    let client = client(dns(&server).addresses("db.test", fleet.port).unwrap());
    let callers = Callers::of(&client);
    until_known(&client, &keyed(&[0, 1])).await;

    // One is added, and gets calls.
    server.hosts(&hosts(&fleet, &[2, 1, 0])).await;
    until_known(&client, &keyed(&[0, 1, 2])).await;
    timeout(Duration::from_secs(15), async {
        while fleet.backends[2].served() < 20 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("a server that was added serves");
    // One is removed, one is exchanged for another.
    server.hosts(&hosts(&fleet, &[0, 2])).await;
    until_known(&client, &keyed(&[0, 2])).await;
    server.hosts(&hosts(&fleet, &[0, 3])).await;
    until_known(&client, &keyed(&[0, 3])).await;
    // It answers with nothing, and says that there is no such name.
    server.hosts("::1 db.test\n").await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(known(&client), keyed(&[0, 3]).into_iter().collect());
    server.hosts("").await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(known(&client), keyed(&[0, 3]).into_iter().collect());
    // It is gone for a while, and comes back with something else.
    server.stop().await;
    sleep(outage()).await;
    assert_eq!(known(&client), keyed(&[0, 3]).into_iter().collect());
    server.restart("").await.unwrap();
    server.hosts(&hosts(&fleet, &[0, 1])).await;
    until_known(&client, &keyed(&[0, 1])).await;

    let (calls, failures) = callers.end().await;
    assert!(failures.is_empty(), "{} of {calls}: {}", failures.len(), failures[0]);
    assert!(calls > 1_000, "{calls}");
    let stayed = client.endpoints().into_iter().find(|endpoint| endpoint.key == keys[0]).unwrap();
    assert_eq!(stayed.pool.closed.total(), 0, "{} stayed", keys[0]);
    assert!(stayed.pool.opened <= 4, "as many as calls at a time, and not {}", stayed.pool.opened);
}

// F20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_flap_reconnect_nobody_who_is_in_all_of_them() {
    let Some(server) = Dnsmasq::start("").await else { return };
    let fleet = Fleet::new(2).await;
    server.hosts(&hosts(&fleet, &[0, 1])).await;
    let client = client(dns(&server).addresses("db.test", fleet.port).unwrap());
    let callers = Callers::of(&client);
    until_known(&client, &[fleet.key(0), fleet.key(1)]).await;
    for hosts in
        [hosts(&fleet, &[0]), String::new(), hosts(&fleet, &[1, 0]), hosts(&fleet, &[0]), hosts(&fleet, &[0, 1])]
    {
        server.hosts(&hosts).await;
        sleep(Duration::from_millis(1_300)).await;
    }
    until_known(&client, &[fleet.key(0), fleet.key(1)]).await;
    let (calls, failures) = callers.end().await;
    assert!(failures.is_empty(), "{} of {calls}: {}", failures.len(), failures[0]);
    assert!(opened(&client, &fleet.key(0)) <= 4, "{}", opened(&client, &fleet.key(0)));
    let stayed = client.endpoints().into_iter().find(|endpoint| endpoint.key == fleet.key(0)).unwrap();
    assert_eq!(stayed.pool.closed.total(), 0);
}

// The feedback that others lack: a TTL of an hour, and the server behind the name moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_fails_has_the_name_asked_for_again_long_before_its_ttl() {
    let Some(server) = Dnsmasq::start("local-ttl=3600").await else { return };
    let mut fleet = Fleet::new(2).await;
    server.hosts(&hosts(&fleet, &[0])).await;
    let client = client(dns(&server).addresses("db.test", fleet.port).unwrap());
    echo(&client, Call::new(request(1))).await.unwrap();
    server.hosts(&hosts(&fleet, &[1])).await;
    sleep(Duration::from_millis(600)).await;
    assert_eq!(known(&client), [fleet.key(0)].into(), "nobody has a reason to ask");
    fleet.backends[0].stop().await;
    let began = Instant::now();
    while echo(&client, Call::new(request(2))).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "it is not asked for again");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(known(&client), [fleet.key(1)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_s_weights_are_shares_and_its_backups_serve_when_nobody_else_can() {
    let mut fleet = Fleet::new(3).await;
    let port = fleet.port;
    let address = |fleet: &Fleet, index: usize| fleet.backends[index].address().ip();
    let records = |weights: [u16; 2]| {
        let hosts: String = (0..3).map(|i| format!("host-record=s{i}.test,{},1\n", address(&fleet, i))).collect();
        let services = format!(
            "srv-host=_db._tcp.db.test,s0.test,{port},10,{}\nsrv-host=_db._tcp.db.test,s1.test,{port},10,{}\n\
             srv-host=_db._tcp.db.test,s2.test,{port},20,0\n",
            weights[0], weights[1]
        );
        hosts + &services
    };
    let (before, after) = (records([30, 10]), records([10, 10]));
    let Some(mut server) = Dnsmasq::start(&before).await else { return };
    let client = client(dns(&server).service("_db._tcp.db.test").unwrap());
    until_known(&client, &[fleet.key(0), fleet.key(1), fleet.key(2)]).await;
    let weights = |client: &EchoClient| -> HashMap<EndpointKey, f64> {
        client.endpoints().into_iter().map(|stats| (stats.key, stats.endpoint.weight().get())).collect()
    };
    assert_eq!(weights(&client), HashMap::from([(fleet.key(0), 30.0), (fleet.key(1), 10.0), (fleet.key(2), 0.0)]));
    let endpoints = client.endpoints();
    assert!(endpoints.iter().all(|it| it.endpoint.target().tls_name() == Some("db.test")), "the service's domain");
    for call in 0..100 {
        echo(&client, Call::new(request(call))).await.unwrap();
    }
    assert_eq!(fleet.backends[2].served(), 0, "a backup");
    let before = opened(&client, &fleet.key(0));
    // Weights change in place.
    server.restart(&after).await.unwrap();
    timeout(Duration::from_secs(10), async {
        while weights(&client)[&fleet.key(0)] != 10.0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    echo(&client, Call::new(request(0))).await.unwrap();
    assert_eq!(opened(&client, &fleet.key(0)), before);
    // Nobody of the first priority is there.
    fleet.backends[0].stop().await;
    fleet.backends[1].stop().await;
    for call in 0..50 {
        echo(&client, Call::new(request(call)).idempotent()).await.unwrap();
    }
    assert!(fleet.backends[2].served() >= 50);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_into_a_datagram_is_asked_for_by_tcp() {
    let hosts: String = (0..400).map(|n| format!("10.9.{}.{} many.test\n", n / 200, n % 200 + 1)).collect();
    let Some(server) = Dnsmasq::start("edns-packet-max=512").await else { return };
    server.hosts(&hosts).await;
    sleep(Duration::from_millis(100)).await;
    let mut source = dns(&server).addresses("many.test", 7).unwrap();
    let set = timeout(Duration::from_secs(10), source.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(set.len(), 400);
}

#[tokio::test]
async fn urls_say_the_server_several_names_and_addresses() {
    let Some(server) = Dnsmasq::start("host-record=a.test,10.9.0.1\nhost-record=b.test,10.9.0.2,fd00::2\n").await
    else {
        return;
    };
    let schemes = towline::dns::register(towline::discover::Schemes::default());
    let url = format!("dns://{}/a.test:1,b.test:2,10.9.0.3:3", server.address);
    let set = schemes.open(&url).unwrap().next().await.unwrap().unwrap();
    let keys: Vec<_> = set.iter().map(|endpoint| endpoint.key().as_str()).collect();
    assert_eq!(keys, ["10.9.0.1:1", "10.9.0.2:2", "[fd00::2]:2", "10.9.0.3:3"]);
    assert_eq!(set[0].target().tls_name(), Some("a.test"));
    let mut nobody = schemes.open(&format!("dns://{}/nobody.test:1", server.address)).unwrap();
    let error = nobody.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("there is no name nobody.test"), "{error}");
}

// grpc-go's #12295 and its like: channels that are made anew every so often, because names are resolved once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_under_a_generated_client_follows_a_name_and_asks_again_when_it_reaches_nobody() {
    let Some(server) = Dnsmasq::start("local-ttl=3600").await else { return };
    let (mut first, second) = loop {
        let first = towline_proto_grpc::Backend::start("127.0.0.2:0").unwrap();
        if let Ok(second) = towline_proto_grpc::Backend::start(&format!("127.0.0.3:{}", first.address().port())) {
            break (first, second);
        }
    };
    let port = first.address().port();
    server.hosts("127.0.0.2 api.test\n").await;
    let url = format!("dns://{}/api.test:{port}", server.address);
    let channel: super::channel::GrpcChannel =
        towline_http::Channel::grpc().discover(url.as_str()).scheme(dns(&server).scheme()).plaintext().build().unwrap();
    let mut client = towline_proto_grpc::echo_client::EchoClient::new(channel.clone());
    client.unary(super::channel::ping(1)).await.unwrap();
    assert_eq!(channel.endpoints()[0].endpoint.target().tls_name(), Some("api.test"));
    server.hosts("127.0.0.3 api.test\n").await;
    first.kill();
    let began = Instant::now();
    while client.unary(super::channel::ping(2)).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "it is not asked for again");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(channel.endpoints()[0].key.as_str(), second.address().to_string());
    assert!(channel.discovery_error().is_none());
    server.hosts("").await;
}
