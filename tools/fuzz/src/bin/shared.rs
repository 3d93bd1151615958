//! The state machine of shared connections: calls that are polled and dropped, a peer that answers in any order, twice,
//! never, or garbage, a stream that stalls and breaks, in any sequence.
//!
//! No call may get another's answer or hang once the connection has ended, the number of calls in flight is always what
//! it must be, and when the last handle is gone so is the task.

#![no_main]

use std::task::Poll;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tokio_test::task::{Spawn, spawn};
use tower_service::Service;
use towline_codec::{FrameCodec, FrameLimits};
use towline_core::Sent;
use towline_test::{Script, ScriptIo};
use towline_transport::{Correlate, Shared, SharedConfig, SharedFuture};

#[derive(Arbitrary, Debug)]
struct Input {
    pipelined: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Call,
    Poll(u8),
    Drop(u8),
    Drive,
    /// Answers one of the requests that came, perhaps again.
    Answer(u8),
    /// Answers the first bytes of one, and the rest later.
    AnswerInTwo(u8, u8),
    Garbage([u8; 3]),
    Accept(u16),
    AcceptAll,
    OneByteAtATime,
    End,
    Reset,
}

/// Messages are an id of eight bytes, and the caller's number.
struct ById;

impl Correlate<Bytes, Bytes> for ById {
    type Original = Bytes;

    fn tag(&self, request: &mut Bytes, id: u64) -> Bytes {
        let own = request.split_to(8);
        *request = [&id.to_be_bytes(), &request[..]].concat().into();
        own
    }

    fn id(&self, response: &Bytes) -> Option<u64> {
        response.first_chunk().map(|id| u64::from_be_bytes(*id))
    }

    fn restore(&self, response: &mut Bytes, own: Bytes) {
        *response = [&own[..], &response[8..]].concat().into();
    }
}

const LIMIT: usize = 4;

struct Peer {
    script: Script,
    pipelined: bool,
    read: usize,
    /// Whole frames of requests.
    requests: Vec<Vec<u8>>,
    /// In order: how many were answered.
    answered: usize,
    /// Bytes of an answer that was begun.
    rest: Vec<u8>,
    /// Its answers mean nothing any more.
    garbled: bool,
}

impl Peer {
    fn read(&mut self) {
        let written = self.script.written();
        while let Some((prefix, rest)) = written[self.read..].split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*prefix) as usize;
            let Some(payload) = rest.get(..len) else { break };
            self.requests.push([&prefix[..], payload].concat());
            self.read += 4 + len;
        }
    }

    fn answer(&mut self, which: u8, split: Option<u8>) {
        self.read();
        let rest = std::mem::take(&mut self.rest);
        self.script.deliver(rest);
        let answer = match self.pipelined {
            // In order and once: else nobody could tell.
            true => self.requests.get(self.answered),
            false => self.requests.get(usize::from(which) % self.requests.len().max(1)),
        };
        let Some(answer) = answer else { return };
        self.answered += 1;
        let at = split.map_or(answer.len(), |at| usize::from(at) % (answer.len() + 1));
        self.script.deliver(&answer[..at]);
        self.rest = answer[at..].to_vec();
    }
}

fn message(number: u32) -> Bytes {
    [&u64::from(number).to_le_bytes()[..], &number.to_be_bytes(), &vec![7; number as usize % 40]].concat().into()
}

type Driver = std::pin::Pin<Box<dyn Future<Output = ()>>>;
type Call = (u32, Spawn<SharedFuture<Bytes, Bytes>>);

/// Whether the call is over.
fn poll(call: &mut Call, garbled: bool) -> bool {
    match call.1.poll() {
        Poll::Pending => false,
        Poll::Ready(Ok(answer)) => {
            assert!(garbled || answer == message(call.0), "an answer reached the wrong caller");
            true
        }
        Poll::Ready(Err(rejected)) => {
            let back = rejected.request.as_ref();
            assert!(back.is_none_or(|back| *back == message(call.0) && rejected.error.sent() == Sent::Never));
            true
        }
    }
}

fuzz_target!(|input: Input| {
    towline_fuzz::within(2 << 20, || {
        let (io, script) = ScriptIo::new();
        let codec = FrameCodec::new(FrameLimits { decode: 1_024, encode: 1_024 });
        let config = SharedConfig::default().in_flight(LIMIT).expect("a limit");
        let (connection, driver): (Shared<Bytes, Bytes>, Driver) = match input.pipelined {
            true => {
                let (connection, driver) = Shared::pipelined(io, codec, config);
                (connection, Box::pin(driver))
            }
            false => {
                let (connection, driver) = Shared::multiplexed(io, codec, ById, config);
                (connection, Box::pin(driver))
            }
        };
        let mut driver = spawn(driver);
        let mut driven = driver.poll().is_pending();
        let mut peer = Peer {
            script: script.clone(),
            pipelined: input.pipelined,
            read: 0,
            requests: Vec::new(),
            answered: 0,
            rest: Vec::new(),
            garbled: false,
        };
        let (mut calls, mut number): (Vec<Call>, _) = (Vec::new(), 0);
        for step in input.steps.into_iter().take(200) {
            match step {
                Step::Call if calls.len() < 2 * LIMIT => {
                    number += 1;
                    calls.push((number, spawn(connection.clone().call(message(number)))));
                }
                Step::Call => {}
                Step::Poll(i) if !calls.is_empty() => {
                    let i = usize::from(i) % calls.len();
                    if poll(&mut calls[i], peer.garbled) {
                        drop(calls.remove(i));
                    }
                }
                Step::Drop(i) if !calls.is_empty() => drop(calls.remove(usize::from(i) % calls.len())),
                Step::Poll(_) | Step::Drop(_) => {}
                Step::Drive => {
                    while driven && driver.is_woken() {
                        driven = driver.poll().is_pending();
                    }
                }
                Step::Answer(which) => peer.answer(which, None),
                Step::AnswerInTwo(which, at) => peer.answer(which, Some(at)),
                Step::Garbage(bytes) => {
                    peer.garbled = true;
                    script.deliver(bytes);
                }
                Step::Accept(n) => script.accept(n.into()),
                Step::AcceptAll => script.accept_all(),
                Step::OneByteAtATime => script.one_byte_at_a_time(),
                Step::End => script.end(),
                Step::Reset => script.reset(),
            }
            assert!(connection.in_flight() <= calls.len().min(LIMIT), "an entry was left");
        }
        // A wake-up that was lost would leave somebody here for ever.
        script.reset();
        while driven && driver.is_woken() {
            driven = driver.poll().is_pending();
        }
        for mut call in calls {
            assert!(poll(&mut call, peer.garbled), "a call hangs");
        }
        assert_eq!(connection.in_flight(), 0);
        drop(connection);
        assert!(!driven || driver.poll().is_ready(), "the task lives on");
    });
});
