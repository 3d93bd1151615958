//! Asking a silent peer whether it is alive.

use std::task::{Context, Poll};

use tokio::time::Instant;
use towline_core::sync::after;

use super::config::Ping;
use crate::alarm::Alarm;

#[derive(Debug)]
pub(super) struct Pings {
    config: Option<Ping>,
    alarm: Alarm,
    heard: Instant,
    /// A ping is unanswered since.
    asked: Option<Instant>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Due {
    /// A ping.
    Ask,
    /// The end: the peer has not answered.
    Dead,
}

impl Pings {
    pub(super) fn new(config: Option<Ping>) -> Self {
        Self { config, alarm: Alarm::default(), heard: Instant::now(), asked: None }
    }

    /// The peer said something, whatever it was.
    pub(super) fn heard(&mut self) {
        if self.config.is_some() {
            (self.heard, self.asked) = (Instant::now(), None);
        }
    }

    /// A ping was sent; or never will be, because the dialect has none.
    pub(super) fn asked(&mut self, asked: bool) {
        if asked {
            self.asked = Some(Instant::now());
        } else {
            self.config = None;
        }
    }

    /// What is due now; wakes the task when something may be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        let Some(Ping { every, timeout }) = self.config else { return Poll::Pending };
        loop {
            let (due, at) = match self.asked {
                Some(asked) => (Due::Dead, after(asked, timeout)),
                None => (Due::Ask, after(self.heard, every)),
            };
            if Instant::now() >= at {
                return Poll::Ready(due);
            }
            // Set anew only when it rings: it may ring early, because the peer was heard since, but never late,
            // as long as a ping's timeout sets it anew.
            if !self.alarm.is_set() || self.asked.is_some() {
                self.alarm.set(at);
            }
            if self.alarm.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
