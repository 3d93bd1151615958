//! Sending a request again.

/// A request that can be sent more than once.
///
/// Implemented for everything that is `Clone`. A request whose body is consumed by sending returns `None` once
/// that has begun; the retry layer counts and reports such calls instead of silently giving up on them.
///
/// ```
/// use towline_core::Replay;
///
/// assert_eq!("ping".replay(), Some("ping"));
///
/// struct Upload { bytes_sent: usize }
/// impl Replay for Upload {
///     fn replay(&self) -> Option<Self> {
///         (self.bytes_sent == 0).then_some(Upload { bytes_sent: 0 })
///     }
/// }
/// assert!(Upload { bytes_sent: 1 }.replay().is_none());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent a second time",
    note = "derive `Clone`, implement `Replay`, or take the retry layer out of the stack"
)]
pub trait Replay: Sized {
    /// Another copy of this request, or `None` when that is no longer possible.
    fn replay(&self) -> Option<Self>;

    /// Whether this copy, which was kept while another was sent, can still be sent itself. Copies that share a body lose it
    /// together.
    fn is_replayable(&self) -> bool {
        true
    }

    /// This copy is about to be sent: whatever of the attempt before is still on its way, is not to be sent on. Called when that is
    /// decided, before the pause.
    fn reclaim(&self) {}
}

impl<T: Clone> Replay for T {
    fn replay(&self) -> Option<Self> {
        Some(self.clone())
    }
}
