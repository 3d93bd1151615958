//! What the pool guarantees, each test named after the guarantee. All on the paused clock, without sockets.

mod age;
mod cancel;
mod check;
mod checking;
mod claims;
mod config;
mod dial;
mod driving;
mod ending;
mod fates;
mod fine;
mod foreign;
mod health;
mod lend;
mod limits;
mod maker;
mod pin;
mod runtime;
mod shared;
mod stats;
mod support;
mod total;
