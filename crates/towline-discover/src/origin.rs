//! What builders take: a source, any stream of changes, or a URL.

use std::any::Any;

use futures_core::Stream;
use towline_core::{BoxError, EndpointSet, Error};

use crate::{Refresh, Schemes, Source};

/// Where a client's endpoints come from, as its builder was told; opened when that builds.
pub enum Origin<S> {
    /// A stream of its own, and how to ask it for a look.
    Stream(S, Refresh),
    /// A source as text.
    Url(String),
}

impl<S> Origin<S> {
    /// With a stream of another type.
    pub fn map<T>(self, map: impl FnOnce(S) -> T) -> Origin<T> {
        match self {
            Self::Stream(stream, refresh) => Origin::Stream(map(stream), refresh),
            Self::Url(url) => Origin::Url(url),
        }
    }

    /// The stream. A URL is opened by `schemes`, and its source becomes one by `map`.
    ///
    /// # Errors
    ///
    /// Those of [`Schemes::open`].
    pub fn open(self, schemes: &Schemes, map: impl FnOnce(Source) -> S) -> Result<(S, Refresh), Error> {
        match self {
            Self::Stream(stream, refresh) => Ok((stream, refresh)),
            Self::Url(url) => schemes.open(&url).map(|source| {
                let refresh = source.refresh();
                (map(source), refresh)
            }),
        }
    }
}

impl<S> std::fmt::Debug for Origin<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stream(..) => f.write_str("Stream"),
            Self::Url(url) => f.debug_tuple("Url").field(url).finish(),
        }
    }
}

/// What a builder's `discover` takes: text that is a URL of [`Schemes`], or a stream, a [`Source`] among them, or a stream that is made of a
/// source together with the source's [`Refresh`]. `M` is inferred, and keeps them apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no source of endpoints",
    note = "give a URL as text, a `Source`, or a stream of results of `EndpointSet`, `Vec<Endpoint>` or tower's `Change<EndpointKey, Endpoint>`, \
            which is `Send + 'static`"
)]
pub trait IntoOrigin<M> {
    /// What its stream yields.
    type Update;
    /// What its stream fails with.
    type Error: Into<BoxError>;
    /// Its stream.
    type Stream: Stream<Item = Result<Self::Update, Self::Error>> + Send + 'static;

    /// What it is.
    fn into_origin(self) -> Origin<Self::Stream>;
}

/// Marks text among what [`IntoOrigin`] is implemented for.
#[derive(Debug)]
pub struct Text;

impl IntoOrigin<Text> for &str {
    type Update = EndpointSet;
    type Error = Error;
    type Stream = Source;

    fn into_origin(self) -> Origin<Source> {
        Origin::Url(self.to_owned())
    }
}

impl IntoOrigin<Text> for String {
    type Update = EndpointSet;
    type Error = Error;
    type Stream = Source;

    fn into_origin(self) -> Origin<Source> {
        Origin::Url(self)
    }
}

impl<S, U, E> IntoOrigin<(U, E)> for S
where
    S: Stream<Item = Result<U, E>> + Send + 'static,
    E: Into<BoxError>,
{
    type Update = U;
    type Error = E;
    type Stream = S;

    fn into_origin(self) -> Origin<S> {
        // Of all streams only ours can be asked for a look.
        let refresh = (&self as &dyn Any).downcast_ref::<Source>().map(Source::refresh);
        Origin::Stream(self, refresh.unwrap_or_default())
    }
}

/// A stream that is made of a source, and how to ask that for a look.
impl<S, U, E> IntoOrigin<(U, E, Refresh)> for (S, Refresh)
where
    S: Stream<Item = Result<U, E>> + Send + 'static,
    E: Into<BoxError>,
{
    type Update = U;
    type Error = E;
    type Stream = S;

    fn into_origin(self) -> Origin<S> {
        Origin::Stream(self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::set;
    use crate::{Resolving, System};

    fn origin<M, O: IntoOrigin<M>>(origin: O) -> Origin<O::Stream> {
        origin.into_origin()
    }

    #[test]
    fn text_is_a_url_and_a_source_can_still_be_asked_for_a_look() {
        assert!(matches!(origin("static:a:1"), Origin::Url(url) if url == "static:a:1"));
        assert!(matches!(origin(String::from("x")), Origin::Url(_)));
        let asked = Resolving::new(System::new("localhost", 1)).source().unwrap();
        assert!(matches!(origin(asked), Origin::Stream(_, refresh) if refresh.is_heard()));
        let stream = futures_util::stream::iter([Ok::<_, Error>(set("a:1"))]);
        assert!(matches!(origin(stream), Origin::Stream(_, refresh) if !refresh.is_heard()));
        let source = Resolving::new(System::new("localhost", 1)).source().unwrap();
        let refresh = source.refresh();
        let less = futures_util::StreamExt::take(source, 1);
        assert!(matches!(origin((less, refresh)), Origin::Stream(_, refresh) if refresh.is_heard()));
    }
}
