//! No request goes to an address that the operator has not allowed. No URL, name server, receiver or environment variable makes
//! the worker connect to another listener than the webhook's own.
//!
//! All connections stay on loopback. The settings allow only 127.0.0.1, which stands for the public internet; 127.0.0.2 stands
//! for the operator's own network.

mod canary;
mod names;
mod redirects;
mod urls;
