//! The HTTP API: what customers can do, and what nobody can.

mod bodies;
mod described;
mod http;
mod isolation;
mod limits;
mod log;
mod page;
pub mod schemathesis;
mod test_sends;
mod tokens;
mod unavailable;
mod webhooks;
