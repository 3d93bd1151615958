//! Balancers that eject, each by its own documented rules and defaults: Envoy, gRPC (proposal A50), Finagle and Linkerd.
//!
//! They are written anew in the simulator's time, because none of them is a Rust library that could be driven by hand. Rules
//! that are tried with a hand clock are apart from the strategies that use them.

pub(super) mod a50;
mod accrual;
mod breaker;
mod detection;
pub(super) mod envoy;
mod ewma;
pub(super) mod finagle;
pub(super) mod linkerd;

use crate::strategy::Outcome;

/// To all of them a call that could not be sent, or that took too long, has failed. One that was overtaken by another attempt
/// has not.
fn is_good(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Ok | Outcome::Superseded)
}
