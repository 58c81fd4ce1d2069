//! Holds: what operators have stopped sending to for a while. Everything is kept, and sent after the release. Pure.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use uuid::Uuid;

use crate::ids::{AccountId, WebhookId};
use crate::text::is_visible;

/// What a hold holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// One webhook.
    Webhook(WebhookId),
    /// All webhooks of an account, those made later too.
    Account(AccountId),
    /// All webhooks. Workers take no events from the broker either.
    All,
}

/// A hold that is in force for some webhook.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Made by us.
    pub id: Uuid,
    /// What it holds.
    pub held: Held,
    /// Since when.
    pub since: Timestamp,
    /// What the operator wrote.
    pub reason: Option<String>,
    /// `None` until an operator releases it.
    pub release: Option<Release>,
}

/// How far the release of a hold has come. A release takes one webhook after the other, in the order of their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// When the operator released it.
    pub at: Timestamp,
    /// The last webhook that is sent to again; `None` before the first.
    pub through: Option<WebhookId>,
}

/// What an operator notes about a hold: 1 to 200 characters, at least one of them visible and none a control character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldReason(String);

impl HoldReason {
    /// Reads a reason. White space around it does not count. `None`: it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = text.chars().count() <= 200 && text.chars().any(is_visible) && !text.chars().any(char::is_control);
        fits.then(|| Self(text.to_owned()))
    }

    /// The reason without white space around it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which webhooks are held, for many questions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HeldWebhooks {
    /// There is a hold of everything: no event is taken from the broker before it has ended.
    pub(crate) all: Option<Span>,
    accounts: HashMap<AccountId, Span>,
    webhooks: HashSet<WebhookId>,
    /// Webhooks of held accounts, as far as they were known when the holds were read.
    of_accounts: HashSet<WebhookId>,
}

/// The webhooks that a hold of several holds still: those whose ids come after this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(Option<WebhookId>);

impl Span {
    fn has(self, webhook: WebhookId) -> bool {
        self.0.is_none_or(|through| webhook > through)
    }
}

impl Hold {
    fn span(&self) -> Span {
        Span(self.release.and_then(|release| release.through))
    }
}

impl HeldWebhooks {
    /// `of_accounts` are the webhooks of all held accounts.
    pub(crate) fn new(holds: &[Hold], of_accounts: Vec<(AccountId, WebhookId)>) -> Self {
        let mut held = Self::default();
        for hold in holds {
            match &hold.held {
                Held::Webhook(webhook) => drop(held.webhooks.insert(*webhook)),
                Held::Account(account) => drop(held.accounts.insert(account.clone(), hold.span())),
                Held::All => held.all = Some(hold.span()),
            }
        }
        let is_held = |(account, webhook): &(AccountId, WebhookId)| {
            held.accounts.get(account).is_some_and(|span| span.has(*webhook))
        };
        held.of_accounts = of_accounts.into_iter().filter(is_held).map(|(_, webhook)| webhook).collect();
        held
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_none() && self.accounts.is_empty() && self.webhooks.is_empty()
    }

    /// Whether every webhook is held.
    pub(crate) fn has_every_webhook(&self) -> bool {
        self.all.is_some_and(|span| span.0.is_none())
    }

    /// Whether a webhook of this account is held.
    pub(crate) fn has(&self, webhook: WebhookId, account: &AccountId) -> bool {
        !self.is_empty()
            && (self.seems_to_have(webhook) || self.accounts.get(account).is_some_and(|span| span.has(webhook)))
    }

    /// Whether a webhook is held, as far as that is known without its account: not if it was made a moment ago.
    pub(crate) fn seems_to_have(&self, webhook: WebhookId) -> bool {
        self.all.is_some_and(|span| span.has(webhook))
            || self.webhooks.contains(&webhook)
            || self.of_accounts.contains(&webhook)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(number: u128) -> WebhookId {
        WebhookId(Uuid::from_u128(number))
    }

    fn account(name: &str) -> AccountId {
        AccountId::parse(name).unwrap()
    }

    fn hold(held: Held, through: Option<WebhookId>) -> Hold {
        let release = through.map(|through| Release { at: Timestamp::UNIX_EPOCH, through: Some(through) });
        Hold { id: Uuid::nil(), held, since: Timestamp::UNIX_EPOCH, reason: None, release }
    }

    #[test]
    fn a_hold_has_its_webhook_or_those_of_its_account_or_all() {
        let of = |held| HeldWebhooks::new(&[hold(held, None)], vec![(account("a"), webhook(1))]);
        let has = |held: &HeldWebhooks| {
            [(1, "a"), (2, "a"), (3, "b")].map(|(number, name)| held.has(webhook(number), &account(name)))
        };
        assert_eq!(has(&of(Held::Webhook(webhook(2)))), [false, true, false]);
        assert_eq!(has(&of(Held::Account(account("a")))), [true, true, false]);
        assert_eq!(has(&of(Held::All)), [true; 3]);
        assert_eq!(has(&HeldWebhooks::default()), [false; 3]);
        let known = of(Held::Account(account("a")));
        assert!(known.seems_to_have(webhook(1)) && !known.seems_to_have(webhook(2)));
        assert!(of(Held::All).has_every_webhook() && !known.has_every_webhook());
    }

    #[test]
    fn a_release_frees_webhooks_in_the_order_of_their_ids() {
        for held in [Held::Account(account("a")), Held::All] {
            let of_account = vec![(account("a"), webhook(1)), (account("a"), webhook(2)), (account("a"), webhook(3))];
            let releasing = HeldWebhooks::new(&[hold(held, Some(webhook(2)))], of_account);
            assert_eq!([1, 2, 3].map(|number| releasing.has(webhook(number), &account("a"))), [false, false, true]);
            assert_eq!([1, 2, 3].map(|number| releasing.seems_to_have(webhook(number))), [false, false, true]);
            assert!(!releasing.has_every_webhook() && !releasing.is_empty());
        }
    }

    #[test]
    fn a_reason_is_short_text_that_can_be_seen() {
        assert_eq!(HoldReason::parse(" moving servers ").unwrap().as_str(), "moving servers");
        assert!(HoldReason::parse(&"ü".repeat(200)).is_some());
        for text in ["", "  ", "a\nb", "\u{1b}[31m", &"a".repeat(201)] {
            assert_eq!(HoldReason::parse(text), None, "{text:?}");
        }
    }
}
