//! The floor: one mutex over the idle connections and the queue of waiters. First in, first out, a returned connection
//! goes to the oldest waiter, and a waiter that leaves passes on what it was given: the least that can be called a pool.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use anyhow::Result;

use super::Pool;
use crate::measure::lock;

pub(crate) struct Locked<C>(Arc<Mutex<State<C>>>);

struct State<C> {
    idle: Vec<C>,
    /// The oldest first.
    waiters: VecDeque<(u64, Waker)>,
    /// For waiters that have not come for it yet.
    granted: Vec<(u64, C)>,
    next: u64,
}

impl<C> Locked<C> {
    pub(crate) fn new(connections: Vec<C>) -> Self {
        let granted = Vec::with_capacity(connections.len());
        Self(Arc::new(Mutex::new(State { idle: connections, waiters: VecDeque::new(), granted, next: 0 })))
    }
}

impl<C> State<C> {
    /// Whom to wake, once the lock is released.
    fn put(&mut self, connection: C) -> Option<Waker> {
        match self.waiters.pop_front() {
            Some((ticket, waker)) => {
                self.granted.push((ticket, connection));
                Some(waker)
            }
            None => {
                self.idle.push(connection);
                None
            }
        }
    }

    fn granted(&mut self, ticket: u64) -> Option<C> {
        let index = self.granted.iter().position(|(of, _)| *of == ticket)?;
        Some(self.granted.swap_remove(index).1)
    }

    fn wait(&mut self, waker: &Waker) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.waiters.push_back((ticket, waker.clone()));
        ticket
    }
}

struct Acquire<'a, C> {
    pool: &'a Locked<C>,
    ticket: Option<u64>,
}

impl<'a, C> Future for Acquire<'a, C> {
    type Output = Result<Loan<'a, C>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let pool = self.pool;
        let mut state = lock(&pool.0);
        let connection = match self.ticket {
            None => state.idle.pop(),
            Some(ticket) => state.granted(ticket),
        };
        match (connection, self.ticket) {
            (Some(connection), _) => {
                drop(state);
                self.ticket = None;
                return Poll::Ready(Ok(Loan { pool, connection: Some(connection) }));
            }
            (None, None) => self.ticket = Some(state.wait(cx.waker())),
            (None, Some(ticket)) => {
                if let Some((_, waker)) = state.waiters.iter_mut().find(|(of, _)| *of == ticket) {
                    waker.clone_from(cx.waker());
                }
            }
        }
        Poll::Pending
    }
}

impl<C> Drop for Acquire<'_, C> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = lock(&self.pool.0);
        let next = match state.granted(ticket) {
            Some(connection) => state.put(connection),
            None => {
                state.waiters.retain(|(of, _)| *of != ticket);
                None
            }
        };
        drop(state);
        next.into_iter().for_each(Waker::wake);
    }
}

pub(crate) struct Loan<'a, C> {
    pool: &'a Locked<C>,
    /// Present until dropped.
    connection: Option<C>,
}

impl<C> Drop for Loan<'_, C> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let next = lock(&self.pool.0).put(connection);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

impl<C> Deref for Loan<'_, C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.connection.as_ref().expect("present until dropped")
    }
}

impl<C> DerefMut for Loan<'_, C> {
    fn deref_mut(&mut self) -> &mut C {
        self.connection.as_mut().expect("present until dropped")
    }
}

impl<C: Send + 'static> Pool for Locked<C> {
    type Loan<'a> = Loan<'a, C>;

    async fn acquire(&mut self) -> Result<Loan<'_, C>> {
        let free = lock(&self.0).idle.pop();
        match free {
            Some(connection) => Ok(Loan { pool: self, connection: Some(connection) }),
            // It looks again when it joins the queue.
            None => Acquire { pool: self, ticket: None }.await,
        }
    }
}

impl<C> Clone for Locked<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
