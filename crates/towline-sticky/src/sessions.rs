//! What all policies of sessions have in common: their settings, and how they say what became of a call.

use towline_core::{CallContext, Error, Event, HomeLoss, Kind, Observers, Phase, SessionKey, Terms, View, stable_hash};

use crate::StickyStats;

/// What becomes of a session's call when its home cannot take it: is gone, cannot be reached or is ejected, has as many
/// calls as it may have, or has failed an earlier attempt of the call. A session leaves its home for no other reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenHomeFails {
    /// It fails at once, with [`Kind::HomeUnavailable`]. A retry stays or fails.
    Strict,
    /// It goes elsewhere, and the session's next call asks for its home again.
    #[default]
    Spill,
    /// It goes elsewhere, and that is the session's home from now on. Only for what remembers homes.
    Move,
}

/// No endpoint has more calls in flight than so many times the mean: what Vimeo and HAProxy recommend (1.25 to 1.5), and
/// Mirrokni, Thorup and Zadimoghaddam analyse.
const BOUND: f64 = 1.25;

/// Settings that all policies share.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    pub(crate) when: WhenHomeFails,
    pub(crate) bound: Option<f64>,
    /// It is the default, and nobody has asked for it.
    pub(crate) is_usual: bool,
    pub(crate) observers: Observers,
    pub(crate) stats: StickyStats,
}

/// The session of a call; an empty key is none.
#[inline]
pub(crate) fn session(context: Option<&CallContext>) -> Option<&SessionKey> {
    context.and_then(CallContext::session).filter(|session| !session.as_bytes().is_empty())
}

/// The number by which everybody knows a session.
#[inline]
pub(crate) fn hash(session: &SessionKey) -> u64 {
    stable_hash(session.as_bytes())
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, 2014). Part of where sessions go: it never changes.
#[inline]
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The step of splitmix64: the golden ratio in 64 bits.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Why the home at `home` does not get a call that has gone past it.
pub(crate) fn loss(context: Option<&CallContext>, view: View<'_>, home: usize) -> HomeLoss {
    let id = view.members()[home].id;
    if context.is_some_and(|context| context.tried().contains(id)) {
        HomeLoss::Tried
    } else if view.availability(home) == 0.0 {
        HomeLoss::Unready
    } else {
        HomeLoss::Overloaded
    }
}

impl Sessions {
    /// With a bound of load.
    pub(crate) fn bounded() -> Self {
        Self { bound: Some(BOUND), is_usual: true, ..Self::unbounded() }
    }

    pub(crate) fn unbounded() -> Self {
        Self {
            when: WhenHomeFails::default(),
            bound: None,
            is_usual: false,
            observers: Observers::default(),
            stats: StickyStats::default(),
        }
    }

    /// Checks a bound.
    pub(crate) fn bound_by(mut self, factor: f64) -> Result<Self, Error> {
        if !(factor > 1.0 && factor.is_finite()) {
            let message = format!("the load bound of sessions is a finite number above 1, not {factor}: 1.25 is usual");
            return Err(config(message));
        }
        self.bound = Some(factor);
        self.is_usual = false;
        Ok(self)
    }

    /// For policies without a memory.
    pub(crate) fn without_moves(mut self, when: WhenHomeFails) -> Result<Self, Error> {
        if when == WhenHomeFails::Move {
            let message = "only a session table remembers homes, so that sessions can move: take `Spill`, or a table";
            return Err(config(message));
        }
        self.when = when;
        Ok(self)
    }

    /// The bound of load, if there is one. Strict calls have nowhere to overflow to, so for them it has to be asked for.
    pub(crate) fn load_bound(&self) -> Option<f64> {
        self.bound.filter(|_| !(self.is_usual && self.is_strict()))
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.when == WhenHomeFails::Strict
    }

    /// Of calls of the session of this number.
    #[inline]
    pub(crate) fn terms(&self, session: u64) -> Terms {
        let terms = Terms::kept(session);
        if self.is_strict() { terms.strict() } else { terms }
    }

    /// Counts a call that goes to the endpoint at `index`, of a session whose home, if that is another, is where
    /// `home` says. For policies without a memory.
    #[inline]
    pub(crate) fn went(
        &self,
        context: Option<&CallContext>,
        view: View<'_>,
        index: usize,
        skipped: usize,
        home: impl FnOnce(&SessionKey) -> usize,
    ) {
        let Some(session) = session(context) else { return self.without(context) };
        if skipped == 0 {
            return self.stats.followed();
        }
        let home = home(session);
        if home == index {
            return self.stats.followed();
        }
        self.spilled(Some(session), view, Some(home), index, loss(context, view, home));
    }

