//! No request ever goes where the operator has not allowed it: whatever a URL, a name server, a receiver or the
//! environment says, a listener that is not the webhook's own sees no connection.
//!
//! Everything here stays on loopback. The sites allow 127.0.0.1 alone, which stands for the public internet, so
//! 127.0.0.2 stands for the operator's own network.

mod canary;
mod names;
mod redirects;
mod urls;
