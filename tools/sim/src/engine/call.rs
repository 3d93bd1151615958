//! The calls under way.

use super::config::Config;
use crate::strategy::{LoadReport, Outcome, Pick, ServerId, Token};

/// A place in the table of calls, reused when both the client and the server are done with the call.
pub(crate) type CallId = u32;

pub(crate) type ClientId = u32;

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At its client, which has no connection yet.
    Waiting,
    /// On the way or at the server.
    Away,
    /// Nowhere: no answer will come.
    Gone,
}

pub(crate) struct Call {
    pub(crate) client: ClientId,
    pub(crate) server: ServerId,
    pub(crate) token: Token,
    /// When the client had it; its latency counts from here.
    pub(crate) born: u64,
    /// Tells it from earlier calls in the same place.
    pub(crate) serial: u64,
    /// The span of the measurement that it belongs to.
    pub(crate) span: Option<usize>,
    /// Nanoseconds of a healthy server's work.
    pub(crate) demand: f64,
    pub(crate) place: Place,
    /// The client is done with it.
    pub(crate) has_ended: bool,
    /// Those it was given to before, who could not be reached.
    pub(crate) asked: Vec<ServerId>,
    /// When it came to the server, and how many were there already.
    pub(crate) reached: u64,
    pub(crate) found: u32,
    /// What the answer says.
    pub(crate) outcome: Outcome,
    pub(crate) report: Option<LoadReport>,
}

impl Call {
    pub(crate) fn new(config: &Config, client: ClientId, now: u64, serial: u64, demand: f64, pick: &Pick) -> Self {
        Self {
            client,
            server: pick.server,
            token: pick.token,
            born: now,
            serial,
            span: config.span_of(now),
            demand,
            place: Place::Waiting,
            has_ended: false,
            asked: Vec::new(),
            reached: 0,
            found: 0,
            outcome: Outcome::Ok,
            report: None,
        }
    }
}
