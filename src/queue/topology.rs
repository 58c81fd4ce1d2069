//! The exchanges, queues and bindings that a worker needs at the broker: what they are, who declares them, which rights that
//! takes.
//!
//! ```text
//!  declare    at each attach: declares and binds everything ─▶ entities   what there is, with its arguments
//!  watch      every 5 s: declares again what was deleted    ─▶ bindings   what is bound, and in which order
//!                                                           ─▶ part       what of it one consumer needs
//!                                                           ─▶ unchecked  what this user may not declare or bind
//!                                                           ─▶ rights     which right is lacking, for errors
//!  unrouted   both for what keeps events that no queue takes, which workers can do without
//!  plugin     whether the broker can spread events over several queues, for `doctor`
//! ```

mod bindings;
pub(super) mod declare;
pub(super) mod entities;
pub(super) mod part;
pub(super) mod plugin;
pub(super) mod rights;
pub(super) mod unchecked;
pub(super) mod unrouted;
pub(super) mod watch;
