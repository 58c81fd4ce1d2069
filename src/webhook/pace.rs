//! How many requests a second a webhook gets at most.

use std::num::NonZeroU32;

use serde::Serialize;

use super::WebhookRefusal;

/// The most requests that a webhook gets in a second, from all workers together: 1 to 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct MaxPerSecond(NonZeroU32);

impl MaxPerSecond {
    /// The largest number that a customer may ask for.
    pub const MOST: u32 = 1000;

    /// Reads a number.
    ///
    /// # Errors
    ///
    /// [`WebhookRefusal::MaxPerSecond`]
    pub fn new(number: i64) -> Result<Self, WebhookRefusal> {
        let number = u32::try_from(number).ok().filter(|number| *number <= Self::MOST);
        number.and_then(NonZeroU32::new).map(Self).ok_or(WebhookRefusal::MaxPerSecond)
    }

    /// The number.
    pub fn get(self) -> NonZeroU32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_1_to_1000_requests_a_second() {
        for number in [1, 2, 999, 1000] {
            assert_eq!(MaxPerSecond::new(number).map(|pace| i64::from(pace.get().get())), Ok(number));
        }
        for number in [0, -1, 1001, i64::MIN, i64::MAX, 1 << 32 | 1] {
            assert_eq!(MaxPerSecond::new(number), Err(WebhookRefusal::MaxPerSecond), "{number}");
        }
    }
}
