//! The messages of the echo protocol, package `towline.echo.v1`, generated from `echo.proto`.
//!
//! The generated code is kept in the repository, so that nobody needs a compiler for it; a test says when it is out
//! of date, and `cargo xtask proto` writes it anew.

#[allow(missing_docs, reason = "generated; the fields are documented in echo.proto")]
mod generated {
    include!("towline.echo.v1.rs");
}

pub use self::generated::{Request, Response};
