//! The candidates of a call, group after group.

use std::fmt;

use towline_core::{CallContext, Pick, Rng, View};

use super::Group;

/// The candidates of [`Zones`](crate::Zones): those of the group that the call goes to, then of the other group of the same
/// priority, then of all others from the lowest priority number. They end with the first of a group where the call is strict.
pub struct ZonesOrder<'a, P: Pick<Req>, Req> {
    groups: &'a [Group<P>],
    request: &'a Req,
    context: Option<&'a CallContext>,
    view: View<'a>,
    rng: Rng,
    /// In the present group the call is strict: nobody comes after its next candidate, whatever the balancer has heard. It
    /// asks for the terms before the shares are brought up to date, and a call whose group changes with them may be strict
    /// in the new one only; so may one that has gone on to another group.
    is_strict: bool,
    /// Whose candidates come now.
    group: usize,
    candidates: Option<P::Order<'a>>,
    /// The level that goes first, and the group of it that is yet to come.
    level: usize,
    sibling: Option<usize>,
    /// The first that may come after these two.
    next: usize,
}

impl<'a, P: Pick<Req>, Req> ZonesOrder<'a, P, Req> {
    /// Begins with the group `first`.
    pub(super) fn new(
        groups: &'a [Group<P>],
        first: usize,
        is_strict: bool,
        request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: Rng,
    ) -> Self {
        let level = groups.get(first).map_or(0, |group| group.level);
        let is_sibling = |index: &usize| groups.get(*index).is_some_and(|group| group.level == level);
        // The groups of a level are next to each other.
        let sibling = [first.wrapping_sub(1), first + 1].into_iter().find(is_sibling);
        let mut order = Self {
            groups,
            request,
            context,
            view,
            rng,
            is_strict,
            group: first,
            candidates: None,
            level,
            sibling,
            next: 0,
        };
        order.begin(first);
        order
    }

    fn go_on(&mut self) -> Option<()> {
        let index = self.next_group()?;
        // Before there are candidates: a table makes a home for them.
        self.is_strict = self.groups[index].picker.terms(self.request, self.context).is_strict;
        self.begin(index);
        Some(())
    }

    fn begin(&mut self, index: usize) {
        let Self { groups, request, context, view, .. } = *self;
        self.group = index;
        self.candidates =
            groups.get(index).map(|group| group.picker.order(request, context, group.view(view), &mut self.rng));
    }

    fn next_group(&mut self) -> Option<usize> {
        if self.is_strict {
            return None;
        }
        if let Some(sibling) = self.sibling.take() {
            return Some(sibling);
        }
        let next = (self.next..self.groups.len()).find(|index| self.groups[*index].level != self.level)?;
        self.next = next + 1;
        Some(next)
    }
}

impl<'a, P: Pick<Req>, Req> Iterator for ZonesOrder<'a, P, Req> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            let next = self.candidates.as_mut()?.next();
            if self.is_strict {
                self.candidates = None;
            }
            match next {
                // What is outside of the group may be inside of the set: it is named so that it is not. It counts as a
                // candidate that was passed over, as it would without groups.
                Some(place) => {
                    return Some(self.groups[self.group].indices.get(place).map_or(usize::MAX, |index| *index));
                }
                None => self.go_on()?,
            }
        }
    }
}

impl<'a, P: Pick<Req>, Req> fmt::Debug for ZonesOrder<'a, P, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZonesOrder").field("group", &self.group).finish_non_exhaustive()
    }
}
