//! The agenda: the webhooks that may have due deliveries. Pure.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use jiff::Timestamp;

use crate::ids::WebhookId;
use crate::store::{DueWebhook, Room, Taken};

/// Webhooks per statement that claims.
const WEBHOOKS: usize = 256;
/// Webhooks whose room is looked at in a row: the lanes are locked meanwhile.
const LOOKED_AT: usize = 4096;

/// What a look at a webhook finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// So many deliveries may be claimed.
    Room(usize),
    /// An operator holds it.
    Held,
}

/// Each webhook with the time since when it may have due deliveries, by Postgres's clock.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    since: BTreeMap<WebhookId, Timestamp>,
    /// Those that were held when they were looked at: they are not looked at again before the holds change. However many they are,
    /// they must not delay the others.
    held: BTreeMap<WebhookId, Timestamp>,
    /// Which reading of the holds that was.
    holds: u64,
    /// The last webhook whose room was looked at: the next look begins behind it.
    asked: WebhookId,
}

impl Agenda {
    /// Adds a webhook. Returns whether it was not there before.
    pub(super) fn note(&mut self, due: DueWebhook) -> bool {
        let known = self.has(due.id);
        let part = if self.held.contains_key(&due.id) { &mut self.held } else { &mut self.since };
        let since = part.entry(due.id).or_insert(due.since);
        *since = due.since.min(*since);
        !known
    }

    pub(super) fn has(&self, webhook: WebhookId) -> bool {
        self.since.contains_key(&webhook) || self.held.contains_key(&webhook)
    }

    /// To be called with the number of the last change of the holds, before anything is asked that depends on them.
    pub(super) fn holds_are(&mut self, change: u64) {
        if self.holds != change {
            self.holds = change;
            self.since.append(&mut self.held);
        }
    }

    /// Since when the delivery that has waited longest may have been due, held ones and those of some webhooks left out.
    pub(super) fn oldest(&self, mut is_left_out: impl FnMut(WebhookId) -> bool) -> Option<Timestamp> {
        self.since.iter().filter(|(webhook, _)| !is_left_out(**webhook)).map(|(_, since)| *since).min()
    }

    /// Whether there are too many webhooks to look at the room of all in a row, held ones left out.
    pub(super) fn is_long(&self) -> bool {
        self.since.len() > LOOKED_AT
    }

    /// The next webhooks that have room, with `most` deliveries in all at most. Webhooks take turns from call to call.
    pub(super) fn rooms(&mut self, most: usize, mut look: impl FnMut(WebhookId) -> Look) -> Vec<Room> {
        let (mut rooms, mut held, mut left, mut asked) = (Vec::new(), Vec::new(), most, self.asked);
        let next = self.since.range((Excluded(self.asked), Unbounded));
        let again = self.since.range(..=self.asked);
        for (webhook, since) in next.chain(again).take(LOOKED_AT) {
            if left == 0 || rooms.len() == WEBHOOKS {
                break;
            }
            asked = *webhook;
            let room = match look(*webhook) {
                Look::Held => {
                    held.push(*webhook);
                    continue;
                }
                Look::Room(room) => room.min(left),
            };
            left -= room;
            if room > 0 {
                rooms.push(Room { webhook: *webhook, since: *since, most: room, granted: false });
            }
        }
        self.asked = asked;
        self.held.extend(held.into_iter().filter_map(|webhook| self.since.remove_entry(&webhook)));
        rooms
    }

    /// To be called after a claim for this room. If fewer deliveries were due than there was room for, none is left, and
    /// the webhook is removed; what falls due later adds it again.
    pub(super) fn claimed(&mut self, room: &Room, taken: Option<&Taken>) {
        let since = self.since.get(&room.webhook).or_else(|| self.held.get(&room.webhook));
        if since.is_some_and(|since| *since < room.since) {
            // Something older was found since the room was made.
            return;
        }
        // It may have been held since the room was made.
        self.held.remove(&room.webhook);
        match taken {
            Some(taken) if taken.count >= room.most => drop(self.since.insert(room.webhook, taken.until)),
            _ => drop(self.since.remove(&room.webhook)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn webhook(number: u128) -> WebhookId {
        WebhookId(Uuid::from_u128(number))
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn agenda(webhooks: std::ops::RangeInclusive<u128>) -> Agenda {
        let mut agenda = Agenda::default();
        for number in webhooks {
            agenda.note(DueWebhook { id: webhook(number), since: second(10) });
        }
        agenda
    }

    fn asked_for(rooms: &[Room]) -> Vec<(u128, usize)> {
        rooms.iter().map(|room| (room.webhook.0.as_u128(), room.most)).collect()
    }

    #[test]
    fn webhooks_with_room_take_turns_and_the_others_cost_nothing() {
        let mut agenda = agenda(1..=4);
        let room_of = |id: WebhookId| Look::Room(if id == webhook(2) { 0 } else { 6 });
        assert_eq!(asked_for(&agenda.rooms(10, room_of)), [(1, 6), (3, 4)]);
        assert_eq!(asked_for(&agenda.rooms(10, room_of)), [(4, 6), (1, 4)]);
    }

    #[test]
    fn a_webhook_is_left_once_less_is_due_than_it_has_room_for() {
        let mut agenda = agenda(1..=3);
        let rooms = agenda.rooms(30, |_| Look::Room(10));
        agenda.claimed(&rooms[0], Some(&Taken { count: 10, until: second(20) }));
        agenda.claimed(&rooms[1], Some(&Taken { count: 9, until: second(15) }));
        agenda.claimed(&rooms[2], None);
        assert_eq!(asked_for(&agenda.rooms(30, |_| Look::Room(10))), [(1, 10)]);
        assert_eq!(agenda.oldest(|_| false), Some(second(20)), "what was claimed is not read again");
    }

    #[test]
    fn what_was_missed_is_read_from_where_it_was_found() {
        let mut agenda = agenda(1..=1);
        assert!(!agenda.note(DueWebhook { id: webhook(1), since: second(5) }));
        assert!(!agenda.note(DueWebhook { id: webhook(1), since: second(15) }));
        assert_eq!(agenda.rooms(1, |_| Look::Room(1))[0].since, second(5));
    }

    #[test]
    fn no_webhook_is_asked_twice_in_a_row() {
        let mut agenda = agenda(1..=3);
        let mut asked = Vec::new();
        agenda.rooms(10, |id| {
            asked.push(id.0.as_u128());
            Look::Room(0)
        });
        assert_eq!(asked, [1, 2, 3]);
    }

    #[test]
    fn held_webhooks_are_looked_at_once_until_the_holds_change() {
        let mut agenda = agenda(1..=LOOKED_AT as u128 + 1);
        let free = webhook(LOOKED_AT as u128 + 1);
        let look = |id: WebhookId| if id == free { Look::Room(1) } else { Look::Held };
        agenda.holds_are(1);
        assert!(agenda.rooms(1, look).is_empty(), "it comes behind as many as are looked at in a row");
        for _ in 0..2 {
            assert_eq!(agenda.rooms(1, look).len(), 1, "it is the only one that is not held");
        }
        assert!(!agenda.is_long() && agenda.has(webhook(1)));
        assert!(!agenda.note(DueWebhook { id: webhook(1), since: second(5) }), "it is known");
        agenda.holds_are(1);
        assert_eq!(agenda.rooms(1, |_| Look::Room(1))[0].webhook, free);
        agenda.holds_are(2);
        assert_eq!(agenda.rooms(1, |_| Look::Room(1))[0].since, second(5));
        assert!(agenda.is_long());
    }
}
