//! Names that the operator lets webhooks have as their host although the public DNS does not know them. Pure.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use super::{UrlRefusal, check_characters, name};

/// The hosts of `sender.allow_hosts`. Their names need not be public; their addresses must still be permitted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<AllowedHost>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct AllowedHost {
    /// As in a URL that was parsed: in lower case, without a final dot.
    name: String,
    /// One label of any text and a dot stand before `name`.
    any_first_label: bool,
}

/// Why a text names no host to allow. No error repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AllowedHostError {
    /// Nothing but white space.
    #[error("is empty; name a host, such as receiver")]
    Empty,
    /// An address or a network.
    #[error("is an address; sender.allow_networks is for those")]
    Address,
    /// A URL, or a part of one.
    #[error("is more than a host; write receiver, not http://receiver/hook")]
    Url,
    /// A host and a port.
    #[error("has a port; write the host alone, which may then be called at every port that webhooks may have")]
    Port,
    /// A `*` in a place where it means nothing.
    #[error("has a * that is not the whole first label before a name, as in *.hooks.svc.cluster.local")]
    Wildcard,
    /// Letters outside ASCII.
    #[error("is not in ASCII; write its xn-- form")]
    Ascii,
    /// No name by the rules of the DNS.
    #[error("is no host name: it needs labels of 1 to 63 letters, digits, - and _, with dots between them")]
    Name,
}

impl AllowedHosts {
    /// Reads names: `receiver`, or with `*` as the first label `*.hooks.svc.cluster.local`. They are normalised as the hosts
    /// of URLs are.
    ///
    /// # Errors
    ///
    /// The position of the first text that is no such name, counted from 1, and the reason.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, (usize, AllowedHostError)> {
        let parsed = texts.iter().enumerate();
        let parsed = parsed.map(|(at, text)| AllowedHost::parse(text.as_ref()).map_err(|error| (at + 1, error)));
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// Whether `name`, the host of a parsed URL without its final dot, is allowed.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|allowed| allowed.is(name))
    }

    /// The names as an operator writes them.
    pub fn iter(&self) -> impl Iterator<Item = impl fmt::Display> {
        self.0.iter()
    }
}

impl AllowedHost {
    fn parse(text: &str) -> Result<Self, AllowedHostError> {
        if text.trim().is_empty() {
            return Err(AllowedHostError::Empty);
        }
        if is_address(text) {
            return Err(AllowedHostError::Address);
        }
        if text.contains(['/', '?', '#', '@']) {
            return Err(AllowedHostError::Url);
        }
        if text.contains(':') {
            return Err(AllowedHostError::Port);
        }
        let (any_first_label, written) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        if written.is_empty() || written.contains('*') {
            return Err(AllowedHostError::Wildcard);
        }
        Ok(Self { name: normalised(written)?, any_first_label })
    }

    fn is(&self, name: &str) -> bool {
        match name.split_once('.') {
            Some((_first, rest)) if self.any_first_label => rest == self.name,
            _ => !self.any_first_label && name == self.name,
        }
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.any_first_label { "*." } else { "" }, self.name)
    }
}

fn is_address(text: &str) -> bool {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok()
}

