//! The models.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use towline_core::{CloseReason, Error, Kind, Phase, Rejected};

use super::id::Id;
use super::link::{Link, Rest};
use super::table::{After, Answer, Effects, Table};

type Calls = Table<u32, u32>;

/// A stream whose peer answers at once with what it was asked.
#[derive(Default)]
struct Engine {
    driver: Option<Waker>,
    over: bool,
}

struct Connection {
    link: Link<Calls, Engine>,
    abandoned: AtomicBool,
}

impl Engine {
    /// Takes what is queued and answers it, as the real engine does in two steps.
    fn exchange(link: &Link<Calls, Self>) {
        let mut batch = VecDeque::new();
        loop {
            {
                let mut table = link.table();
                if !table.has_queued() {
                    return;
                }
                table.take(64, tokio::time::Instant::now(), &mut batch);
            }
            let mut effects = Effects::default();
            for (id, request) in batch.drain(..) {
                link.table().complete(id, Ok(request), &mut effects);
            }
            effects.happen();
        }
    }

    fn run_once(&mut self, link: &Link<Calls, Self>) -> Rest {
        if self.driver.is_none() || self.over {
            return Rest::Driver;
        }
        Self::exchange(link);
        Rest::Nothing
    }

    fn poll_run(&mut self, link: &Link<Calls, Self>, cx: &mut Context<'_>) {
        self.driver = Some(cx.waker().clone());
        Self::exchange(link);
    }

    fn end(&mut self, link: &Link<Calls, Self>) {
        self.over = true;
        let mut effects = Effects::default();
        link.table().close(CloseReason::Peer, &Error::new(Kind::Closed, Phase::Read), &mut effects);
        effects.happen();
    }
}

impl Connection {
    fn new() -> Arc<Self> {
        let link = Link::new(Table::new(8, None, false), Engine::default());
        Arc::new(Self { link, abandoned: AtomicBool::new(false) })
    }

    /// The driver, until nobody is left; `breaks` ends the connection after its first run.
    fn drive(this: &Arc<Self>, breaks: bool) -> thread::JoinHandle<()> {
        let own = this.clone();
        thread::spawn(move || {
            block_on(std::future::poll_fn(|cx| {
                own.link.drive(cx.waker(), |engine| engine.poll_run(&own.link, cx));
                if breaks || own.abandoned.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
            }));
            own.link.drive(Waker::noop(), |engine| engine.end(&own.link));
        })
    }

    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.link.wake();
    }

    /// What `SharedFuture` does at its first poll.
    fn start(&self, request: u32, cx: &mut Context<'_>) -> Result<Id, Rejected<u32>> {
        let queued = self.link.table().enqueue(request, cx.waker())?;
        self.link.queued(queued.alone, queued.first, |engine| engine.run_once(&self.link));
        Ok(queued.id)
    }

    fn call(&self, request: u32) -> Result<u32, Rejected<u32>> {
        let mut id = None;
        block_on(std::future::poll_fn(|cx| {
            let id = match id {
                Some(id) => id,
                None => *id.insert(self.start(request, cx)?),
            };
            match self.link.table().poll_answer(id, cx.waker(), &mut After::default()) {
                Answer::Queued | Answer::Sent => Poll::Pending,
                Answer::Done(result) => Poll::Ready(result),
            }
        }))
    }

    /// A call that is dropped after its first poll.
    fn give_up(&self, request: u32) {
        let started = block_on(std::future::poll_fn(|cx| Poll::Ready(self.start(request, cx))));
        if let Ok(id) = started {
            let mut effects = Effects::default();
            if self.link.table().cancel(id, &mut effects).tell {
                self.link.wake();
            }
            effects.happen();
        }
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3)); // LOOM_MAX_PREEMPTIONS goes before.
    builder.check(check);
}

#[test]
fn two_callers_and_the_driver_lose_no_wake_up() {
    model(|| {
        let connection = Connection::new();
        let driver = Connection::drive(&connection, false);
        let other = connection.clone();
        let other = thread::spawn(move || assert_eq!(other.call(1).unwrap(), 1));
        assert_eq!(connection.call(2).unwrap(), 2);
        other.join().unwrap();
        assert_eq!(connection.link.table().in_flight(), 0);
        connection.abandon();
        driver.join().unwrap();
    });
}

#[test]
fn a_call_that_is_given_up_leaves_nothing_behind_and_holds_nobody_up() {
    model(|| {
        let connection = Connection::new();
        let driver = Connection::drive(&connection, false);
        let other = connection.clone();
        let other = thread::spawn(move || other.give_up(1));
        assert_eq!(connection.call(2).unwrap(), 2);
        other.join().unwrap();
        assert_eq!(connection.link.table().in_flight(), 0);
        connection.abandon();
        driver.join().unwrap();
    });
}

#[test]
fn when_the_connection_ends_no_caller_waits_for_ever() {
    model(|| {
        let connection = Connection::new();
        let driver = Connection::drive(&connection, true);
        let other = connection.clone();
        let other = thread::spawn(move || other.call(1).is_err_and(|rejected| rejected.error.kind() != Kind::Closed));
        let refused = connection.call(2).is_err_and(|rejected| rejected.error.kind() != Kind::Closed);
        assert!(!refused && !other.join().unwrap());
        driver.join().unwrap();
        assert_eq!(connection.link.table().in_flight(), 0);
    });
}
