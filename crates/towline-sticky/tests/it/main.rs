//! What sessions are promised, over the real balancer and on the paused clock.

mod bound;
mod hash;
mod home_first;
mod pin;
mod support;
mod table;
#[cfg(feature = "token")]
mod token;
