//! What pools of HTTP connections promise, against scripted peers and hyper's own servers, over pipes.

mod http1;
mod http1_ends;
mod http2;
mod http2_ends;
mod net;
