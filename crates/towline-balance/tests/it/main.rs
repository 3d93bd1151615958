//! What the balancer guarantees, on the paused clock.

mod balance;
mod discovery;
mod layers;
mod load;
mod pickers;
mod subset;
mod support;
mod unavailable;

#[cfg(feature = "http")]
mod body;
