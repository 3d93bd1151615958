//! A balancer without a worker: `Clone`, no `Buffer`, no lock and no task hop between a caller and its endpoint.
//!
//! A [`Driver`] owns discovery. For every change it publishes an immutable snapshot: the endpoints, and a picker
//! built for just these. A call reads the snapshot, asks the picker for candidates in order of preference, takes the
//! first that is eligible, and waits for *its* connection only; one dead endpoint blocks nobody.
//!
//! ```text
//!   discovery ──▶ Driver ──publishes──▶ snapshot ◀──reads── call, call, call …
//!                   └─ makes endpoints (a pool, usually)        └─ order() ▸ lend() ▸ call
//! ```
//!
//! - **Eligible** is an endpoint that is not [`Room::Down`](towline_core::Room::Down), at no limit of its [`Circuit`], not
//!   ejected as an [outlier](Outliers), not [tried](towline_core::CallContext::tried) before by the call, not on probation,
//!   and not in [slow start](SlowStart). When nobody is, the conditions are given up, the last one first, but for the limits;
//!   [`PanicMode`] can have it otherwise.
//! - **No request is consumed until an endpoint lends**: when one cannot, the call goes on to the next candidate; when the
//!   first has no room, two are asked, and whichever lends first gets the call.
//! - **When nobody can be reached** the call fails at once with what each endpoint said, or [waits](WhenUnavailable); the
//!   endpoints recover by themselves. Before discovery has yielded anything a call waits for it.
//! - **Discovery that fails or ends** leaves the last good set; an endpoint that is removed gets no new calls, and
//!   those in flight finish. Attributes change in place: an endpoint keeps its connections as long as its target.
//! - **A client of many servers** sees a few of them, chosen so that all servers have equally many clients: [`Subset`] around
//!   discovery.
//! - **Load** is latency and calls in flight, by weight; a failure is never a short latency ([`LoadMetric`]).
//!
//! [`P2c`] is the policy to begin with, [`HotCold`] the one for servers that report their load; beside them are
//! [`LeastRequest`], [`RoundRobin`] and [`WeightedRandom`]. [`Zones`] around any of them keeps calls in the client's own zone,
//! and goes by priorities.
//!
//! ```
//! use towline_balance::{BalanceBuilder, P2c, fixed};
//! use towline_core::{Blind, Endpoint, Lent};
//! use tower::{Service, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let endpoints = ["10.0.0.1:7000".parse::<Endpoint>()?, "10.0.0.2:7000".parse()?];
//! // What makes an endpoint of a target: a pool, or as here any `Clone` service.
//! let make = service_fn(|target: towline_core::Target| async move {
//!     Ok::<_, towline_core::Error>(Lent::new(service_fn(move |request: &'static str| {
//!         let answer = format!("{request} from {target}");
//!         async move { Ok::<_, towline_core::Error>(answer) }
//!     })))
//! });
//! let (mut balance, driver) = BalanceBuilder::new(P2c::new()).with_access(Blind).pair(fixed(endpoints), make);
//! tokio::spawn(driver);
//! let answer = balance.ready().await?.call("pong").await?;
//! assert!(answer.starts_with("pong from 10.0.0."));
//! # Ok::<(), towline_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! # A policy of one's own
//!
//! A [`Policy`](towline_core::Policy) builds a picker off the call path whenever the set changes; a
//! [`Pick`](towline_core::Pick) is asked on it for candidates in order of preference. This one prefers a zone, whatever it can
//! take ([`Zones`] does look):
//!
//! ```
//! use towline_balance::{P2cOrder, P2cPicker};
//! use towline_core::{CallContext, Members, Pick, Policy, Rng, View};
//!
//! /// The endpoints of one zone before all others.
//! struct Near(&'static str);
//!
//! struct NearPicker { near: Vec<usize>, all: P2cPicker }
//!
//! impl Policy for Near {
//!     type Picker = NearPicker;
//!
//!     fn build(&mut self, set: &Members, _last: Option<&NearPicker>) -> NearPicker {
//!         let is_near = |index: &usize| set[*index].endpoint.zone() == Some(self.0);
//!         NearPicker { near: (0..set.len()).filter(is_near).collect(), all: P2cPicker::new(set) }
//!     }
//! }
//!
//! impl<Req> Pick<Req> for NearPicker {
//!     type Order<'a> = std::iter::Chain<std::option::IntoIter<usize>, P2cOrder<'a>> where Req: 'a;
//!
//!     fn order<'a>(
//!         &'a self,
//!         _request: &'a Req,
//!         _context: Option<&'a CallContext>,
//!         view: View<'a>,
//!         rng: &mut Rng,
//!     ) -> Self::Order<'a> {
//!         // Two choices among the near ones, then everybody.
//!         let (a, b) = (rng.below(self.near.len()), rng.below(self.near.len()));
//!         let pair = self.near.get(a).zip(self.near.get(b));
//!         let near = pair.map(|(a, b)| if view.load(*b) < view.load(*a) { *b } else { *a });
//!         near.into_iter().chain(self.all.draw(view, rng))
//!     }
//! }
//!
//! # use towline_balance::{BalanceBuilder, fixed};
//! # use towline_core::{Blind, Endpoint, Lent};
//! # use tower::{ServiceExt, service_fn};
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! # let set = ["a:1".parse::<Endpoint>()?, "b:1".parse::<Endpoint>()?.with_zone("here")];
//! # let make = service_fn(|target: towline_core::Target| async move {
//! #     let name = target.to_string();
//! #     Ok::<_, towline_core::Error>(Lent::new(service_fn(move |_: ()| std::future::ready(Ok::<_, towline_core::Error>(name.clone())))))
//! # });
//! # let (balance, driver) = BalanceBuilder::new(Near("here")).with_access(Blind).pair(fixed(set), make);
//! # tokio::spawn(driver);
//! # for _ in 0..20 { assert_eq!(balance.clone().oneshot(()).await?, "b:1"); }
//! # Ok::<(), towline_core::Error>(())
//! # }).unwrap();
//! ```

