//! Endpoints from files, channels and URLs, under a client that calls all the time.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use towline::discover::{Defaults, File, Source};
use towline::{Call, Client, Endpoint, EndpointKey, Error, Kind};
use towline_proto::{Request, Response};
use towline_testbed::Backend;

use super::{EchoClient, echo, request};

/// Backends in the clear, one for each address of loopback, all with one port, as the servers behind a name have.
pub(crate) struct Fleet {
    pub(crate) port: u16,
    pub(crate) backends: Vec<Backend>,
}

impl Fleet {
    pub(crate) async fn new(size: u8) -> Self {
        // A port that is free at one address may be taken at another.
        'ports: for _ in 0..20 {
            let first = Backend::start("127.0.0.2:0", None).await.unwrap();
            let port = first.address().port();
            let mut backends = vec![first];
            for last in 3..2 + size {
                match Backend::start(&format!("127.0.0.{last}:{port}"), None).await {
                    Ok(backend) => backends.push(backend),
                    Err(_) => continue 'ports,
                }
            }
            return Self { port, backends };
        }
        panic!("no port is free at {size} addresses");
    }

    pub(crate) fn key(&self, index: usize) -> EndpointKey {
        EndpointKey::new(self.backends[index].address().to_string())
    }
}

/// Calls that are made one after the other, in several tasks, until they are ended.
pub(crate) struct Callers(Vec<tokio::task::JoinHandle<(u64, Vec<Error>)>>, tokio::sync::watch::Sender<bool>);

impl Callers {
    /// None may be repeated: what fails is seen.
    pub(crate) fn of(client: &EchoClient) -> Self {
        let (sender, receiver) = tokio::sync::watch::channel(true);
        let caller = |caller: u32| {
            let (client, receiver) = (client.clone(), receiver.clone());
            tokio::spawn(async move {
                let (mut calls, mut failures) = (0, Vec::new());
                while *receiver.borrow() {
                    let call = Call::new(request(format!("{caller}-{calls}")));
                    failures.extend(echo(&client, call).await.err());
                    calls += 1;
                    sleep(Duration::from_millis(2)).await;
                }
                (calls, failures)
            })
        };
        Self((0..4).map(caller).collect(), sender)
    }

    /// How many calls there were, and what became of those that failed.
    pub(crate) async fn end(self) -> (u64, Vec<Error>) {
        self.1.send_replace(false);
        let (mut calls, mut failures) = (0, Vec::new());
        for caller in self.0 {
            let (made, failed) = caller.await.unwrap();
            calls += made;
            failures.extend(failed);
        }
        (calls, failures)
    }
}

pub(crate) fn known(client: &EchoClient) -> HashSet<EndpointKey> {
    client.endpoints().into_iter().map(|endpoint| endpoint.key).collect()
}

