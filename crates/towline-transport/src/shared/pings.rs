//! Asking a silent peer whether it is alive.

use std::task::{Context, Poll};

use tokio::time::Instant;
use towline_core::sync::after;

use super::config::Ping;
use crate::alarm::Alarm;

/// One pointer for the many connections that do not ping.
#[derive(Debug)]
pub(super) struct Pings(Option<Box<Watch>>);

#[derive(Debug)]
struct Watch {
    config: Ping,
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
        Self(config.map(|config| {
            let (alarm, heard) = (Alarm::default(), Instant::now());
            Box::new(Watch { config, alarm, heard, asked: None })
        }))
    }

    /// The peer said something, whatever it was.
    pub(super) fn heard(&mut self) {
        let Some(watch) = &mut self.0 else { return };
        watch.heard = Instant::now();
        if watch.asked.take().is_some() {
            watch.alarm.put_away();
        }
    }

    /// A ping was sent; or never will be, because the dialect has none.
    pub(super) fn asked(&mut self, asked: bool) {
        match &mut self.0 {
            Some(watch) if asked => {
                watch.asked = Some(Instant::now());
                watch.alarm.put_away();
            }
            _ => self.0 = None,
        }
    }

    /// What is due now; wakes the task when something may be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        let Some(watch) = &mut self.0 else { return Poll::Pending };
        loop {
            let (due, at) = match watch.asked {
                Some(asked) => (Due::Dead, after(asked, watch.config.timeout)),
                None => (Due::Ask, after(watch.heard, watch.config.every)),
            };
            if Instant::now() >= at {
                return Poll::Ready(due);
            }
            // An alarm that is set may ring early, because the peer was heard since, and is then set anew: so it need
            // not be whenever the peer is heard.
            if !watch.alarm.is_set() {
                watch.alarm.set(at);
            }
            if watch.alarm.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
