//! A part of the endpoints for each client.
//!
//! Every client of every endpoint is n × m connections, and most of them idle. A client needs some twenty endpoints to
//! balance over, not a thousand. Which twenty is the question: chosen by chance, some servers get twice the connections of
//! others, and a few get none; dealt out by position in a list, all clients reconnect when one server leaves.
//!
//! Here both sides stand on a ring by *rank*, not by position. The endpoints are ordered by the hash of their keys, and the
//! r-th of n stands at r/n. The clients are ordered by their indices with the bits reversed (van der Corput's sequence, as
//! Google's Rocksteadier takes it), and the r-th of m begins at r/m. A client has the `size` endpoints from there on.
//!
//! - Begins that are m-ths of the ring, rounded to an endpoint, put ⌊m·k/n⌋ or ⌈m·k/n⌉ clients on **every** endpoint,
//!   for any n, m and k. Nothing is left to the luck of a hash: that only says who is neighbour to whom.
//! - One endpoint more or less moves ranks by one and begins by less than one, so **one endpoint of a subset is exchanged at
//!   most**, or two where it passes the end of the ring.
//! - Ranks need no history: clients agree whenever they see the same endpoints, whatever they saw before.
//!
//! A subset by identity is the same ring with a hash of the client's own, from its beginning: rendezvous hashing.
//!
//! `ring` is the synchronous core, `stream` puts it around discovery.

mod ring;
mod stream;

use towline_core::{Error, Kind, Phase, Rng};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use self::ring::Place;
pub use self::ring::{Moves, Ring};
pub use self::stream::SubsetOf;

/// Enough for two choices to be as good as among all, and for some of them to be away.
const SIZE: usize = 20;

/// Which of the endpoints a client sees: `size` of them, 20 by default, or all where there are no more than that.
///
/// An adapter on discovery: [`build`](Self::build) wraps what yields all endpoints, and what comes out goes into
/// [`BalanceBuilder::pair`](crate::BalanceBuilder::pair). Calls then pick among `size` endpoints, whatever there are.
///
/// | | connections on an endpoint, with n endpoints, m clients and k of each | one endpoint comes or goes |
/// |---|---|---|
/// | [`nth`](Self::nth) | ⌊m·k/n⌋ or ⌈m·k/n⌉ | a client exchanges one or none, a third of one on average where k is small beside n |
/// | [`named`](Self::named), [`random`](Self::random) | as chance has it: m·k/n, give or take its root, and none for some | a client exchanges one or none: k/n on average |
///
/// So take `nth` where clients have an index, as in a Kubernetes StatefulSet, and the others where they have none, or where
/// hundreds of servers come and go every minute and a new connection is dear.
///
/// Keys are what counts: an endpoint that comes back under its key is in the same subsets again, whatever its target. Weight,
/// zone, priority and metadata pass through, and have no part in the choice: a heavy endpoint is in as many subsets as a light
/// one, and gets more of each.
///
/// ```
/// use towline_balance::{BalanceBuilder, P2c, Subset, fixed};
/// use towline_core::{Blind, Endpoint, Lent};
/// use tower::service_fn;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let all = (0..1_000).map(|n| format!("server-{n}:7000").parse::<Endpoint>()).collect::<Result<Vec<_>, _>>()?;
/// // The eighth of a hundred clients.
/// let mine = Subset::nth(7, 100).build(fixed(all))?;
/// # let make = service_fn(|_: towline_core::Target| async move {
/// #     Ok::<_, towline_core::Error>(Lent::new(service_fn(|_: ()| async { Ok::<_, towline_core::Error>(()) })))
/// # });
/// let (balance, driver) = BalanceBuilder::new(P2c::new()).with_access(Blind).pair(mine, make);
/// # tokio::spawn(driver);
/// # balance.discovered().await;
/// assert_eq!(balance.endpoints().len(), 20);
/// # Ok::<(), towline_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Subset {
    who: Who,
    size: usize,
    salt: String,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Nth {
        index: usize,
        clients: usize,
    },
    /// By the hash of its name.
    Named(u64),
}

impl Subset {
    /// For the client with this index, from 0, of so many. Every client has an index of its own and all are told the same
    /// number of clients; then all endpoints have as many connections, give or take one.
    ///
    /// Indices that follow each other stand far apart on the ring, so that clients which restart in their order, or are not
    /// there yet, are missing everywhere alike. When `clients` grows by one, others move by less than 1/m of the ring, n/(3·m)
    /// endpoints on average; nobody moves when a power of two doubles. While some clients know the new number and others the
    /// old one, endpoints differ by a few connections more.
    pub fn nth(index: usize, clients: usize) -> Self {
        Self::of(Who::Nth { index, clients })
    }

    /// For the client of this name, which no other client has: a host's, say, or a pod's. It has the same endpoints again
    /// after a restart.
    ///
    /// Rendezvous hashing (Thaler and Ravishankar, 1998), as gRPC's random subsetting: the first by hash of client and key.
    pub fn named(client: &str) -> Self {
        Self::of(Who::Named(xxh3_64(client.as_bytes())))
    }

    /// For a client without index or name: as [`named`](Self::named), with chance for a name. Every stream that is built of
    /// this or of its clones has the same endpoints; another `random()` has others, after a restart too.
    pub fn random() -> Self {
        Self::of(Who::Named(Rng::new().next_u64()))
    }

    fn of(who: Who) -> Self {
        Self { who, size: SIZE, salt: String::new() }
    }

    /// How many endpoints the client sees; 20 by default. Where there are fewer it sees all.
    pub fn size(mut self, endpoints: usize) -> Self {
        self.size = endpoints;
        self
    }

    /// What this kind of clients is called; nothing by default. Clients that are counted together use one salt. Different
    /// kinds that call the same servers use different ones, so that it is not the same servers which each kind has one
    /// connection more on, or which share their subsets.
    pub fn salt(mut self, salt: impl Into<String>) -> Self {
        self.salt = salt.into();
        self
    }

    /// The subset of what `discover` yields. Errors and the end pass through, and so does whatever says something about the
    /// set as a whole; see [`SubsetOf`].
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when `size` or the number of clients is 0, or the index is not below the number of clients.
    pub fn build<D>(&self, discover: D) -> Result<SubsetOf<D>, Error> {
        self.ring().map(|ring| SubsetOf::new(discover, ring))
    }

    /// The synchronous core, for simulators.
    ///
    /// # Errors
    ///
    /// Those of [`build`](Self::build).
    #[doc(hidden)]
    pub fn ring(&self) -> Result<Ring, Error> {
        let wrong = |message: String| Err(Error::new(Kind::Config, Phase::Build).with_message(message));
        if self.size == 0 {
            return wrong(format!(
                "a subset of 0 endpoints can take no call: set `size` to 1 at least, it is {SIZE} by default"
            ));
        }
        let (place, name) = match self.who {
            Who::Nth { clients: 0, .. } => {
                return wrong("a client cannot be one of 0: set `clients` to how many there are".to_owned());
            }
            Who::Nth { index, clients } if index >= clients => {
                return wrong(format!("there is no client {index} of {clients}: indices go from 0 to {}", clients - 1));
            }
            Who::Nth { index, clients } => (Place::nth(index, clients), 0),
            Who::Named(name) => (Place::FIRST, name),
        };
        Ok(Ring::new(place, self.size, xxh3_64_with_seed(self.salt.as_bytes(), name)))
    }
}
