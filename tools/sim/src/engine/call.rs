//! The attempts under way, which are calls to the servers.

use super::request::{Request, RequestId};
use crate::strategy::{Key, LoadReport, Outcome, Pick, ServerId, Token};

/// A place in the table of calls, reused when both the client and the server are done with the call.
pub(crate) type CallId = u32;

/// Clients of the first tier, and then the servers that are clients of the next.
pub(crate) type ClientId = u32;

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At its client, which has no connection yet.
    Waiting,
    /// On the way to the server.
    Sent,
    /// In the server's queue.
    Queued,
    /// At work in one of its slots.
    Working,
    /// At the server otherwise, or on the way back.
    Away,
    /// Nowhere: no answer will come.
    Gone,
}

pub(crate) struct Call {
    /// Of its client; when `has_ended` there may be another in that place.
    pub(crate) request: RequestId,
    pub(crate) client: ClientId,
    pub(crate) server: ServerId,
    pub(crate) token: Token,
    /// When this attempt began, the how manieth it is, and whether it was beside another.
    pub(crate) begun: u64,
    pub(crate) number: u32,
    pub(crate) is_hedge: bool,
    /// How the one before it failed, if that is why there is this one.
    pub(crate) after: Option<Outcome>,
    /// Tells it from earlier calls in the same place.
    pub(crate) serial: u64,
    pub(crate) deadline: Option<u64>,
    /// Nanoseconds of a healthy server's work.
    pub(crate) demand: f64,
    pub(crate) key: Option<Key>,
    pub(crate) place: Place,
    /// The client is done with it.
    pub(crate) has_ended: bool,
    /// Those it was given to before, who could not be reached.
    pub(crate) asked: Vec<ServerId>,
    /// When it came to the server, and how many were there already.
    pub(crate) reached: u64,
    pub(crate) found: u32,
    /// The server's pauses that its work has taken into account.
    pub(crate) paused: u64,
    /// What the answer says.
    pub(crate) outcome: Outcome,
    pub(crate) report: Option<LoadReport>,
}

impl Call {
    /// The next attempt of a request.
    pub(crate) fn new(request: &Request, id: RequestId, now: u64, serial: u64, pick: &Pick) -> Self {
        Self {
            request: id,
            client: request.client,
            server: pick.server,
            token: pick.token,
            begun: now,
            number: request.attempts - 1,
            is_hedge: request.legs != [None; 2],
            after: request.failed,
            serial,
            deadline: request.deadline,
            demand: request.demand,
            key: request.key,
            place: Place::Waiting,
            has_ended: false,
            asked: Vec::new(),
            reached: 0,
            found: 0,
            paused: 0,
            outcome: Outcome::Ok,
            report: None,
        }
    }
}
