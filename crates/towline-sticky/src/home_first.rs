//! Calls that say where they want to go.

use std::fmt;
use std::time::Duration;

use towline_core::{CallContext, Endpoint, HomeLoss, Members, Pick, Policy, Rng, Terms, View};

use crate::places::Places;
use crate::sessions::{Sessions, hash, loss, session, session_settings, stateless_settings};

/// Sends a call to the endpoint that it asks for ([`CallContext::home`], as a token or the caller says), and
/// all others by another policy, any. Also those whose endpoint cannot take them, unless it is set to be
/// [strict](crate::WhenHomeFails::Strict).
///
/// Whoever is asked for has to be in the set that the policy sees: nobody steers a call anywhere else. Around
/// [`Zones`](towline_balance::Zones), not within, so that this is all of it.
///
/// Counts calls that ask for an endpoint; those that go by the policy within are counted there, if it counts.
///
/// ```
/// use towline_balance::{BalanceBuilder, P2c};
/// use towline_core::{Call, EndpointKey, Home};
/// use towline_sticky::HomeFirst;
///
/// let balance = BalanceBuilder::new(HomeFirst::new(P2c::new()));
/// let call = Call::new("ping").with_home(Home::from(&EndpointKey::new("10.0.0.7:7000")));
/// # let _ = (balance, call);
/// ```
#[derive(Clone, Debug)]
pub struct HomeFirst<P> {
    policy: P,
    sessions: Sessions,
}

impl<P> HomeFirst<P> {
    /// Calls that ask for nobody go by `policy`.
    pub fn new(policy: P) -> Self {
        Self { policy, sessions: Sessions::unbounded() }
    }
}

session_settings!(HomeFirst<P>);
stateless_settings!(HomeFirst<P>);

impl<P: Policy> Policy for HomeFirst<P> {
    type Picker = HomeFirstPicker<P::Picker>;

    fn build(&mut self, set: &Members, last: Option<&Self::Picker>) -> Self::Picker {
        HomeFirstPicker {
            picker: self.policy.build(set, last.map(|last| &last.picker)),
            places: Places::new(set),
            sessions: self.sessions.clone(),
        }
    }

    fn peers(&self, endpoint: &Endpoint) -> u8 {
        self.policy.peers(endpoint)
    }

    fn load_bound(&self) -> Option<f64> {
        self.policy.load_bound()
    }

    fn upkeep(&mut self) -> Option<Duration> {
        self.policy.upkeep()
    }
}

/// What [`HomeFirst`] builds for a set.
#[derive(Clone, Debug)]
pub struct HomeFirstPicker<P> {
    picker: P,
    places: Places,
    sessions: Sessions,
}

/// Where a call wants to go.
#[derive(Clone, Copy)]
enum Asked {
    Nowhere,
    /// To somebody who is not in the set.
    Gone,
    To(usize),
}

impl<P> HomeFirstPicker<P> {
    #[inline]
    fn asked(&self, context: Option<&CallContext>) -> Asked {
        match context.and_then(CallContext::home) {
            None => Asked::Nowhere,
            Some(home) => self.places.index(home).map_or(Asked::Gone, Asked::To),
        }
    }
}

impl<Req, P: Pick<Req>> Pick<Req> for HomeFirstPicker<P> {
    type Order<'a>
        = HomeFirstOrder<'a, P, Req>
    where
        Self: 'a,
        Req: 'a;

    #[inline]
    fn order<'a>(
        &'a self,
        request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> Self::Order<'a> {
        HomeFirstOrder(match self.asked(context) {
            Asked::To(home) => {
                State::Home { home: Some(home), picker: &self.picker, request, context, view, rng: rng.fork() }
            }
            Asked::Gone if self.sessions.is_strict() => State::Nobody,
            _ => State::Others(self.picker.order(request, context, view, rng)),
        })
    }

    fn terms(&self, request: &Req, context: Option<&CallContext>) -> Terms {
        let asked = self.asked(context);
        let is_strict = self.sessions.is_strict();
        if matches!(asked, Asked::Nowhere) || matches!(asked, Asked::Gone) && !is_strict {
            return self.picker.terms(request, context);
        }
        // Where loads are bounded, calls of one session are told from those of others that ask for the same endpoint.
        let mut terms = self.sessions.terms(0);
        terms.key = session(context).map(hash);
        terms
    }

    fn taken(&self, request: &Req, context: Option<&CallContext>, view: View<'_>, index: usize, skipped: usize) {
        let (home, why) = match self.asked(context) {
            Asked::Nowhere => return self.picker.taken(request, context, view, index, skipped),
            Asked::To(home) if home == index => return self.sessions.stats.followed(),
            Asked::To(home) => (Some(home), loss(context, view, home)),
            Asked::Gone => (None, HomeLoss::Gone),
        };
        self.sessions.spilled(session(context), view, home, index, why);
        // The one that was asked for was not among its candidates.
        self.picker.taken(request, context, view, index, skipped - usize::from(home.is_some() && skipped > 0));
    }

    fn refused(&self, request: &Req, context: Option<&CallContext>, why: HomeLoss) {
        let is_ours = match self.asked(context) {
            Asked::Nowhere => false,
            _ => self.sessions.is_strict(),
        };
        if is_ours {
            self.sessions.refused(context, why);
        } else {
            self.picker.refused(request, context, why);
        }
    }
}

/// The candidates of [`HomeFirst`].
pub struct HomeFirstOrder<'a, P: Pick<Req>, Req>(State<'a, P, Req>);

enum State<'a, P: Pick<Req>, Req> {
    /// The others are drawn when they are wanted, which is rare.
    Home {
        home: Option<usize>,
        picker: &'a P,
        request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: Rng,
    },
    Others(P::Order<'a>),
    Nobody,
}

impl<P: Pick<Req>, Req> Iterator for HomeFirstOrder<'_, P, Req> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        match &mut self.0 {
            State::Others(order) => order.next(),
            State::Nobody => None,
            State::Home { home, picker, request, context, view, rng } => {
                if let Some(home) = home.take() {
                    return Some(home);
                }
                self.0 = State::Others(picker.order(request, *context, *view, rng));
                self.next()
            }
        }
    }
}

impl<P: Pick<Req>, Req> fmt::Debug for HomeFirstOrder<'_, P, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomeFirstOrder").finish_non_exhaustive()
    }
}
