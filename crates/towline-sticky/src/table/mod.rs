//! Homes that are remembered.

mod pace;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use towline_balance::{P2cOrder, P2cPicker};
use towline_core::{CallContext, Error, Home, HomeLoss, Loads, Members, Pick, Policy, Rng, SessionKey, Terms, View};

use self::pace::Pace;
use crate::WhenHomeFails;
use crate::clock::Clock;
use crate::kept::Kept;
use crate::places::Places;
use crate::recent::Id;
use crate::sessions::{Sessions, bound_settings, config, hash, loss, mix, session, session_settings};

/// Remembers where each session's calls go: its first call by load, as [`P2c`](towline_balance::P2c), all later ones after it.
/// Calls without a session go by [`P2c`](towline_balance::P2c).
///
/// Where hashing spreads sessions evenly by number, this spreads them by load, and adding an endpoint moves nobody. The price is
/// that each client process has a table of its own, and forgets it when it ends.
///
/// - **Concurrent first calls** of one session get the same home.
/// - **Idle sessions** are forgotten after 30 minutes ([`idle`](Self::idle)), up to a sixteenth later, whether or not there are
///   any calls; the balancer's driver looks 32 times in that while, but at least once a minute.
/// - **At most 100,000 sessions** are remembered ([`capacity`](Self::capacity)), at 50 to 100 bytes each, however long their keys
///   are; beyond, the one that was used longest ago makes room, to an eighth of the capacity exactly.
/// - **A home that is removed** and comes back under its key finds those of its sessions that did not have a call meanwhile.
/// - **When a home fails** its sessions go where their hash says, all calls of one to the same endpoint. What that means for
///   the next call is a setting, [`when_home_fails`](Self::when_home_fails), by default [`WhenHomeFails::Move`]. A session whose
///   home is gone moves under `Spill` too; under `Strict` its calls fail until it has been idle for long enough.
/// - **Sessions move at most 1,000 times a second** ([`moves_per_second`](Self::moves_per_second)), a second's worth at once.
///   Calls beyond that go where they would, but the home stays: after a short outage most sessions are where they were, and
///   survivors take over the state of sessions bit by bit.
///
/// Under [`Zones`](towline_balance::Zones) a session has one home in each group of endpoints that it is sent to. Each balancer has a
/// table of its own. Homes are chosen and changed under the lock of one of up to 64 shards; following takes that lock too, for some
/// ten nanoseconds.
///
/// ```
/// use std::time::Duration;
/// use towline_balance::BalanceBuilder;
/// use towline_sticky::{SessionTable, WhenHomeFails};
///
/// let policy = SessionTable::new()
///     .capacity(1_000_000)?
///     .idle(Duration::from_secs(3_600))?
///     .when_home_fails(WhenHomeFails::Spill);
/// let stats = policy.stats().clone();
/// let balance = BalanceBuilder::new(policy);
/// // … calls …
/// assert_eq!(stats.counts().entries, 0);
/// # drop(balance);
/// # Ok::<(), towline_core::Error>(())
/// ```
pub struct SessionTable {
    sessions: Sessions,
    capacity: usize,
    idle: Duration,
    moves_per_second: u32,
    /// Made when it is needed: the settings are complete then.
    table: Option<Arc<Table>>,
}

/// What all pickers of a balancer share.
struct Table {
    homes: Kept<Home>,
    pace: Pace,
    /// How many lines of pickers there are, each with homes of its own.
    scopes: AtomicU64,
}

const CAPACITY: usize = 100_000;
const IDLE: Duration = Duration::from_secs(30 * 60);
const MOVES_PER_SECOND: u32 = 1_000;
/// When a sweep has left something.
const AGAIN: Duration = Duration::from_millis(10);

impl SessionTable {
    /// The policy, without a bound of load.
    pub fn new() -> Self {
        Self {
            sessions: Sessions { when: WhenHomeFails::Move, ..Sessions::unbounded() },
            capacity: CAPACITY,
            idle: IDLE,
            moves_per_second: MOVES_PER_SECOND,
            table: None,
        }
    }

    /// How many sessions are remembered; 100,000 by default.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) for 0.
    pub fn capacity(mut self, sessions: usize) -> Result<Self, Error> {
        if sessions == 0 {
            return Err(config("a session table has room for one session at least: give it a capacity, or take `P2c`"));
        }
        self.capacity = sessions;
        Ok(self)
    }

