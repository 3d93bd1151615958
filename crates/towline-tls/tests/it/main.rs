//! Handshakes with peers of every kind.

mod handshake;
mod matrix;
mod reload;
mod support;
