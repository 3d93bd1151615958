//! A program that calls by tonic, before and after its channel was exchanged: [`before`] and [`after`] are all that
//! differs.
//!
//! Everything happens in this process, first over tonic's channel and then over towline's, each with three fresh
//! servers: for 2.5 s 40 tasks send unary calls through the generated client, each one every 25 ms unless the one
//! before is still on. After 0.8 s a server becomes slow, after 1.6 s another is killed, with calls in flight on it.
//! Every answer is checked against its request. Calls may fail over tonic's channel, which repeats nothing and takes
//! all servers for equal, but not over towline's.

use std::process::ExitCode;

use http_body::Body as HttpBody;
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::transport::{self, Endpoint};
use towline_examples::{BoxError, conclude, init_tracing};
use towline_examples_drop_in::{comparison, endure, three_servers};
use towline_http::Channel;
use towline_proto::Request;
use towline_proto_grpc::Backend;
use towline_proto_grpc::echo_client::EchoClient;

fn before(servers: &[String]) -> Result<EchoClient<transport::Channel>, BoxError> {
    let endpoints: Vec<_> = servers.iter().cloned().map(Endpoint::from_shared).collect::<Result<_, _>>()?;
    let channel = transport::Channel::balance_list(endpoints.into_iter());
    Ok(EchoClient::new(channel))
}

fn after(servers: &[String]) -> Result<EchoClient<Channel<Body>>, BoxError> {
    let channel =
        Channel::grpc().endpoints(servers).idempotent_if(|head| head.uri.path().ends_with("/Unary")).build()?;
    Ok(EchoClient::new(channel))
}

#[tokio::main]
async fn main() -> ExitCode {
    init_tracing();
    conclude(run().await)
}

async fn run() -> Result<(), BoxError> {
    let before = endure("before: tonic", three_servers::<Backend>()?, before, call).await?;
    let after = endure("after: towline", three_servers::<Backend>()?, after, call).await?;
    println!("{}", comparison(&[&before, &after]));
    after.without_failure()
}

/// Sends a call, whatever carries it, and checks the answer.
async fn call<T>(mut client: EchoClient<T>, number: u64) -> Result<(), BoxError>
where
    T: GrpcService<Body, Error: Into<BoxError>>,
    T::ResponseBody: HttpBody<Data = bytes::Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let request = Request { id: number.to_string(), payload: format!("payload of {number}").into() };
    let failed = |status: Status| format!("{:?}: {}", status.code(), status.message());
    let response = client.unary(request.clone()).await.map_err(failed)?.into_inner();
    if (&response.id, &response.payload) != (&request.id, &request.payload) {
        return Err(format!("got the answer of {}", response.id).into());
    }
    Ok(())
}
