//! The backend answers clients that are not ours: a blocking socket, one request at a time.

use std::io::{Read, Write};
use std::net::TcpStream;

use prost::Message;
use towline_proto::{Request, Response};
use towline_testbed::Backend;

use super::request;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_client_that_sends_one_request_at_a_time_is_answered() {
    let backend = Backend::start("127.0.0.1:0", None).await.unwrap();
    let address = backend.address();
    let client = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        for i in 0..100 {
            let sent: Request = request(i);
            let body = sent.encode_to_vec();
            stream.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
            stream.write_all(&body).unwrap();
            let mut prefix = [0; 4];
            stream.read_exact(&mut prefix).unwrap();
            let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
            stream.read_exact(&mut body).unwrap();
            let answer = Response::decode(&body[..]).unwrap();
            assert_eq!((answer.id, answer.payload), (sent.id, sent.payload));
        }
    });
    client.await.unwrap();
    assert_eq!((backend.served(), backend.connected()), (100, 1));
}
