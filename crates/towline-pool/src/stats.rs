//! What a pool has and what it did.

/// A snapshot of one endpoint's pool. The first four are what is, the others count since the pool was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that hold a connection, or a share of one.
    pub in_use: usize,
    /// Connections that nobody uses.
    pub idle: usize,
    /// Dials in progress.
    pub dialling: usize,
    /// Callers that wait for a connection.
    pub waiting: usize,
    /// Open connections, used or not.
    pub live: usize,
    /// Connections that were opened.
    pub opened: u64,
    /// Hand-outs of a connection that had been used before.
    pub reused: u64,
    /// Connections that were closed.
    pub closed: u64,
    /// Dials that failed.
    pub dials_failed: u64,
}