/// Until the client knows just these.
pub(crate) async fn until_known(client: &EchoClient, keys: &[EndpointKey]) {
    let expected: HashSet<_> = keys.iter().cloned().collect();
    let coming = async {
        while known(client) != expected {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(Duration::from_secs(20), coming).await.is_err() {
        panic!("known are {:?}, and not {expected:?}", known(client));
    }
}

/// So many connections were opened to it, all in all.
pub(crate) fn opened(client: &EchoClient, key: &EndpointKey) -> u64 {
    client.endpoints().iter().find(|endpoint| endpoint.key == *key).map_or(0, |endpoint| endpoint.pool.opened)
}

fn builder() -> towline::ClientBuilder<Request, Response> {
    Client::builder().plaintext().deadline(Duration::from_secs(10))
}

// F20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_while_calls_run_fails_none_and_connects_to_nobody_again_who_stays() {
    let fleet = Fleet::new(4).await;
    let [a, b, c, d] = [0, 1, 2, 3].map(|index| fleet.key(index));
    let directory = std::env::temp_dir().join(format!("towline-it-file-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("endpoints.yaml");
    let write = |text: String| {
        std::fs::write(directory.join("new"), text).unwrap();
        std::fs::rename(directory.join("new"), &path).unwrap();
    };
    write(format!("- {a}\n- {b}\n"));
    let source = File::new(&path).every(Duration::from_millis(20)).source().unwrap();
    let client = builder().discover(source).build().unwrap();
    let callers = Callers::of(&client);

    until_known(&client, &[a.clone(), b.clone()]).await;
    sleep(Duration::from_millis(100)).await;
    let before = opened(&client, &a);
    // Added, removed, broken, replaced, gone, and back.
    write(format!("endpoints:\n- {c}\n- address: {a}\n  weight: 3\n- {b}\n"));
    until_known(&client, &[a.clone(), b.clone(), c.clone()]).await;
    write(format!("- {a}\n- {c}\n"));
    until_known(&client, &[a.clone(), c.clone()]).await;
    write(format!("- {a}\n- {{address: nowhere}}\n"));
    sleep(Duration::from_millis(300)).await;
    assert_eq!(known(&client), [a.clone(), c.clone()].into(), "a broken file changes nothing");
    write(format!("- {a}\n- {d}\n"));
    until_known(&client, &[a.clone(), d.clone()]).await;
    std::fs::remove_file(&path).unwrap();
    sleep(Duration::from_millis(300)).await;
    write(format!("- {a}\n- {b}\n- {d}\n"));
    until_known(&client, &[a.clone(), b.clone(), d.clone()]).await;

    let (calls, failures) = callers.end().await;
    assert!(failures.is_empty(), "{} of {calls}: {}", failures.len(), failures[0]);
    assert!(calls > 200, "{calls}");
    // As many as calls at a time: none were closed because the file changed.
    assert!(before >= 1 && opened(&client, &a) <= 4, "{before}, then {}", opened(&client, &a));
    let closed = client.endpoints().iter().find(|it| it.key == a).unwrap().pool.closed.total();
    assert_eq!(closed, 0, "{a} stayed");
    std::fs::remove_dir_all(&directory).unwrap();
}

// F19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_fails_empties_and_ends_keeps_its_last_set_until_it_is_stale() {
    let fleet = Fleet::new(1).await;
    let endpoint = Endpoint::from(fleet.backends[0].address());
    let (sets, receiver) = tokio::sync::mpsc::channel::<Result<Vec<Endpoint>, Error>>(4);
    let stale = Duration::from_millis(400);
    let client = builder().discover(Source::mpsc(receiver).keep_last_good(stale)).build().unwrap();
    // Nothing was said yet: a call waits.
    let mut waiting = Box::pin(echo(&client, Call::new(request("early"))));
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    sets.send(Ok(vec![endpoint])).await.unwrap();
    waiting.await.unwrap();
    sets.send(Ok(Vec::new())).await.unwrap();
    sets.send(Err(Error::new(Kind::Unavailable, towline::Phase::Resolve))).await.unwrap();
    drop(sets);
    let began = Instant::now();
    let mut served = 0;
    let error = loop {
        match echo(&client, Call::new(request("late"))).await {
            Ok(()) => served += 1,
            Err(error) => break error,
        }
        sleep(Duration::from_millis(5)).await;
    };
    assert!(served > 10, "{served}");
    assert!(began.elapsed() > stale / 2, "{:?}", began.elapsed());
    assert_eq!(error.kind(), Kind::NoEndpoints);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_is_a_client_s_discovery_and_so_is_one_of_a_scheme_of_one_s_own() {
    struct Loopback(u16);
    impl towline::discover::Scheme for Loopback {
        fn name(&self) -> &str {
            "loopback"
        }
        fn form(&self) -> &str {
            "loopback:last"
        }
        fn open(&self, url: &towline::discover::SourceUrl) -> Result<Source, Error> {
            let text = format!("127.0.0.{}", url.name());
            let endpoint = Defaults::new().port(self.0).parse(&text).map_err(|error| url.refused(error))?;
            Ok(Source::fixed([endpoint]))
        }
    }
    let fleet = Fleet::new(2).await;
    let url = format!("static:{},{}", fleet.key(0), fleet.key(1));
    let client = builder().discover(url.as_str()).build().unwrap();
    until_known(&client, &[fleet.key(0), fleet.key(1)]).await;
    echo(&client, Call::new(request(1))).await.unwrap();

    let client = builder().discover("loopback:3").scheme(Loopback(fleet.port)).build().unwrap();
    echo(&client, Call::new(request(1))).await.unwrap();
    assert_eq!(known(&client), [fleet.key(1)].into());

    let error = builder().discover("loopback:x/3").build().unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("\"loopback\" is not known; known are dns:///name:port, dns+srv:///_service._tcp.name"),
        "{said}"
    );
}
