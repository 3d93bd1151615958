//! Handshakes with peers of every kind.

mod handshake;
mod matrix;
mod real;
mod reload;
mod support;