    /// Counts a call without a session.
    #[inline]
    pub(crate) fn without(&self, context: Option<&CallContext>) {
        if context.is_some_and(|context| context.session().is_some()) {
            self.stats.empty_key();
        }
    }

    /// The call went to `index` and not to its home.
    pub(crate) fn spilled(
        &self,
        session: Option<&SessionKey>,
        view: View<'_>,
        home: Option<usize>,
        index: usize,
        why: HomeLoss,
    ) {
        self.stats.spilled(why);
        let key = |index: usize| view.members()[index].endpoint.key();
        if let Some(session) = session {
            self.observers.emit(Event::SessionSpilled { session, home: home.map(key), to: key(index), why });
        }
    }

    /// The session's home is where its call went, from now on.
    pub(crate) fn moved(&self, session: &SessionKey, view: View<'_>, home: Option<usize>, index: usize, why: HomeLoss) {
        self.stats.moved(why);
        let key = |index: usize| view.members()[index].endpoint.key();
        self.observers.emit(Event::SessionMoved { session, from: home.map(key), to: key(index), why });
    }

    /// The call fails.
    pub(crate) fn refused(&self, context: Option<&CallContext>, why: HomeLoss) {
        self.stats.refused(why);
        if let Some(session) = session(context) {
            self.observers.emit(Event::SessionRefused { session, why });
        }
    }
}

pub(crate) fn config(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Config, Phase::Build).with_message(message)
}

/// The settings that every policy has, once.
macro_rules! session_settings {
    ($policy:ident $(<$inner:ident>)?) => {
        impl$(<$inner>)? $policy$(<$inner>)? {
            /// Tells of calls that go elsewhere, of sessions that move, and of those that are refused.
            #[must_use]
            pub fn observers(mut self, observers: towline_core::Observers) -> Self {
                self.sessions.observers = observers;
                self
            }

            /// Counts into `stats`.
            #[must_use]
            pub fn with_stats(mut self, stats: $crate::StickyStats) -> Self {
                self.sessions.stats = stats;
                self
            }

            /// What it counts into; of its own, unless it was given one.
            pub fn stats(&self) -> &$crate::StickyStats {
                &self.sessions.stats
            }
        }
    };
}

/// The bound, for policies that have one.
macro_rules! bound_settings {
    ($policy:ident, $default:literal) => {
        impl $policy {
            /// Bounds loads: at no admission has an endpoint more calls in flight than `ceil(factor × mean)` by weight, the
            /// admitted call counted. What overflows goes to the session's next choice, and stops half-way between mean and
            /// bound there, as do calls of a session that alone has half of what an endpoint may have: the rest of every
            /// endpoint belongs to its own sessions.
            #[doc = $default]
            /// It costs one counter that all calls write.
            ///
            /// # Errors
            ///
            /// [`Kind::Config`](towline_core::Kind::Config) unless `factor` is a finite number above 1.
            pub fn bounded(mut self, factor: f64) -> Result<Self, towline_core::Error> {
                self.sessions = self.sessions.bound_by(factor)?;
                Ok(self)
            }

            /// Sessions stay at home however busy that is.
            #[must_use]
            pub fn unbounded(mut self) -> Self {
                self.sessions.bound = None;
                self
            }
        }
    };
}

/// What becomes of calls, for policies that remember nothing.
macro_rules! stateless_settings {
    ($policy:ident $(<$inner:ident>)?) => {
        impl$(<$inner>)? $policy$(<$inner>)? {
            /// What becomes of a call whose home cannot take it; [`WhenHomeFails::Spill`](crate::WhenHomeFails::Spill) by default.
            ///
            /// # Errors
            ///
            /// [`Kind::Config`](towline_core::Kind::Config) for [`WhenHomeFails::Move`](crate::WhenHomeFails::Move): there is no
            /// memory of homes here that could change.
            pub fn when_home_fails(mut self, when: $crate::WhenHomeFails) -> Result<Self, towline_core::Error> {
                self.sessions = self.sessions.without_moves(when)?;
                Ok(self)
            }
        }
    };
}

pub(crate) use {bound_settings, session_settings, stateless_settings};
