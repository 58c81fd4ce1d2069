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

/// Each webhook with the time since when it may have due deliveries, by Postgres's clock.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    since: BTreeMap<WebhookId, Timestamp>,
    /// The last webhook whose room was looked at: the next look begins behind it.
    asked: WebhookId,
}

impl Agenda {
    /// Adds a webhook. Returns whether it was not there before.
    pub(super) fn note(&mut self, due: DueWebhook) -> bool {
        let known = self.since.contains_key(&due.id);
        let since = self.since.entry(due.id).or_insert(due.since);
        *since = due.since.min(*since);
        !known
    }

    pub(super) fn has(&self, webhook: WebhookId) -> bool {
        self.since.contains_key(&webhook)
    }

    /// Since when the delivery that has waited longest may have been due, those of some webhooks left out.
    pub(super) fn oldest(&self, mut is_left_out: impl FnMut(WebhookId) -> bool) -> Option<Timestamp> {
        self.since.iter().filter(|(webhook, _)| !is_left_out(**webhook)).map(|(_, since)| *since).min()
    }

    /// Whether there are too many webhooks to look at the room of all in a row.
    pub(super) fn is_long(&self) -> bool {
        self.since.len() > LOOKED_AT
    }

    /// The next webhooks that have room, with `most` deliveries in all at most. Webhooks take turns from call to call.
    pub(super) fn rooms(&mut self, most: usize, mut room_of: impl FnMut(WebhookId) -> usize) -> Vec<Room> {
        let (mut rooms, mut left, mut asked) = (Vec::new(), most, self.asked);
        let next = self.since.range((Excluded(self.asked), Unbounded));
        let again = self.since.range(..=self.asked);
        for (webhook, since) in next.chain(again).take(LOOKED_AT) {
            if left == 0 || rooms.len() == WEBHOOKS {
                break;
            }
            asked = *webhook;
            let room = room_of(*webhook).min(left);
            left -= room;
            if room > 0 {
                rooms.push(Room { webhook: *webhook, since: *since, most: room, granted: false });
            }
        }
        self.asked = asked;
        rooms
    }

    /// To be called after a claim for this room. If fewer deliveries were due than there was room for, none is left, and
    /// the webhook is removed; what falls due later adds it again.
    pub(super) fn claimed(&mut self, room: &Room, taken: Option<&Taken>) {
        if self.since.get(&room.webhook).is_some_and(|since| *since < room.since) {
            // Something older was found since the room was made.
            return;
        }
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
        let room_of = |id: WebhookId| if id == webhook(2) { 0 } else { 6 };
        assert_eq!(asked_for(&agenda.rooms(10, room_of)), [(1, 6), (3, 4)]);
        assert_eq!(asked_for(&agenda.rooms(10, room_of)), [(4, 6), (1, 4)]);
    }

    #[test]
    fn a_webhook_is_left_once_less_is_due_than_it_has_room_for() {
        let mut agenda = agenda(1..=3);
        let rooms = agenda.rooms(30, |_| 10);
        agenda.claimed(&rooms[0], Some(&Taken { count: 10, until: second(20) }));
        agenda.claimed(&rooms[1], Some(&Taken { count: 9, until: second(15) }));
        agenda.claimed(&rooms[2], None);
        assert_eq!(asked_for(&agenda.rooms(30, |_| 10)), [(1, 10)]);
        assert_eq!(agenda.oldest(|_| false), Some(second(20)), "what was claimed is not read again");
    }

    #[test]
    fn what_was_missed_is_read_from_where_it_was_found() {
        let mut agenda = agenda(1..=1);
        assert!(!agenda.note(DueWebhook { id: webhook(1), since: second(5) }));
        assert!(!agenda.note(DueWebhook { id: webhook(1), since: second(15) }));
        assert_eq!(agenda.rooms(1, |_| 1)[0].since, second(5));
    }

    #[test]
    fn no_webhook_is_asked_twice_in_a_row() {
        let mut agenda = agenda(1..=3);
        let mut asked = Vec::new();
        agenda.rooms(10, |id| {
            asked.push(id.0.as_u128());
            0
        });
        assert_eq!(asked, [1, 2, 3]);
    }
}
