//! One connection to RabbitMQ: which address is used, how it is opened, what its bytes pass through, how it ends.
//!
//! ```text
//!  connect ─▶ address      reads AMQP_URL: one or several nodes
//!     │   ├─▶ nodes        their order; nodes that failed lately come last
//!     │   └─▶ unserved     the reasons (refusal) why no node served
//!     └─▶ link             the open connection and its socket
//!           └─▶ stream     its bytes ─▶ nesting (no table too deep) ─▶ repair (no property unreadable)
//! ```

pub(super) mod address;
pub(super) mod connect;
pub(super) mod encryption;
pub(super) mod frames;
pub(super) mod greeting;
pub(super) mod link;
mod nesting;
pub(super) mod nodes;
pub(super) mod refusal;
pub(super) mod repair;
mod stream;
pub(super) mod unserved;