/// The name as the URL parser normalises it.
fn normalised(written: &str) -> Result<String, AllowedHostError> {
    check_characters(written).map_err(|refusal| match refusal {
        UrlRefusal::Ascii => AllowedHostError::Ascii,
        _ => AllowedHostError::Name,
    })?;
    let url = Url::parse(&format!("http://{written}/")).map_err(|_| AllowedHostError::Name)?;
    match url.host() {
        Some(Host::Domain(host)) if host.eq_ignore_ascii_case(written) => {
            let host = host.strip_suffix('.').unwrap_or(host);
            if name::is_name(host) { Ok(host.to_owned()) } else { Err(AllowedHostError::Name) }
        }
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => Err(AllowedHostError::Address),
        // A name with percent-encoding, or no host.
        Some(Host::Domain(_)) | None => Err(AllowedHostError::Name),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::webhook::{UrlPolicy, WebhookUrl};

    fn allowing(texts: &[&str]) -> UrlPolicy {
        let allowed_hosts = AllowedHosts::parse(texts).unwrap_or_else(|error| panic!("{texts:?}: {error:?}"));
        UrlPolicy { allowed_hosts, ..UrlPolicy::default() }
    }

    fn refusal(url: &str, policy: &UrlPolicy) -> Option<UrlRefusal> {
        WebhookUrl::parse(url, policy).err()
    }

    #[test]
    fn a_host_that_the_operator_names_passes_the_rules_for_names() {
        for (allowed, host) in [
            ("receiver", "receiver"),
            ("receiver", "RECEIVER."),
            ("Receiver.", "receiver"),
            ("host.docker.internal", "host.docker.internal"),
            ("*.hooks.svc.cluster.local", "blog.hooks.svc.cluster.local"),
            ("*.HOOKS.svc.cluster.local.", "blog.hooks.SVC.cluster.local"),
            ("*.lan", "printer.lan"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.local", "XN--bcher-kva.local"),
            ("my_hooks.test", "my_hooks.test"),
            ("hooks.example.com", "hooks.example.com"),
        ] {
            let url = format!("http://{host}:9000/hook");
            let parsed = WebhookUrl::parse(&url, &allowing(&["other.internal", allowed]));
            let parsed = parsed.unwrap_or_else(|refusal| panic!("{allowed}: {url}: {refusal}"));
            assert_eq!(parsed.host(), host.to_lowercase().trim_end_matches('.'));
        }
    }

    #[test]
    fn hosts_beside_those_that_are_named_are_refused() {
        let policy = allowing(&["receiver", "*.hooks.svc.cluster.local", "host.docker.internal"]);
        for (host, expected) in [
            ("receiver2", UrlRefusal::Host),
            ("hooks", UrlRefusal::Host),
            ("receiver.internal", UrlRefusal::PrivateName),
            ("metadata.google.internal", UrlRefusal::PrivateName),
            ("docker.internal", UrlRefusal::PrivateName),
            ("a.host.docker.internal", UrlRefusal::PrivateName),
            ("hooks.svc.cluster.local", UrlRefusal::PrivateName),
            ("a.b.hooks.svc.cluster.local", UrlRefusal::PrivateName),
            ("xhooks.svc.cluster.local", UrlRefusal::PrivateName),
            ("blog.hooks.svc.cluster.local.evil.local", UrlRefusal::PrivateName),
            ("localhost", UrlRefusal::PrivateName),
            (".hooks.svc.cluster.local", UrlRefusal::Host),
            ("-.hooks.svc.cluster.local", UrlRefusal::Host),
            ("receiver..", UrlRefusal::Host),
        ] {
            assert_eq!(refusal(&format!("http://{host}/"), &policy), Some(expected), "{host}");
        }
        assert_eq!(refusal("http://blog.receiver.example.com/", &policy), None);
    }

    #[test]
    fn all_other_rules_apply_to_a_host_that_is_named() {
        let policy = UrlPolicy { require_https: true, ..allowing(&["receiver"]) };
        assert_eq!(refusal("https://receiver/", &policy), None);
        assert_eq!(refusal("http://receiver/", &policy), Some(UrlRefusal::HttpsRequired));
        assert_eq!(refusal("https://receiver:5432/", &policy), Some(UrlRefusal::Port));
        assert_eq!(refusal("https://receiver:22/", &policy), Some(UrlRefusal::Port));
        assert_eq!(refusal("https://user@receiver/", &policy), Some(UrlRefusal::UserInfo));
        assert_eq!(refusal("https://127.0.0.1/", &policy), Some(UrlRefusal::Blocked));
        assert_eq!(refusal("https://rec%65iver/", &policy), Some(UrlRefusal::Host));
    }

    #[test]
    fn what_names_no_host_is_refused_with_the_reason() {
        use AllowedHostError::{Address, Ascii, Empty, Name, Port, Url, Wildcard};
        let long = "a".repeat(64);
        for (text, expected) in [
            ("", Empty),
            (" \t", Empty),
            ("http://receiver", Url),
            ("https://receiver/hook", Url),
            ("receiver/", Url),
            ("user@receiver", Url),
            ("receiver:9000", Port),
            ("*.hooks.local:80", Port),
            ("*", Wildcard),
            ("*.", Wildcard),
            ("**.hooks.local", Wildcard),
            ("*.*.local", Wildcard),
            ("hooks.*.local", Wildcard),
            ("a*.hooks.local", Wildcard),
            ("*hooks.local", Wildcard),
            ("hooks.*", Wildcard),
            ("10.0.0.1", Address),
            ("10.0.0.0/8", Address),
            ("::1", Address),
            ("[::1]", Address),
            ("fd00::/8", Address),
            ("127.1", Address),
            ("0x7f000001", Address),
            ("*.127.0.0.1", Address),
            ("bücher.local", Ascii),
            ("receiver\u{200b}", Name),
            ("ｒeceiver", Name),
            (" receiver", Name),
            ("my receiver", Name),
            ("receiver\n", Name),
            ("rec\\eiver", Name),
            ("%72eceiver", Name),
            (".receiver", Name),
            ("receiver..", Name),
            (".", Name),
            ("a..b", Name),
            ("-a.local", Name),
            ("a!b", Name),
            ("xn--0.local", Name),
            (long.as_str(), Name),
        ] {
            assert_eq!(AllowedHosts::parse(&["receiver", text]), Err((2, expected)), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_star_stands_for_one_whole_label_and_a_name_for_itself(
            allowed in "[a-c]{1,2}(\\.[a-c]{1,2}){0,2}\\.local",
            host in "([a-c]{1,2}\\.){0,4}local",
            star: bool,
        ) {
            let text = if star { format!("*.{allowed}") } else { allowed.clone() };
            let hosts = AllowedHosts::parse(&[text.to_uppercase()]).unwrap();
            let expected = if star { host.split_once('.').map(|(_, rest)| rest) } else { Some(&host[..]) };
            prop_assert_eq!(hosts.contains(&host), expected == Some(&allowed[..]));
            prop_assert_eq!(hosts.iter().map(|host| host.to_string()).collect::<Vec<_>>(), [text]);
        }

        #[test]
        fn what_is_allowed_is_read_again_as_it_is_shown(text in "[a-zA-Z0-9.*:/@ü_-]{0,20}") {
            if let Ok(hosts) = AllowedHosts::parse(&[text]) {
                let shown: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
                prop_assert_eq!(AllowedHosts::parse(&shown), Ok(hosts));
            }
        }
    }
}
