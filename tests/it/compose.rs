//! The client in other people's stacks, and other people's parts in ours.

use std::time::Duration;

use tokio::sync::mpsc;
use tower::discover::Change;
use tower::{Service, ServiceBuilder, ServiceExt};
use towline::core::CloseReason;
use towline::core::TokioExecutor;
use towline::{Call, Client, Endpoint, EndpointKey, Error, Event, Kind, Observer, Sent, SessionKey};
use towline_proto::{Request, Response};
use towline_testbed::ById;

use super::{Bed, EchoClient, echo, request};

#[tokio::test]
async fn tower_layers_go_over_the_client() {
    let bed = Bed::new(2).await;
    let mut stack = ServiceBuilder::new()
        .buffer(8)
        .concurrency_limit(4)
        .timeout(Duration::from_secs(5))
        .map_response(|response: Response| response.payload)
        .service(bed.client());
    let payload = stack.ready().await.unwrap().call(request("tower")).await.unwrap();
    assert_eq!(payload, "payload of tower");
}

#[tokio::test]
async fn tower_layers_go_over_calls_that_carry_a_context() {
    let bed = Bed::new(3).await;
    let stack =
        ServiceBuilder::new().concurrency_limit(4).timeout(Duration::from_secs(5)).service(bed.client().calls());
    let mut homes = Vec::new();
    for i in 0..10 {
        let call = Call::new(request(i)).with_session("alice").with_report();
        let report = call.context().report().cloned().unwrap();
        stack.clone().oneshot(call).await.unwrap();
        homes.push(report.endpoint().unwrap());
    }
    homes.dedup();
    assert_eq!(homes.len(), 1);
}

#[tokio::test]
async fn the_client_says_who_is_calling_and_what_may_be_repeated_from_the_request() {
    let bed = Bed::new(3).await;
    bed.backends[0].faults().hang_up(true);
    let client = bed
        .builder()
        .sticky_by(|request: &Request| Some(SessionKey::new(&request.id)))
        .idempotent_if(|request: &Request| request.payload.starts_with(b"payload"))
        .build()
        .unwrap();
    for i in 0..30 {
        let answer = client.clone().oneshot(request(i)).await.unwrap();
        assert_eq!(answer.id, i.to_string());
    }
}

#[tokio::test]
async fn endpoints_come_and_go_while_calls_run() {
    let bed = Bed::new(3).await;
    let (discover, mut changes) = mpsc::channel::<Result<Change<EndpointKey, Endpoint>, Error>>(8);
    let stream = futures_util::stream::poll_fn(move |cx| changes.poll_recv(cx));
    let client = bed.bare().discover(stream).build().unwrap();
    let early = tokio::spawn({
        let client = client.clone();
        async move { echo(&client, Call::new(request("early"))).await }
    });
    let endpoint = |n: usize| Endpoint::from(bed.backends[n].address());
    for n in [0, 1] {
        discover.send(Ok(Change::Insert(endpoint(n).key().clone(), endpoint(n)))).await.unwrap();
    }
    early.await.unwrap().unwrap();
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let client = client.clone();
            tokio::spawn(async move {
                for i in 0..100 {
                    echo(&client, Call::new(request(format!("{caller}-{i}")))).await.unwrap();
                }
            })
        })
        .collect();
    discover.send(Ok(Change::Insert(endpoint(2).key().clone(), endpoint(2)))).await.unwrap();
    discover.send(Ok(Change::Remove(endpoint(0).key().clone()))).await.unwrap();
    for caller in callers {
        caller.await.unwrap();
    }
    let keys: Vec<_> = client.endpoints().into_iter().map(|endpoint| endpoint.key).collect();
    assert_eq!(keys, [endpoint(1).key().clone(), endpoint(2).key().clone()]);
    assert!(bed.backends[2].served() > 0);
}

#[tokio::test]
async fn a_pool_set_to_be_warm_is_connected_before_the_first_call() {
    let bed = Bed::new(2).await;
    let client = bed.builder().pool(towline::pool::PoolBuilder::new().warm(2)).build().unwrap();
    let warm = async {
        while client.endpoints().iter().map(|endpoint| endpoint.pool.idle).sum::<usize>() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), warm).await.unwrap();
}

