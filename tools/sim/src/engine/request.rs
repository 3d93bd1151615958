//! A call as its caller sees it: whatever attempts are made of it.

use super::call::{CallId, ClientId};
use crate::strategy::{Key, Outcome, ServerId};

/// A place in the table of requests, reused when the caller has its answer.
pub(crate) type RequestId = u32;

pub(crate) struct Request {
    pub(crate) client: ClientId,
    /// When the client had it; its latency counts from here.
    pub(crate) born: u64,
    /// Tells it from earlier requests in the same place.
    pub(crate) serial: u64,
    /// The span of the measurement that it belongs to.
    pub(crate) span: Option<usize>,
    /// Nanoseconds of a healthy server's work.
    pub(crate) demand: f64,
    pub(crate) key: Option<Key>,
    /// The call of the tier before that waits for it.
    pub(crate) parent: Option<CallId>,
    /// When its caller does not want it any more.
    pub(crate) deadline: Option<u64>,
    /// After how long it is late.
    pub(crate) hedge_after: Option<u64>,
    /// Attempts so far, those included that found nowhere to go.
    pub(crate) attempts: u32,
    /// How the last attempt failed.
    pub(crate) failed: Option<Outcome>,
    /// Attempts under way.
    pub(crate) legs: [Option<CallId>; 2],
    /// Where those went that have failed, and the one that is late.
    pub(crate) tried: Vec<ServerId>,
}
