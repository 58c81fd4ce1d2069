//! What a user may not do at the broker, and which rights would allow it. Pure.
//!
//! RabbitMQ gives each user three rights in a virtual host, each of them a pattern of names:
//! <https://www.rabbitmq.com/docs/access-control#authorisation>.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::queue) enum Right {
    Configure,
    Write,
    Read,
}

/// The names that a pattern has to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::queue) enum Names {
    One(String),
    /// Every name that begins with it.
    Prefix(String),
}

/// Something that the broker refuses this user, and the rights that would allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRights {
    pub(in crate::queue) user: String,
    /// Such as `read the queue penr.webhooks`.
    pub(in crate::queue) doing: String,
    pub(in crate::queue) needs: Vec<(Right, Names)>,
    /// Another remedy, as the end of a sentence; may be empty.
    pub(in crate::queue) or_else: &'static str,
}

impl MissingRights {
    /// The rights to read a queue.
    pub(in crate::queue) fn reading(user: &str, queue: &str) -> Self {
        Self {
            user: user.to_owned(),
            doing: format!("read the queue {queue}"),
            needs: vec![(Right::Read, Names::One(queue.to_owned()))],
            or_else: "",
        }
    }

    /// The rights to ask how many messages a queue has.
    pub(in crate::queue) fn counting(user: &str, queue: &str) -> Self {
        Self { or_else: " (RabbitMQ 4.2.6 and 4.3.0 want configure on it, too)", ..Self::reading(user, queue) }
    }

    /// The rights to publish to an exchange. The default exchange, whose name is empty, routes to each queue by its name.
    pub(in crate::queue) fn publishing(user: &str, exchange: &str) -> Self {
        let (doing, name) = match exchange {
            "" => ("write to the default exchange".to_owned(), "amq.default"),
            exchange => (format!("publish to the exchange {exchange}"), exchange),
        };
        let needs = vec![(Right::Write, Names::One(name.to_owned()))];
        Self { user: user.to_owned(), doing, needs, or_else: "" }
    }

    /// What this user may not do.
    pub(crate) fn problem(&self) -> String {
        format!("the user {} may not {}", self.user, self.doing)
    }

    /// What an operator can do about it.
    pub(crate) fn remedy(&self) -> String {
        format!("give it {}{}", needed(&self.needs), self.or_else)
    }
}

impl fmt::Display for MissingRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem(), self.remedy())
    }
}

/// Such as `configure on ^a$, write on ^(b|c)$ and read on ^a$`.
pub(in crate::queue) fn needed(needs: &[(Right, Names)]) -> String {
    let mut by_right = BTreeMap::<Right, Vec<&Names>>::new();
    for (right, names) in needs {
        let of_right = by_right.entry(*right).or_default();
        if !of_right.contains(&names) {
            of_right.push(names);
        }
    }
    let parts: Vec<String> =
        by_right.into_iter().map(|(right, names)| format!("{} on {}", right.word(), pattern(&names))).collect();
    listed(&parts)
}

/// `a, b and c`
pub(in crate::queue) fn listed(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

impl Right {
    fn word(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// The narrowest regular expression that matches all names.
fn pattern(names: &[&Names]) -> String {
    let all_whole = names.iter().all(|name| matches!(name, Names::One(_)));
    let part = |name: &&Names| match name {
        Names::One(name) if all_whole => escaped(name),
        Names::One(name) => format!("{}$", escaped(name)),
        Names::Prefix(start) => escaped(start),
    };
    let parts: Vec<String> = names.iter().map(part).collect();
    let end = if all_whole { "$" } else { "" };
    match &parts[..] {
        [one] => format!("^{one}{end}"),
        many => format!("^({}){end}", many.join("|")),
    }
}

fn escaped(name: &str) -> String {
    let plain = |char: char| !char.is_ascii_punctuation() || matches!(char, '_' | '-' | '/' | ':' | ',' | '@');
    name.chars().flat_map(|char| (!plain(char)).then_some('\\').into_iter().chain([char])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> Names {
        Names::One(name.to_owned())
    }

    #[test]
    fn missing_rights_name_the_user_what_it_may_not_do_and_the_narrowest_rights_for_it() {
        let missing_rights = MissingRights::reading("worker", "penr.webhooks");
        let said = r"the user worker may not read the queue penr.webhooks: give it read on ^penr\.webhooks$";
        assert_eq!(missing_rights.to_string(), said);
        let missing_rights = MissingRights { or_else: ", or wait", ..MissingRights::publishing("u", "a+b_c") };
        let said = r"the user u may not publish to the exchange a+b_c: give it write on ^a\+b_c$, or wait";
        assert_eq!(missing_rights.to_string(), said);
    }

    #[test]
    fn the_default_exchange_is_called_what_rights_call_it() {
        let said = MissingRights::publishing("u", "").to_string();
        assert!(said.ends_with(r"give it write on ^amq\.default$"), "{said}");
    }

    #[test]
    fn rights_are_grouped_and_named_once() {
        let needs = [
            (Right::Read, one("q")),
            (Right::Configure, one("a")),
            (Right::Configure, one("b.c")),
            (Right::Configure, one("a")),
            (Right::Write, Names::Prefix("w.".to_owned())),
        ];
        assert_eq!(needed(&needs), r"configure on ^(a|b\.c)$, write on ^w\. and read on ^q$");
        let mixed = [(Right::Read, one("a")), (Right::Read, Names::Prefix("b.".to_owned()))];
        assert_eq!(needed(&mixed), r"read on ^(a$|b\.)");
    }
}
