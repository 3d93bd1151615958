//! When a call has ended, and how.

use towline_core::{ByError, Classify, Error, LoadReport};

use crate::load::Flight;

/// Says when a call to an endpoint has ended and what that means for it. [`AtResponse`] is right where a response is
/// there as a whole; where its body comes later, as with HTTP, the call ends with the body, see
/// `AtBodyEnd` (feature `http`).
///
/// ```
/// use towline_balance::{Flight, Track};
/// use towline_core::{Error, Outcome};
///
/// /// A reply that is read after it has come.
/// struct Reply { flight: Option<Flight> }
///
/// impl Drop for Reply {
///     fn drop(&mut self) {
///         if let Some(flight) = self.flight.take() {
///             flight.end(Outcome::Success);
///         }
///     }
/// }
///
/// #[derive(Clone)]
/// struct WhenRead;
///
/// impl Track<Reply> for WhenRead {
///     type Response = Reply;
///     fn track(&self, flight: Flight, result: Result<Reply, Error>) -> Result<Reply, Error> {
///         match result {
///             Ok(reply) => Ok(Reply { flight: Some(flight), ..reply }),
///             Err(error) => {
///                 flight.end(Outcome::Failure);
///                 Err(error)
///             }
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say when a call with the response `{Res}` has ended",
    note = "`AtResponse` works with every response"
)]
pub trait Track<Res>: Clone {
    /// What the caller gets.
    type Response;

    /// The call has come back with `result`. The endpoint is taken for busy until `flight` is ended or dropped; dropped
    /// means given up by the caller.
    ///
    /// # Errors
    ///
    /// That of `result`.
    fn track(&self, flight: Flight, result: Result<Res, Error>) -> Result<Self::Response, Error>;
}

/// Calls end when the response is there, and are what `C` says of them. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtResponse<C = ByError>(C);

impl<C> AtResponse<C> {
    /// Judges responses by `classify`.
    pub const fn new(classify: C) -> Self {
        Self(classify)
    }
}

impl<C: Classify<Res> + Clone, Res> Track<Res> for AtResponse<C> {
    type Response = Res;

    fn track(&self, flight: Flight, result: Result<Res, Error>) -> Result<Res, Error> {
        flight.end(self.0.classify(result.as_ref()));
        result
    }
}

/// As `T`, and reads what the server says about itself from the response. Where the connection knows that, as under
/// towline's frame header, [`BalanceBuilder::reports`](crate::BalanceBuilder::reports) is enough.
#[derive(Clone, Copy, Debug)]
pub struct Reporting<F, T = AtResponse> {
    read: F,
    inner: T,
}

impl<F, T> Reporting<F, T> {
    /// Reads reports by `read`, and ends calls as `inner` does.
    pub const fn new(read: F, inner: T) -> Self {
        Self { read, inner }
    }
}

impl<F, T, Res> Track<Res> for Reporting<F, T>
where
    F: Fn(&Res) -> Option<LoadReport> + Clone,
    T: Track<Res>,
{
    type Response = T::Response;

    fn track(&self, flight: Flight, result: Result<Res, Error>) -> Result<T::Response, Error> {
        if let Some(report) = result.as_ref().ok().and_then(&self.read) {
            flight.report(report);
        }
        self.inner.track(flight, result)
    }
}
