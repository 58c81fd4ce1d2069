//! The HTTP API: what customers can do, and what it refuses to everybody.

mod additions;
mod audit;
mod bodies;
mod clients;
mod deliveries;
mod described;
mod headers;
mod hidden_values;
mod http;
mod idempotency;
mod isolation;
mod kept_answers;
mod limits;
mod log;
mod page;
mod proxied;
pub mod schemathesis;
mod shapes;
mod test_sends;
mod tokens;
mod unavailable;
mod webhook_changes;
mod webhooks;
