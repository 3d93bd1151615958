//! What the balancer guarantees, on the paused clock.

mod balance;
mod bound;
mod circuit;
mod discovery;
mod layers;
mod lives;
mod load;
mod outlier;
mod panic;
mod pickers;
mod subset;
mod support;
mod unavailable;
mod zones;

#[cfg(feature = "http")]
mod body;
