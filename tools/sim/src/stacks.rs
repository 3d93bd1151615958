//! Who is compared where calls may be sent more than once: a balancer, and what is done with calls that fail or are late.

use crate::chance::Rng;
use crate::repeats::backup::Backup;
use crate::repeats::budgets::{Aws, Finagle, Grpc, Retries, Tower, Unlimited};
use crate::repeats::towline::Towline;
use crate::repeats::{Once, Repeats};
use crate::strategies::{self, TOWLINE};

pub(crate) struct Stack {
    pub(crate) name: &'static str,
    /// One of the [strategies](strategies::ALL).
    pub(crate) balancer: &'static str,
    /// Made for a client, with a generator for what is drawn behind the simulator's back.
    pub(crate) repeats: fn(Rng) -> Box<dyn Repeats>,
}

/// Ours, with hedges.
pub(crate) const TOWLINE_HEDGED: &str = "towline+hedge";
const P2C: &str = "p2c-least-request";

/// In the order of the tables.
pub(crate) const ALL: &[Stack] = &[
    Stack { name: TOWLINE, balancer: TOWLINE, repeats: |_| Box::new(Towline::new()) },
    Stack { name: "towline-budget", balancer: P2C, repeats: |_| Box::new(Towline::new()) },
    Stack { name: TOWLINE_HEDGED, balancer: TOWLINE, repeats: |_| Box::new(Towline::hedging()) },
    Stack { name: "p2c+hedge", balancer: P2C, repeats: |_| Box::new(Towline::hedging()) },
    Stack { name: "towline-once", balancer: TOWLINE, repeats: once },
    Stack { name: "no-retries", balancer: P2C, repeats: once },
    Stack { name: "no-budget", balancer: P2C, repeats: |_| Box::new(Retries(Unlimited)) },
    Stack { name: "finagle-budget", balancer: P2C, repeats: |_| Box::new(Retries(Finagle::new())) },
    Stack { name: "grpc-throttle", balancer: P2C, repeats: |_| Box::new(Retries(Grpc::new())) },
    Stack { name: "aws-standard", balancer: P2C, repeats: |_| Box::new(Retries(Aws::new())) },
    Stack { name: "tower-tps-budget", balancer: P2C, repeats: |_| Box::new(Retries(Tower::new())) },
    Stack { name: "tower+tps-budget", balancer: "tower-p2c-ewma", repeats: |_| Box::new(Retries(Tower::new())) },
    Stack { name: "finagle+budget", balancer: "finagle", repeats: |_| Box::new(Retries(Finagle::new())) },
    Stack { name: "grpc-a50+throttle", balancer: "grpc-a50", repeats: |_| Box::new(Retries(Grpc::new())) },
    Stack { name: "finagle+backup", balancer: "finagle", repeats: |_| Box::new(Backup::new(0.01)) },
    Stack { name: "round-robin", balancer: "round-robin", repeats: once },
    Stack { name: P2C, balancer: P2C, repeats: once },
    Stack { name: "tower-p2c-ewma", balancer: "tower-p2c-ewma", repeats: once },
    Stack { name: "prequal", balancer: "prequal", repeats: once },
];

fn once(_: Rng) -> Box<dyn Repeats> {
    Box::new(Once)
}

/// Those with these names that there are.
pub(crate) fn named(names: &[&str]) -> Vec<&'static Stack> {
    ALL.iter().filter(|stack| names.contains(&stack.name)).collect()
}

impl Stack {
    pub(crate) fn balancer(&self) -> &'static strategies::Named {
        strategies::named(&[self.balancer])[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stack_has_a_balancer_that_there_is() {
        assert!(ALL.iter().all(|stack| strategies::named(&[stack.balancer]).len() == 1));
    }
}
