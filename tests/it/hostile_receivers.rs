//! A receiver may answer whatever it likes: time, memory and log stay bounded, the verdict stands in its status line,
//! and the next receiver never notices.

mod bodies;
mod connections;
mod framing;
mod retry_after;
mod slowness;
mod stage;
mod statuses;
mod tls;
