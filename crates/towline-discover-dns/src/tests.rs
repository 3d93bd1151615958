//! Answers that no well-behaved server gives, or not when one wants it to.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use hickory_resolver::Hosts;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use towline_discover::{Answer, Failure, Resolve, Timing};

use super::*;
use crate::resolver::System;

/// What is said to one question.
#[derive(Clone, Debug)]
enum Reply {
    Records(Vec<Record>),
    /// No such name, or no such record, for so many seconds.
    Nothing(ResponseCode, Option<u32>),
    Fail,
    Silence,
}

type Script = Arc<Mutex<HashMap<(String, RecordType), Reply>>>;

/// A server that says what it is told, and that there is no record to everything else.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    script: Script,
}

impl Server {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Self { address: socket.local_addr().unwrap(), script: Script::default() };
        let script = server.script.clone();
        tokio::spawn(async move {
            let mut bytes = [0; 4_096];
            loop {
                let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
                let question = Message::from_vec(&bytes[..length]).unwrap();
                if let Some(answer) = answer(&question, &script) {
                    socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        server
    }

    fn say(&self, name: &str, kind: RecordType, reply: Reply) -> &Self {
        self.script.lock().unwrap().insert((name.to_owned(), kind), reply);
        self
    }

    fn records(&self, name: &str, kind: RecordType, records: Vec<Record>) -> &Self {
        self.say(name, kind, Reply::Records(records))
    }

    fn dns(&self) -> Dns {
        Dns::new().server(self.address)
    }

    fn resolver(&self) -> Resolver {
        self.dns().resolver().unwrap()
    }

    /// As a system whose settings say so.
    fn resolver_with(&self, search: &[&str], ndots: usize, hosts: &str) -> Resolver {
        let mut connection = ConnectionConfig::udp();
        connection.port = self.address.port();
        let config =
            ResolverConfig::from_name_servers(vec![NameServerConfig::new(self.address.ip(), true, vec![connection])]);
        let mut known = Hosts::default();
        known.read_hosts_conf(hosts.as_bytes()).unwrap();
        let search = search.iter().map(|domain| name(domain)).collect();
        Resolver::of(config, ResolverOpts::default(), System { search, ndots, hosts: known }).unwrap()
    }

    fn addresses(&self, name: &str, family: Family) -> addresses::AtPort {
        Addresses::new(self.resolver(), name, family).unwrap().at(7)
    }

    fn service(&self, name: &str) -> Services {
        Services::new(self.resolver(), name, &self.dns()).unwrap()
    }
}

fn answer(question: &Message, script: &Script) -> Option<Message> {
    let query = &question.queries[0];
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.add_query(query.clone());
    answer.metadata.recursion_available = true;
    let key = (query.name().to_ascii().to_lowercase(), query.query_type());
    let reply = script.lock().unwrap().get(&key).cloned();
    match reply.unwrap_or(Reply::Nothing(ResponseCode::NoError, Some(60))) {
        Reply::Records(records) => drop(answer.add_answers(records)),
        Reply::Nothing(code, seconds) => {
            answer.metadata.response_code = code;
            if let Some(seconds) = seconds {
                let zone = Name::from_str("test.").unwrap();
                let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, seconds);
                answer.add_authority(Record::from_rdata(zone, seconds, RData::SOA(soa)));
            }
        }
        Reply::Fail => answer.metadata.response_code = ResponseCode::ServFail,
        Reply::Silence => return None,
    }
    Some(answer)
}

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

fn v4(of: &str, last: u8, ttl: u32) -> Record {
    Record::from_rdata(name(of), ttl, RData::A(A(Ipv4Addr::new(10, 0, 0, last))))
}

fn v6(of: &str, last: u16, ttl: u32) -> Record {
    Record::from_rdata(name(of), ttl, RData::AAAA(AAAA(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))))
}

fn alias(of: &str, to: &str, ttl: u32) -> Record {
    Record::from_rdata(name(of), ttl, RData::CNAME(CNAME(name(to))))
}

fn server(of: &str, priority: u16, weight: u16, target: &str) -> Record {
    Record::from_rdata(name(of), 30, RData::SRV(SRV::new(priority, weight, 9, name(target))))
}

fn keys(answer: &Answer) -> Vec<&str> {
    answer.endpoints.iter().map(|endpoint| endpoint.key().as_str()).collect()
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

/// A service of two, which was asked for once.
async fn two_servers(dns: &Server) -> Services {
    let of = "_db._tcp.test.";
    dns.records(of, RecordType::SRV, vec![server(of, 1, 1, "a.test."), server(of, 1, 1, "b.test.")]);
    dns.records("a.test.", RecordType::A, vec![v4("a.test.", 1, 300)]);
    dns.records("b.test.", RecordType::A, vec![v4("b.test.", 2, 300)]);
    let mut service = dns.service("_db._tcp.test");
    service.resolve().await.unwrap();
    service
}

#[tokio::test]
async fn an_answer_is_good_for_the_shortest_time_in_it_that_of_an_alias_too() {
    let dns = Server::start().await;
    dns.records("db.test.", RecordType::A, vec![alias("db.test.", "real.test.", 9), v4("real.test.", 1, 40)]);
    dns.records("db.test.", RecordType::AAAA, vec![v6("db.test.", 1, 20)]);
    let answer = dns.addresses("db.test", Family::Both).resolve().await.unwrap();
    assert_eq!(keys(&answer), ["10.0.0.1:7", "[fd00::1]:7"]);
    assert_eq!(answer.valid_for, seconds(9));
    // An alias whose target has to be asked for.
    dns.records("far.test.", RecordType::A, vec![alias("far.test.", "real.test.", 9)]);
    dns.records("real.test.", RecordType::A, vec![v4("real.test.", 1, 40)]);
    let answer = dns.addresses("far.test", Family::V4).resolve().await.unwrap();
    assert_eq!((keys(&answer), answer.valid_for), (vec!["10.0.0.1:7"], seconds(9)));
    let answer = dns.addresses("db.test.", Family::V6).resolve().await.unwrap();
    assert_eq!((keys(&answer), answer.valid_for), (vec!["[fd00::1]:7"], seconds(20)));
    assert_eq!(answer.endpoints[0].target().tls_name(), Some("db.test"), "without the dot");
}

#[tokio::test]
async fn a_server_that_is_sure_that_there_is_nothing_says_for_how_long() {
    let dns = Server::start().await;
    for kind in [RecordType::A, RecordType::AAAA] {
        dns.say("nobody.test.", kind, Reply::Nothing(ResponseCode::NXDomain, Some(17)));
        dns.say("bare.test.", kind, Reply::Nothing(ResponseCode::NoError, Some(19)));
        dns.say("vague.test.", kind, Reply::Nothing(ResponseCode::NXDomain, None));
    }
    for (name, why, time) in [
        ("nobody.test", "there is no name nobody.test (NXDOMAIN)", seconds(17)),
        ("bare.test", "bare.test has no A or AAAA records", seconds(19)),
        ("vague.test", "there is no name vague.test (NXDOMAIN)", None),
    ] {
        let Failure { error, valid_for, .. } = dns.addresses(name, Family::Both).resolve().await.unwrap_err();
        assert!(error.to_string().starts_with(why), "{error}");
        assert_eq!(valid_for, time, "{name}");
    }
}

#[tokio::test]
async fn half_an_answer_is_no_smaller_one() {
    let dns = Server::start().await;
    dns.records("db.test.", RecordType::A, vec![v4("db.test.", 1, 30)]);
    dns.records("db.test.", RecordType::AAAA, vec![v6("db.test.", 1, 30)]);
    let mut addresses = dns.addresses("db.test", Family::Both);
    addresses.resolve().await.unwrap();
    dns.say("db.test.", RecordType::AAAA, Reply::Fail).records("db.test.", RecordType::A, vec![v4("db.test.", 2, 30)]);
    let answer = addresses.resolve().await.unwrap();
    assert_eq!(keys(&answer), ["10.0.0.2:7", "[fd00::1]:7"], "IPv6 is as it was");
    assert_eq!(answer.valid_for, Some(Duration::ZERO), "to be asked for again soon");
    // The half that is left says that there is nothing: that is not all there is to say.
    dns.say("db.test.", RecordType::A, Reply::Nothing(ResponseCode::NoError, Some(60)));
    let failure = addresses.resolve().await.unwrap_err();
    assert_eq!(failure.valid_for, None);
    // In whichever half.
    dns.say("db.test.", RecordType::A, Reply::Fail);
    dns.say("db.test.", RecordType::AAAA, Reply::Nothing(ResponseCode::NoError, Some(60)));
    assert_eq!(addresses.resolve().await.unwrap_err().valid_for, None);
    // And when it is sure of both, there are none.
    dns.say("db.test.", RecordType::A, Reply::Nothing(ResponseCode::NoError, Some(60)));
    dns.say("db.test.", RecordType::AAAA, Reply::Nothing(ResponseCode::NoError, Some(60)));
    assert_eq!(addresses.resolve().await.unwrap_err().valid_for, seconds(60));
}

#[tokio::test]
async fn aliases_in_a_circle_are_a_failure_and_end() {
    let dns = Server::start().await;
    for kind in [RecordType::A, RecordType::AAAA] {
        dns.records("a.test.", kind, vec![alias("a.test.", "b.test.", 60)]);
        dns.records("b.test.", kind, vec![alias("b.test.", "a.test.", 60)]);
        dns.records("self.test.", kind, vec![alias("self.test.", "self.test.", 60)]);
    }
    for name in ["a.test", "self.test"] {
        let mut addresses = dns.addresses(name, Family::Both);
        let failure = timeout(Duration::from_secs(8), addresses.resolve()).await.expect("it ends").unwrap_err();
        assert!(failure.error.to_string().contains(name), "{}", failure.error);
    }
}

#[tokio::test]
async fn a_server_in_trouble_and_one_that_is_silent_are_failures_of_no_known_time() {
    let dns = Server::start().await;
    for kind in [RecordType::A, RecordType::AAAA] {
        dns.say("ill.test.", kind, Reply::Fail).say("mute.test.", kind, Reply::Silence);
    }
    let failure = dns.addresses("ill.test", Family::Both).resolve().await.unwrap_err();
    assert_eq!(failure.valid_for, None);
    assert!(failure.error.to_string().starts_with("DNS does not say what A records ill.test has"), "{}", failure.error);
    let timing = Timing::default().limit(Duration::from_millis(300));
    let mut source = dns.dns().timing(timing).addresses("mute.test", 7).unwrap();
    let error = source.next().await.unwrap().unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

#[tokio::test]
async fn a_service_s_servers_have_its_weights_priorities_and_ports() {
    let dns = Server::start().await;
    let of = "_db._tcp.test.";
    dns.records(
        of,
        RecordType::SRV,
        vec![server(of, 10, 60, "a.test."), server(of, 10, 0, "b.test."), server(of, 20, 5, "c.test.")],
    );
    dns.records("a.test.", RecordType::A, vec![v4("a.test.", 1, 300), v4("a.test.", 2, 300)]);
    dns.records("b.test.", RecordType::A, vec![v4("b.test.", 3, 300)]);
    dns.records("c.test.", RecordType::A, vec![v4("c.test.", 4, 12)]);
    let answer = dns.service("_db._tcp.test").resolve().await.unwrap();
    let seen: Vec<_> =
        answer.endpoints.iter().map(|it| (it.key().as_str(), it.weight().get(), it.priority())).collect();
    assert_eq!(
        seen,
        [("10.0.0.1:9", 30.0, 0), ("10.0.0.2:9", 30.0, 0), ("10.0.0.3:9", 1.0, 0), ("10.0.0.4:9", 0.0, 1)]
    );
    assert_eq!(answer.valid_for, seconds(12));
    assert_eq!(answer.endpoints[0].target().tls_name(), Some("test"));

    let tiers = dns.dns().priorities_as_tiers().verify_targets();
    let answer = Services::new(dns.resolver(), "_db._tcp.test", &tiers).unwrap().resolve().await.unwrap();
    assert_eq!(answer.endpoints[3].weight().get(), 5.0);
    assert_eq!(answer.endpoints[3].target().tls_name(), Some("c.test"));
}

#[tokio::test]
async fn a_target_that_cannot_be_asked_for_has_what_it_had_and_the_rest_is_new() {
    let dns = Server::start().await;
    let mut service = two_servers(&dns).await;
    for kind in [RecordType::A, RecordType::AAAA] {
        dns.say("a.test.", kind, Reply::Fail);
    }
    dns.records("b.test.", RecordType::A, vec![v4("b.test.", 3, 300)]);
    let answer = service.resolve().await.unwrap();
    assert_eq!(keys(&answer), ["10.0.0.1:9", "10.0.0.3:9"]);
    assert_eq!(answer.valid_for, Some(Duration::ZERO));
}

#[tokio::test]
async fn a_service_that_says_it_is_not_there_means_it_and_one_without_addresses_does_not() {
    let dns = Server::start().await;
    let of = "_db._tcp.test.";
    dns.records(of, RecordType::SRV, vec![server(of, 0, 0, ".")]);
    let answer = dns.service("_db._tcp.test").resolve().await.unwrap();
    assert!(answer.endpoints.is_none_on_purpose());
    dns.records(of, RecordType::SRV, vec![server(of, 0, 0, "gone.test.")]);
    let failure = dns.service("_db._tcp.test").resolve().await.unwrap_err();
    assert!(failure.error.to_string().starts_with("gone.test has no A or AAAA records"), "{}", failure.error);
    assert_eq!(failure.valid_for, seconds(60));
    let failure = dns.service("_other._tcp.test").resolve().await.unwrap_err();
    assert!(failure.error.to_string().starts_with("_other._tcp.test has no SRV records"), "{}", failure.error);
}

#[tokio::test]
async fn an_address_of_several_records_is_one_endpoint_and_the_preferred_record_counts() {
    let dns = Server::start().await;
    let of = "_db._tcp.test.";
    dns.records(
        of,
        RecordType::SRV,
        vec![server(of, 20, 9, "a.test."), server(of, 10, 3, "b.test."), server(of, 10, 2, "c.test.")],
    );
    for target in ["a.test.", "b.test.", "c.test."] {
        dns.records(target, RecordType::A, vec![v4(target, 1, 300)]);
    }
    let answer = dns.service("_db._tcp.test").resolve().await.unwrap();
    assert_eq!(
        (answer.endpoints.len(), answer.endpoints[0].weight().get(), answer.endpoints[0].priority()),
        (1, 3.0, 0)
    );
}

#[tokio::test]
async fn a_target_that_is_not_there_is_not_asked_for_all_the_time_and_is_said() {
    let dns = Server::start().await;
    let of = "_db._tcp.test.";
    dns.records(
        of,
        RecordType::SRV,
        vec![server(of, 1, 1, "a.test."), server(of, 1, 1, "gone.test."), server(of, 1, 1, ".")],
    );
    dns.records("a.test.", RecordType::A, vec![v4("a.test.", 1, 300)]);
    let answer = dns.service("_db._tcp.test").resolve().await.unwrap();
    assert_eq!((keys(&answer), answer.valid_for), (vec!["10.0.0.1:9"], seconds(30)));
    let why = answer.partial.unwrap().to_string();
    assert!(why.starts_with("gone.test has no A or AAAA records"), "{why}");
}

#[tokio::test]
async fn a_question_that_takes_too_long_loses_nothing_of_what_targets_had() {
    let dns = Server::start().await;
    let mut service = two_servers(&dns).await;
    for kind in [RecordType::A, RecordType::AAAA] {
        dns.say("b.test.", kind, Reply::Silence);
    }
    assert!(timeout(Duration::from_millis(300), service.resolve()).await.is_err(), "it was cut off");
    for kind in [RecordType::A, RecordType::AAAA] {
        dns.say("b.test.", kind, Reply::Fail);
    }
    let answer = service.resolve().await.unwrap();
    assert_eq!(keys(&answer), ["10.0.0.1:9", "10.0.0.2:9"]);
    assert!(answer.partial.is_some());
}

#[tokio::test]
async fn a_target_that_is_no_more_is_not_asked_for_nor_kept() {
    let dns = Server::start().await;
    let mut service = two_servers(&dns).await;
    let of = "_db._tcp.test.";
    dns.records(of, RecordType::SRV, vec![server(of, 1, 1, "b.test.")]);
    for kind in [RecordType::A, RecordType::AAAA] {
        dns.say("a.test.", kind, Reply::Fail);
    }
    let answer = service.resolve().await.unwrap();
    assert_eq!((keys(&answer), answer.partial.is_none()), (vec!["10.0.0.2:9"], true));
}

#[tokio::test]
async fn with_one_family_at_hand_the_other_is_not_waited_for_for_long() {
    let dns = Server::start().await;
    dns.records("db.test.", RecordType::A, vec![v4("db.test.", 1, 30)]);
    dns.say("db.test.", RecordType::AAAA, Reply::Silence);
    let mut addresses = dns.addresses("db.test", Family::Both);
    let answer = timeout(Duration::from_secs(2), addresses.resolve()).await.expect("it is not waited for").unwrap();
    assert_eq!(keys(&answer), ["10.0.0.1:7"]);
    let why = answer.partial.unwrap().to_string();
    assert!(why.contains("told one, and not the other within 1s"), "{why}");
}

#[tokio::test]
async fn names_are_as_certificates_have_them_and_may_have_underscores() {
    let dns = Server::start().await;
    for (name, tls_name) in [
        ("b\u{fc}cher.test", "xn--bcher-kva.test"),
        ("xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("my_db.test", "my_db.test"),
    ] {
        dns.records(&format!("{tls_name}."), RecordType::A, vec![v4(&format!("{tls_name}."), 1, 30)]);
        let answer = dns.addresses(name, Family::V4).resolve().await.unwrap();
        assert_eq!(answer.endpoints[0].target().tls_name(), Some(tls_name));
    }
}

#[tokio::test]
async fn a_search_domain_is_that_of_the_name_and_not_of_a_record() {
    let dns = Server::start().await;
    // As in Kubernetes; the second domain has a stranger of the same name, with IPv6.
    dns.records("db.ns.test.", RecordType::A, vec![v4("db.ns.test.", 1, 30)]);
    dns.records("db.corp.test.", RecordType::A, vec![v4("db.corp.test.", 9, 30)]);
    dns.records("db.corp.test.", RecordType::AAAA, vec![v6("db.corp.test.", 9, 30)]);
    let resolver = dns.resolver_with(&["ns.test.", "corp.test."], 5, "");
    let ask = async |name: &str| Addresses::new(resolver.clone(), name, Family::Both).unwrap().at(7).resolve().await;
    let answer = ask("db").await.unwrap();
    assert_eq!(keys(&answer), ["10.0.0.1:7"]);
    assert_eq!(answer.endpoints[0].target().tls_name(), Some("db"), "as it was asked for");
    // Nobody knows what the first is: then it is not the second.
    dns.say("db.ns.test.", RecordType::A, Reply::Fail);
    assert_eq!(ask("db").await.unwrap_err().valid_for, None);
    // It is not there: then it is.
    dns.say("db.ns.test.", RecordType::A, Reply::Nothing(ResponseCode::NXDomain, Some(5)));
    assert_eq!(keys(&ask("db").await.unwrap()), ["10.0.0.9:7", "[fd00::9]:7"]);
    // With a dot at the end, or enough within, it is what it is.
    let failure = ask("db.").await.unwrap_err();
    assert!(failure.error.to_string().starts_with("db has no A or AAAA records"), "{}", failure.error);
    dns.records("a.b.c.d.e.f.", RecordType::A, vec![v4("a.b.c.d.e.f.", 6, 30)]);
    dns.records("a.b.c.d.e.f.ns.test.", RecordType::A, vec![v4("a.b.c.d.e.f.ns.test.", 7, 30)]);
    assert_eq!(keys(&ask("a.b.c.d.e.f").await.unwrap()), ["10.0.0.6:7"]);

    let of = "_db._tcp.ns.test.";
    dns.records(of, RecordType::SRV, vec![server(of, 1, 1, "s.test.")]).records(
        "s.test.",
        RecordType::A,
        vec![v4("s.test.", 1, 30)],
    );
    let mut service = Services::new(resolver, "_db._tcp", &dns.dns()).unwrap();
    assert_eq!(service.resolve().await.unwrap().endpoints[0].target().tls_name(), Some("ns.test"));
}

#[tokio::test]
async fn what_one_name_had_is_not_what_another_has() {
    let dns = Server::start().await;
    dns.records("db.ns.test.", RecordType::A, vec![v4("db.ns.test.", 1, 30)]);
    dns.records("db.ns.test.", RecordType::AAAA, vec![v6("db.ns.test.", 1, 30)]);
    let resolver = dns.resolver_with(&["ns.test.", "corp.test."], 5, "");
    let mut addresses = Addresses::new(resolver, "db", Family::Both).unwrap().at(7);
    addresses.resolve().await.unwrap();
    for kind in [RecordType::A, RecordType::AAAA] {
        dns.say("db.ns.test.", kind, Reply::Nothing(ResponseCode::NXDomain, Some(5)));
    }
    dns.records("db.corp.test.", RecordType::A, vec![v4("db.corp.test.", 9, 30)]);
    dns.say("db.corp.test.", RecordType::AAAA, Reply::Fail);
    assert_eq!(keys(&addresses.resolve().await.unwrap()), ["10.0.0.9:7"]);
}

#[tokio::test]
async fn the_system_s_hosts_come_before_dns_and_search_domains() {
    let dns = Server::start().await;
    dns.records("db.ns.test.", RecordType::A, vec![v4("db.ns.test.", 1, 30)]);
    let resolver = dns.resolver_with(&["ns.test."], 5, "10.0.0.8 db\nfd00::8 db\n");
    for (family, expected) in [(Family::Both, &["10.0.0.8:7", "[fd00::8]:7"][..]), (Family::V6, &["[fd00::8]:7"])] {
        let answer = Addresses::new(resolver.clone(), "db", family).unwrap().at(7).resolve().await.unwrap();
        assert_eq!(keys(&answer), expected);
    }
}
