//! What pools of HTTP connections promise, against scripted peers and hyper's own servers, over pipes.

#![allow(missing_docs)]

mod http1;
mod http2;
mod http2_ends;
mod net;
