//! The echo service over gRPC, generated from `echo.proto`, and a [`Backend`] for it that fails on demand: by tonic, as users have it.
//!
//! The generated code is kept in the repository, so that nobody needs a compiler for it; a test says when it is out
//! of date, and `cargo xtask proto` writes it anew.

mod backend;

#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated; the methods are documented in echo.proto")]
mod generated {
    include!("towline.echo.v1.rs");
}

pub use self::backend::{Backend, Faults};
pub use self::generated::{echo_client, echo_server};