// What `docs/balance.md` shows is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/balance.md")]
mod page {}

mod balance;
#[cfg(feature = "http")]
mod body;
mod builder;
mod discover;
mod driver;
mod find;
mod future;
mod load;
mod making;
mod members;
mod outlier;
mod pick;
mod set;
mod shared;
mod subset;
mod sync;
mod track;
mod warm;
mod watch;
mod weights;

pub use self::balance::Balance;
#[cfg(feature = "http")]
pub use self::body::{AtBodyEnd, LOAD_HEADER, TrackedBody};
pub use self::builder::{BalanceBuilder, Balanced, Pair};
pub use self::discover::{Fixed, MakeService, Services, Update, Updates, fixed, services, updates};
pub use self::driver::Driver;
pub use self::future::BalanceFuture;
pub use self::load::{Circuit, Flight, LoadMetric};
pub use self::outlier::{Outliers, PanicMode, SlowStart};
pub use self::pick::{
    HotCold, HotColdOrder, HotColdPicker, LeastRequest, LeastRequestOrder, LeastRequestPicker, P2c, P2cOrder,
    P2cPicker, RoundRobin, RoundRobinPicker, WeightedOrder, WeightedRandom, WeightedRandomPicker, Zones, ZonesOrder,
    ZonesPicker,
};
pub use self::set::{EjectionView, EndpointView};
pub use self::shared::WhenUnavailable;
pub use self::subset::{Subset, SubsetOf};
pub use self::track::{AtResponse, Reporting, Track};
pub use tower::discover::Change;

/// The synchronous core, for simulators that drive it in a time of their own. Not part of the stable surface.
#[doc(hidden)]
pub mod core {
    pub use crate::find::LENDERS;
    pub use crate::load::{Clock, Flight, Levels, Nanos, PERIOD, Settings, Stats, Sweep};
    pub use crate::members::Set;
    pub use crate::outlier::{Detector, News};
    pub use crate::set::{Choice, Nobody, Node, Snapshot, assess, weigh};
    pub use crate::subset::{Moves, Ring};
}
