//! What the stack tells `tracing`.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;
use towline::Call;
use tracing_subscriber::fmt::MakeWriter;

use super::{Bed, echo, request};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_call_is_a_span_and_dial_reuse_close_retry_and_move_are_events() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .finish();
    // While there is only one, tracing asks the subscriber of the thread that meets an event first: with other tests beside
    // this one that is often nobody, and the event is lost for all.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let subscribed = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
    let mut bed = Bed::new(2).await;
    let client = bed.client();
    let call = |i: u32| Call::new(request(i)).with_session("alice").idempotent().with_report();
    let first = call(0);
    let report = first.context().report().cloned().unwrap();
    echo(&client, first).await.unwrap();
    echo(&client, call(1)).await.unwrap();
    let home = report.endpoint().unwrap().to_string();
    let index = bed.backends.iter().position(|backend| backend.address().to_string() == home).unwrap();
    bed.backends[index].faults().hang_up(true);
    echo(&client, call(2)).await.unwrap();
    bed.backends[index].stop().await;
    sleep(Duration::from_millis(100)).await;
    drop(client);
    sleep(Duration::from_millis(20)).await;
    drop(subscribed);

    let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for expected in [
        "connection opened endpoint=".to_owned(),
        "connection reused endpoint=".to_owned(),
        "reason=peer".to_owned(),
        format!("retrying endpoint=\"{home}\" attempt=0"),
        format!("session's call went elsewhere session=alice home=\"{home}\""),
        "call{session=alice".to_owned(),
    ] {
        assert!(said.contains(&expected), "no {expected:?} in\n{said}");
    }
}
