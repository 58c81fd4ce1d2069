//! A receiver may answer anything: time, memory and log stay bounded, its status line alone decides about success, and other
//! receivers are not affected.

mod bodies;
mod connections;
mod framing;
mod names;
mod retry_after;
mod slowness;
mod stage;
mod statuses;
mod tls;
