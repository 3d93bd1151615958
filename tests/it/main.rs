//! The composed stack over real TLS sockets on loopback.

mod attempts;
mod bad_input;
mod cancel;
mod channel;
mod channel_beside;
mod channel_body;
mod channel_grpc;
mod channel_health;
mod channel_http;
mod channel_real;
mod channel_wrong;
mod channels_of_tonic;
mod compose;
mod discover;
mod discover_dns;
mod failover;
mod hyper;
mod kinds;
mod plain_client;
mod reports;
mod servers;
mod sessions;
mod tls;
mod tls_exclusive;
mod trace;

use std::time::Duration;

use towline::tls::TlsConfig;
use towline::{Call, Client, ClientBuilder, Error};
use towline_proto::{Request, Response};
use towline_testbed::{Authority, Backend};

type EchoClient = Client<Request, Response>;

/// TLS backends on loopback, and the authority that vouches for them.
struct Bed {
    authority: Authority,
    backends: Vec<Backend>,
}

impl Bed {
    async fn new(backends: usize) -> Self {
        let authority = Authority::new("tests");
        let mut bed = Self { authority, backends: Vec::new() };
        for _ in 0..backends {
            let certified = bed.authority.certify(&["127.0.0.1"]);
            bed.backends.push(Backend::start("127.0.0.1:0", Some(&certified)).await.unwrap());
        }
        bed
    }

    /// A client that trusts the authority, with no endpoints yet.
    fn bare(&self) -> ClientBuilder<Request, Response> {
        let tls = TlsConfig::builder().root_pem(self.authority.pem()).build().unwrap();
        Client::builder().tls(tls).deadline(Duration::from_secs(10))
    }

    fn builder(&self) -> ClientBuilder<Request, Response> {
        self.bare().endpoints(self.backends.iter().map(|backend| backend.address().to_string()))
    }

    fn client(&self) -> EchoClient {
        self.builder().build().unwrap()
    }
}

fn request(id: impl ToString) -> Request {
    let id = id.to_string();
    Request { payload: format!("payload of {id}").into(), id }
}

/// Sends a call and checks that the answer is its own.
async fn echo(client: &EchoClient, call: Call<Request>) -> Result<(), Error> {
    let sent = call.message().clone();
    let response = client.send(call).await?;
    assert_eq!((response.id, response.payload), (sent.id, sent.payload));
    Ok(())
}
