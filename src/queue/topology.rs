//! The exchanges, queues and bindings that a worker needs at the broker: what they are, who declares them, which rights that
//! takes.
//!
//! ```text
//!  declare    at each attach: declares and binds everything ─▶ entities   what there is, with its arguments
//!  watch      every 5 s: declares again what was deleted    ─▶ unchecked  what this user may not declare or bind
//!                                                           ─▶ rights     which right is lacking, for errors
//! ```

pub(super) mod declare;
pub(super) mod entities;
pub(super) mod rights;
pub(super) mod unchecked;
pub(super) mod watch;
