//! A server without manners.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Kind, token};

/// What a peer does wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// Answers come up to this late.
    delay: Duration,
    /// Of 256 answers so many come twice.
    duplicates: u8,
    /// Reads so many bytes and hangs up.
    cut_reading: Option<usize>,
    /// Writes so many bytes and hangs up.
    cut_writing: Option<usize>,
}

impl Manners {
    /// With `threads` time is real, and short.
    pub(crate) fn random(kind: Kind, threads: bool, rng: &mut Rng) -> Self {
        let by_id = matches!(kind, Kind::Multiplexed | Kind::Header);
        let offset = |rng: &mut Rng| if rng.bool() { rng.usize(..300) } else { rng.usize(..100_000) };
        Self {
            delay: Duration::from_micros(if rng.bool() { 0 } else { rng.u64(..if threads { 100 } else { 10_000 }) }),
            // Nobody could tell a duplicate from the next answer without an id.
            duplicates: if by_id { rng.u8(..20) } else { 0 },
            cut_reading: (rng.u8(..) < 100).then(|| offset(rng)),
            cut_writing: (rng.u8(..) < 100).then(|| offset(rng)),
        }
    }
}

/// What a peer saw.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The callers' own parts of all requests that came whole.
    pub(crate) requests: HashSet<Bytes>,
    pub(crate) cut: bool,
}

pub(crate) struct Peer {
    kind: Kind,
    io: DuplexStream,
    manners: Manners,
    rng: Rng,
}

impl Peer {
    pub(crate) fn new(kind: Kind, io: DuplexStream, manners: Manners, rng: Rng) -> Self {
        Self { kind, io, manners, rng }
    }

    pub(crate) async fn run(self) -> Heard {
        let Self { kind, io, manners, mut rng } = self;
        let (reading, writing) = tokio::io::split(io);
        let (answers, due) = mpsc::channel(4_096);
        let writer = tokio::spawn(write(writing, due, manners.cut_writing, kind != Kind::Pipelined));
        let mut reader = Reader { io: reading, left: manners.cut_reading.unwrap_or(usize::MAX) };
        let mut heard = Heard::default();
        while let Some((head, message)) = reader.request(kind).await {
            let Some(message) = message else { continue }; // Cancelled: it may be answered all the same.
            heard.requests.insert(Bytes::copy_from_slice(token(&message)));
            let mut answer = head;
            answer.extend_from_slice(&(message.len() as u32).to_be_bytes());
            answer.extend_from_slice(&message);
            let times = if rng.u8(..) < manners.duplicates { 2 } else { 1 };
            for _ in 0..times {
                let at = Instant::now() + manners.delay.mul_f64(rng.f64());
                if answers.send((at, answer.clone())).await.is_err() {
                    break;
                }
            }
            if writer.is_finished() {
                break;
            }
        }
        heard.cut = reader.left == 0;
        drop((reader, answers));
        if heard.cut {
            writer.abort();
        }
        heard.cut |= writer.await.unwrap_or(true);
        heard
    }
}

struct Reader {
    io: ReadHalf<DuplexStream>,
    /// Bytes until it hangs up.
    left: usize,
}

impl Reader {
    async fn exactly(&mut self, n: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; n.min(self.left)];
        self.io.read_exact(&mut bytes).await.ok()?;
        self.left -= bytes.len();
        (bytes.len() == n).then_some(bytes)
    }

    /// The head of the answer, and the message unless it is a cancellation.
    async fn request(&mut self, kind: Kind) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let head = if kind == Kind::Header { self.exactly(16).await? } else { Vec::new() };
        if head.get(1).is_some_and(|flags| *flags == 0x04) {
            return Some((head, None));
        }
        let prefix = self.exactly(4).await?;
        let len = u32::from_be_bytes(prefix.try_into().ok()?) as usize;
        Some((head, Some(self.exactly(len).await?)))
    }
}

/// Writes answers when they are due, by their time where order does not matter; whether it hung up.
async fn write(
    mut io: WriteHalf<DuplexStream>,
    mut due: mpsc::Receiver<(Instant, Vec<u8>)>,
    cut: Option<usize>,
    any_order: bool,
) -> bool {
    let (mut left, mut waiting, mut open) = (cut.unwrap_or(usize::MAX), Vec::new(), true);
    while open || !waiting.is_empty() {
        while let Ok(answer) = due.try_recv() {
            waiting.push(answer);
        }
        let first = if any_order {
            (0..waiting.len()).min_by_key(|i| waiting[*i].0)
        } else {
            (!waiting.is_empty()).then_some(0)
        };
        let Some(first) = first else {
            match due.recv().await {
                Some(answer) => waiting.push(answer),
                None => open = false,
            }
            continue;
        };
        let (at, answer) = waiting.remove(first);
        sleep_until(at).await;
        let n = answer.len().min(left);
        if io.write_all(&answer[..n]).await.is_err() {
            return false;
        }
        left -= n;
        if left == 0 {
            let _ = io.shutdown().await;
            return true;
        }
    }
    false
}