    /// How long a session is remembered without a call; 30 minutes by default, as long as sessions of web servers commonly last.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) for zero.
    pub fn idle(mut self, idle: Duration) -> Result<Self, Error> {
        if idle.is_zero() {
            return Err(config("a session that may not be idle is none: give the table a longer time, or take `P2c`"));
        }
        self.idle = idle;
        Ok(self)
    }

    /// How many sessions may get another home in a second; 1,000 by default: an outage of ten seconds leaves most of a hundred
    /// thousand where they were, and one that lasts has moved all of them in two minutes.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) for 0.
    pub fn moves_per_second(mut self, moves: u32) -> Result<Self, Error> {
        if moves == 0 {
            return Err(config(
                "without moves sessions of an endpoint that is gone have no home: allow some, or take `Strict`",
            ));
        }
        self.moves_per_second = moves;
        Ok(self)
    }

    /// What becomes of a call whose home cannot take it; [`WhenHomeFails::Move`] by default: what the home knew of the session is
    /// most likely lost, and should not be lost twice.
    #[must_use]
    pub fn when_home_fails(mut self, when: WhenHomeFails) -> Self {
        self.sessions.when = when;
        self
    }

    fn table(&mut self) -> &Arc<Table> {
        let Self { sessions, capacity, idle, moves_per_second, table } = self;
        table.get_or_insert_with(|| {
            Arc::new(Table {
                homes: Kept::new(*capacity, Clock::new(*idle), sessions.stats.clone()),
                pace: Pace::new(*moves_per_second),
                scopes: AtomicU64::new(0),
            })
        })
    }
}

impl Default for SessionTable {
    fn default() -> Self {
        Self::new()
    }
}

// By hand: a clone is for another balancer, and remembers nothing.
impl Clone for SessionTable {
    fn clone(&self) -> Self {
        let Self { sessions, capacity, idle, moves_per_second, table: _ } = self;
        let (capacity, idle, moves_per_second) = (*capacity, *idle, *moves_per_second);
        Self { sessions: sessions.clone(), capacity, idle, moves_per_second, table: None }
    }
}

// By hand: entries are nobody's business, and many.
impl fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, capacity, idle, moves_per_second, table: _ } = self;
        f.debug_struct("SessionTable")
            .field("sessions", sessions)
            .field("capacity", capacity)
            .field("idle", idle)
            .field("moves_per_second", moves_per_second)
            .finish_non_exhaustive()
    }
}

session_settings!(SessionTable);
bound_settings!(SessionTable, "Unbounded by default: first calls go by load, and sessions of a table rarely pile up.");

impl Policy for SessionTable {
    type Picker = SessionTablePicker;

    fn build(&mut self, set: &Members, last: Option<&SessionTablePicker>) -> SessionTablePicker {
        let table = self.table().clone();
        // Where a policy around this one has several groups of endpoints, each is a line of pickers.
        let scope = last.map_or_else(|| mix(table.scopes.fetch_add(1, Ordering::Relaxed)), |last| last.scope);
        let sessions = self.sessions.clone();
        SessionTablePicker { table, scope, places: Places::new(set), by_load: P2cPicker::new(set), sessions }
    }

    fn load_bound(&self) -> Option<f64> {
        self.sessions.load_bound()
    }

    fn upkeep(&mut self) -> Option<Duration> {
        let homes = &self.table().homes;
        Some(if homes.sweep() { AGAIN } else { homes.clock().step() })
    }
}

/// What [`SessionTable`] builds for a set.
#[derive(Clone)]
pub struct SessionTablePicker {
    table: Arc<Table>,
    scope: u64,
    places: Places,
    by_load: P2cPicker,
    sessions: Sessions,
}

/// A candidate that is nobody: the home that is gone. The balancer counts it as passed over.
const GONE: usize = usize::MAX;

/// All are alike: choices by hash are not to change with loads.
struct Alike;

impl Loads for Alike {
    fn load(&self, _index: usize) -> f64 {
        0.0
    }
}

impl SessionTablePicker {
    #[inline]
    fn id(&self, session: &SessionKey) -> Id {
        self.table.homes.id(session, self.scope)
    }

    /// The home of a session: where it is remembered to be, or the better of two that are there.
    #[inline]
    fn home(&self, id: Id, view: View<'_>, rng: &mut Rng) -> usize {
        let home = self.table.homes.get_or_make(id, || {
            let candidates = self.by_load.draw(view, rng);
            let first = candidates.clone().find(|index| view.availability(*index) > 0.0);
            self.places.home(first.or_else(|| candidates.clone().next()).unwrap_or(0))
        });
        self.places.index(home).unwrap_or(GONE)
    }

