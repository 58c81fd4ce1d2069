//! What could not be checked at the broker, since this user lacks the rights to declare or bind it. Pure.

use std::fmt;

use super::bindings::{Binding, Wanted};
use super::entities::Entity;
use super::rights::{Names, Right, listed, needed};

/// What this user may neither declare nor bind, so that its arguments and bindings could not be checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UncheckedTopology {
    user: String,
    /// Exchanges and queues, each with the arguments that it should have.
    entities: Vec<String>,
    /// Bindings that should be there, each as `a to b`.
    bindings: Vec<String>,
    /// Bindings that should not be there, each as `a from b`.
    unwanted: Vec<String>,
    /// The rights that would allow the check.
    needs: Vec<(Right, Names)>,
    /// Exchanges and queues of which this user may not even ask whether they exist.
    pub(super) hidden: Vec<String>,
}

impl UncheckedTopology {
    pub(in crate::queue) fn of(user: &str) -> Self {
        Self { user: user.to_owned(), ..Self::default() }
    }

    pub(in crate::queue) fn add(&mut self, entity: &Entity) {
        self.entities.push(entity.to_string());
        self.needs.push((Right::Configure, Names::One(entity.name.clone())));
    }

    pub(super) fn add_binding(&mut self, binding: &Binding) {
        match binding.wanted {
            Wanted::Bound => self.bindings.push(shown(binding)),
            Wanted::Unbound | Wanted::UnboundAtLast => self.unwanted.push(shown(binding)),
        }
        let needed = [(Right::Write, binding.to.name()), (Right::Read, &binding.from)];
        self.needs.extend(needed.map(|(right, name)| (right, Names::One(name.to_owned()))));
    }

    pub(super) fn has_binding(&self, binding: &Binding) -> bool {
        self.bindings.iter().chain(&self.unwanted).any(|unchecked| *unchecked == shown(binding))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entities.is_empty() && self.bindings.is_empty() && self.unwanted.is_empty()
    }

    /// The rights that would allow the check.
    pub(crate) fn needed(&self) -> String {
        format!("give it {}", needed(&self.needs))
    }

    /// What to do about it.
    pub(crate) fn remedy(&self) -> String {
        let needed = self.needed();
        format!(
            "{needed}, or check it yourself: a queue without its dead-letter exchange loses rejected messages, and one \
             without its bindings gets none"
        )
    }
}

fn shown(Binding { to, from, wanted, .. }: &Binding) -> String {
    let word = if *wanted == Wanted::Bound { "to" } else { "from" };
    format!("{} {word} {from}", to.name())
}

impl fmt::Display for UncheckedTopology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doing: Vec<String> = [("declare", &self.entities), ("bind", &self.bindings), ("unbind", &self.unwanted)]
            .into_iter()
            .filter(|(_, what)| !what.is_empty())
            .map(|(verb, what)| format!("{verb} {}", listed(what)))
            .collect();
        write!(
            f,
            "the user {} may not {}: whether the broker has it so is not checked",
            self.user,
            doing.join(", nor ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Queue;
    use crate::queue::topology::bindings::bindings;
    use crate::queue::topology::entities::entities;

    #[test]
    fn what_could_not_be_checked_is_named_with_what_may_be_lost() {
        let queue = Queue::example();
        let mut unchecked = UncheckedTopology::of("u");
        assert!(unchecked.is_empty());
        unchecked.add(&entities(&queue)[2]);
        let said = unchecked.to_string();
        assert_eq!(
            said,
            "the user u may not declare the exchange dead (durable, fanout): whether the broker has it so is not checked"
        );
        let [dead_binding, binding] = &bindings(&queue)[..] else { panic!("two bindings") };
        unchecked.add_binding(binding);
        assert!(unchecked.has_binding(binding) && !unchecked.has_binding(dead_binding));
        assert!(unchecked.to_string().contains(", nor bind events.queue to events:"), "{unchecked}");
        let remedy = unchecked.remedy();
        assert!(remedy.starts_with(r"give it configure on ^dead$, write on ^events\.queue$ and read on ^events$, or"));
        assert!(remedy.contains("loses rejected messages"), "{remedy}");
    }
}
