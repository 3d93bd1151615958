//! Test doubles that are stricter than the real thing.
//!
//! - [`StrictMock`]: a service that reserves in `poll_ready`, releases on drop, panics on a `call` without readiness,
//!   and counts, so that hoarding and over-admission show.
//! - [`ScriptIo`]: a stream whose peer is a script: accept so many bytes, deliver these, end, reset.
//! - [`ScriptedConnection`] and [`ScriptedMaker`]: connections for a pool, and what makes them, with every fate in the
//!   test's hands.
//! - [`cancel_at_every_poll`]: drops a future at its first, second, third … poll and checks what is left each time.
//!
//! None of them needs a socket or real time; all work on tokio's paused clock.

mod cancel;
mod connection;
mod script_io;
mod strict;

pub use self::cancel::{cancel_at_every_poll, poll_times, settle};
pub use self::connection::{DialGate, ScriptedConnection, ScriptedFuture, ScriptedMaker, Wire};
pub use self::script_io::{Script, ScriptIo};
pub use self::strict::{StrictFuture, StrictHandle, StrictMock};