    /// Where a session goes when its home cannot take it: drawn by weight, by its hash.
    fn others<'a>(&'a self, id: Id, view: View<'a>) -> P2cOrder<'a> {
        self.by_load.draw(View::new(view.members(), &Alike), &mut Rng::with_seed(id.low))
    }

    /// A call has gone past its home to `index`, or that was where another call has just moved the session.
    #[inline(never)]
    fn passed_home(&self, session: &SessionKey, context: Option<&CallContext>, view: View<'_>, index: usize) {
        let (here, when) = (self.places.home(index), self.sessions.when);
        let now = Instant::now();
        // Under the lock of the session's shard, so that of two calls one moves the session and the other finds it moved.
        let became = self.table.homes.change(self.id(session), |home| {
            if *home == here {
                return Became::Followed;
            }
            let last = self.places.index(*home);
            let why = last.map_or(HomeLoss::Gone, |last| loss(context, view, last));
            // A hedge goes elsewhere although nothing has failed at home.
            let is_hedge = why == HomeLoss::Tried && context.is_some_and(CallContext::is_hedge);
            match when {
                // Calls of a session that has been served at its home do not get this far: it is the first one, and the home
                // that was meant for it has never been.
                WhenHomeFails::Strict => {
                    *home = here;
                    Became::Followed
                }
                WhenHomeFails::Spill if why != HomeLoss::Gone => Became::Spilled(last, why),
                _ if is_hedge => Became::Spilled(last, why),
                _ if self.table.pace.take(now) => {
                    *home = here;
                    Became::Moved(last, why)
                }
                _ => Became::Spilled(last, why),
            }
        });
        match became {
            // It has just been evicted: the next call begins anew.
            None | Some(Became::Followed) => self.sessions.stats.followed(),
            Some(Became::Moved(last, why)) => self.sessions.moved(session, view, last, index, why),
            Some(Became::Spilled(last, why)) => self.sessions.spilled(Some(session), view, last, index, why),
        }
    }
}

/// What became of a call that did not go to the first candidate.
enum Became {
    Followed,
    Moved(Option<usize>, HomeLoss),
    Spilled(Option<usize>, HomeLoss),
}

impl<Req> Pick<Req> for SessionTablePicker {
    type Order<'a>
        = SessionTableOrder<'a>
    where
        Req: 'a;

    #[inline]
    fn order<'a>(
        &'a self,
        _request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> SessionTableOrder<'a> {
        SessionTableOrder(match session(context) {
            Some(session) => {
                let id = self.id(session);
                Order::Home { picker: self, id, view, home: Some(self.home(id, view, rng)) }
            }
            None => Order::Others(self.by_load.draw(view, rng)),
        })
    }

    #[inline]
    fn terms(&self, _request: &Req, context: Option<&CallContext>) -> Terms {
        let Some(session) = session(context) else { return Terms::BALANCED };
        let terms = Terms::kept(hash(session));
        // The first call of a session may go anywhere: nobody has been its home yet.
        let is_strict = self.sessions.is_strict() && self.table.homes.has(self.id(session));
        if is_strict { terms.strict() } else { terms }
    }

    #[inline]
    fn taken(&self, _request: &Req, context: Option<&CallContext>, view: View<'_>, index: usize, skipped: usize) {
        match session(context) {
            None => self.sessions.without(context),
            Some(_) if skipped == 0 => self.sessions.stats.followed(),
            Some(session) => self.passed_home(session, context, view, index),
        }
    }

    fn refused(&self, _request: &Req, context: Option<&CallContext>, why: HomeLoss) {
        self.sessions.refused(context, why);
    }
}

impl fmt::Debug for SessionTablePicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTablePicker").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

/// The candidates of [`SessionTable`]: for a session its home, then all others in an order that is its own.
#[derive(Clone)]
pub struct SessionTableOrder<'a>(Order<'a>);

#[derive(Clone)]
enum Order<'a> {
    /// The others are drawn when they are wanted, which is rare.
    Home {
        picker: &'a SessionTablePicker,
        id: Id,
        view: View<'a>,
        home: Option<usize>,
    },
    Others(P2cOrder<'a>),
}

impl Iterator for SessionTableOrder<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        match &mut self.0 {
            Order::Others(order) => order.next(),
            Order::Home { picker, id, view, home } => {
                if let Some(home) = home.take() {
                    return Some(home);
                }
                self.0 = Order::Others(picker.others(*id, *view));
                self.next()
            }
        }
    }
}

impl fmt::Debug for SessionTableOrder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTableOrder").finish_non_exhaustive()
    }
}
