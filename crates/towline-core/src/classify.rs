//! What a result means.

use std::time::Duration;

use crate::Error;

/// What a result says about the endpoint, and whether it is worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The call did what it should.
    Success,
    /// The call failed in a way that another attempt may not.
    Failure,
    /// The endpoint asks to be left alone, for this long if it says so.
    Pushback(Option<Duration>),
    /// The result says nothing about the endpoint and is not worth another attempt, like a wrong argument.
    Ignore,
}

/// Says of a result what it means. Balancer, outlier detection and retry agree through one classifier.
///
/// ```
/// use towline_core::{Classify, Error, Outcome};
///
/// /// A reply that carries a status of its own.
/// struct Reply { busy: bool }
///
/// #[derive(Clone)]
/// struct ByStatus;
///
/// impl Classify<Reply> for ByStatus {
///     fn classify(&self, result: Result<&Reply, &Error>) -> Outcome {
///         match result {
///             Ok(reply) if reply.busy => Outcome::Pushback(None),
///             Ok(_) => Outcome::Success,
///             Err(error) if error.kind().is_transient() => Outcome::Failure,
///             Err(_) => Outcome::Ignore,
///         }
///     }
/// }
/// assert_eq!(ByStatus.classify(Ok(&Reply { busy: true })), Outcome::Pushback(None));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot classify a response `{Res}`",
    note = "`ByError` classifies every response type by its `Result` alone"
)]
pub trait Classify<Res> {
    /// What `result` means.
    fn classify(&self, result: Result<&Res, &Error>) -> Outcome;
}

/// The default: every response is a success, every transient error a failure, other errors the caller's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByError;

impl<Res> Classify<Res> for ByError {
    fn classify(&self, result: Result<&Res, &Error>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(error) if error.kind().is_transient() => Outcome::Failure,
            Err(_) => Outcome::Ignore,
        }
    }
}
