//! Which answer belongs to which request.

/// Finds the correlation id in messages that have one.
///
/// Callers may use whatever ids they like, the same ones at the same time: for the trip over the wire each request
/// gets an id of ours, and the answer gets the caller's back. Ours are never used twice on a connection, so a late
/// answer to a call that was given up can never be taken for another's.
///
/// ```
/// use towline_transport::Correlate;
///
/// struct Message { id: String, body: String }
///
/// #[derive(Clone)]
/// struct ById;
///
/// impl Correlate<Message, Message> for ById {
///     type Original = String;
///     fn tag(&self, request: &mut Message, id: u64) -> String {
///         std::mem::replace(&mut request.id, id.to_string())
///     }
///     fn id(&self, response: &Message) -> Option<u64> {
///         response.id.parse().ok()
///     }
///     fn restore(&self, response: &mut Message, original: String) {
///         response.id = original;
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not find the correlation id of `{Req}` and `{Res}`",
    note = "implement `Correlate<{Req}, {Res}>`, or use exclusive connections, which need no id"
)]
pub trait Correlate<Req, Res>: Send + 'static {
    /// What the caller had in place of our id.
    type Original: Send + 'static;

    /// Puts `id` into the request and returns what was there.
    fn tag(&self, request: &mut Req, id: u64) -> Self::Original;

    /// Our id in a response; `None` when it has none, which discards the response.
    fn id(&self, response: &Res) -> Option<u64>;

    /// Puts the caller's own id back.
    fn restore(&self, response: &mut Res, original: Self::Original);

    /// A request that every server answers and that changes nothing, for [pings](crate::SharedConfig::ping); its id is
    /// ours. None by default, which turns them off.
    fn ping(&self) -> Option<Req> {
        None
    }
}
