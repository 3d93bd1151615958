//! What sessions are promised, over the real balancer and on the paused clock.

mod bound;
mod hash;
mod support;