#[tokio::test]
async fn warm_connects_ahead_and_reports_what_failed() {
    let mut bed = Bed::new(2).await;
    let client = bed.client();
    client.warm(2).await.unwrap();
    assert!(client.endpoints().iter().all(|endpoint| endpoint.pool.idle == 2));
    bed.backends[1].stop().await;
    let error = client.warm(3).await.unwrap_err();
    assert_eq!(error.endpoint().unwrap().as_str(), bed.backends[1].address().to_string());
    assert_eq!(client.endpoints()[0].pool.idle, 3);
}

#[tokio::test]
async fn a_client_that_is_closed_before_its_first_call_says_so_at_once() {
    let bed = Bed::new(1).await;
    let client = bed.client();
    client.close().await;
    tokio::time::timeout(Duration::from_secs(5), client.warm(1)).await.unwrap().unwrap();
    assert_eq!(echo(&client, Call::new(request(0))).await.unwrap_err().kind(), towline::Kind::Closed);
}

#[test]
fn a_client_outlives_the_runtime_it_was_first_used_on() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let servers = tokio::runtime::Runtime::new().unwrap();
    let bed = servers.block_on(Bed::new(1));
    let (first, second) = (runtime(), runtime());
    // The balancer's task must live as long as the client.
    let executor = std::sync::Arc::new(TokioExecutor::on(servers.handle().clone()));
    let client: EchoClient = bed.builder().executor(executor).build().unwrap();
    first.block_on(async { echo(&client, Call::new(request(1))).await.unwrap() });
    drop(first);
    second.block_on(async { echo(&client, Call::new(request(2))).await.unwrap() });
}

#[tokio::test]
async fn after_the_last_clone_is_dropped_no_task_and_no_connection_is_left() {
    let bed = Bed::new(2).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let client = bed.client();
    for i in 0..10 {
        echo(&client, Call::new(request(i))).await.unwrap();
    }
    assert!(tasks() > before);
    drop(client);
    let gone = async {
        while tasks() > before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
}

const _: fn() = || {
    /// What users need of a type to keep it in a struct and share it.
    fn nameable<T: Clone + Send + Sync + std::fmt::Debug + 'static>() {}
    fn service<S: Service<Request, Response = Response, Error = Error, Future: Send>>() {}
    fn observer<O: Observer>(_: fn(&O, &Event<'_>)) {}
    nameable::<Client<Request, Response>>();
    service::<Client<Request, Response>>();
    observer::<std::sync::Arc<dyn Observer>>(|_, _| {});
};

// F9
#[tokio::test]
async fn a_backend_that_hangs_is_found_out_by_a_health_check() {
    let bed = Bed::new(1).await;
    let (every, limit) = (Duration::from_millis(50), Duration::from_millis(50));
    let client = bed.builder().health_check(every, limit, || request("probe")).build().unwrap();
    client.warm(1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(bed.backends[0].served() >= 2, "it answers its probes");
    assert_eq!(client.stats().live, 1);
    bed.backends[0].faults().stall(true);
    while client.stats().closed.by(CloseReason::Unhealthy) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn closing_a_client_cuts_off_calls_that_take_too_long() {
    let bed = Bed::new(1).await;
    let pool = || towline::pool::PoolBuilder::new().close_deadline(Duration::from_millis(100));
    for client in [bed.builder().pool(pool()), bed.builder().pool(pool()).multiplexed(ById)] {
        let client = client.build().unwrap();
        echo(&client, Call::new(request("first"))).await.unwrap();
        bed.backends[0].faults().stall(true);
        let caller = client.clone();
        let call = tokio::spawn(async move { echo(&caller, Call::new(request("stuck"))).await });
        while client.stats().in_use == 0 {
            tokio::task::yield_now().await;
        }
        client.close().await;
        let error = call.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.sent()), (Kind::Closed, Sent::Maybe), "{error}");
        bed.backends[0].faults().stall(false);
    }
}
