//! The calls under way.

use crate::strategy::{LoadReport, Outcome, ServerId, Token};

/// A place in the table of calls, reused when both the client and the server are done with the call.
pub(crate) type CallId = u32;

pub(crate) type ClientId = u32;

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
    /// When it came to the server, and how many were there already.
    pub(crate) reached: u64,
    pub(crate) found: u32,
    /// What the answer says.
    pub(crate) outcome: Outcome,
    pub(crate) report: Option<LoadReport>,
}
