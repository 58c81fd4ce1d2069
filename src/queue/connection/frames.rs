//! How a frame of AMQP 0-9-1 is laid out (sections 2.3.5 and 4.2 of the specification).
//!
//! ```text
//!  frame           type 1 │ channel 2 │ size 4 │ payload … │ end mark 1
//!  content header  class 2 │ weight 2 │ body size 8 │ property flags 2 │ properties …
//! ```

/// The frame size that we agree on with the broker: RabbitMQ's default.
pub(in crate::queue) const MAX_FRAME_BYTES: u32 = 128 * 1024;

/// Frame types.
pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
pub(super) const HEARTBEAT: u8 = 8;

/// Type, channel and size, before the payload.
pub(super) const FRAME_HEADER_BYTES: usize = 7;
/// The end mark behind the payload.
pub(super) const FRAME_END: u8 = 0xCE;

/// Class, weight and body size, before the properties of a content header.
pub(super) const BEFORE_PROPERTIES_BYTES: usize = 12;
/// The property flag that says that there are headers.
pub(super) const HAS_HEADERS: u16 = 1 << 13;
