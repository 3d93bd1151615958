//! What the examples and the tests of the composed stack call: a backend for the echo protocol, over TCP or TLS, whose
//! faults are switched while it runs, and certificates, one kind per failure case.

mod backend;
mod certs;
mod faults;

pub use self::backend::{Backend, ById};
pub use self::certs::{Authority, Certified};
pub use self::faults::Faults;
