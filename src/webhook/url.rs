//! Parses the URL a webhook is delivered to, and refuses every URL that must not be called. Pure.
//!
//! The URL is read by the WHATWG rules (<https://url.spec.whatwg.org>), as the HTTP client reads it, and is refused
//! where another reader could take it for something else: what was checked is what is called.

use std::fmt;
use std::net::IpAddr;

use url::{Host, ParseError, Url};

use crate::address::AddressPolicy;

mod allowed;
mod name;
mod port;
mod refusal;

pub use allowed::{AllowedHostError, AllowedHosts};
pub use refusal::UrlRefusal;

/// The longest URL accepted, in bytes: as written, and as it is requested.
pub const MAX_URL_BYTES: usize = 2048;

/// What the operator accepts as the URL of a webhook.
#[derive(Debug, Clone, Default)]
pub struct UrlPolicy {
    /// Which addresses may stand in a URL.
    pub addresses: AddressPolicy,
    /// Which names may stand in a URL beside public ones.
    pub allowed_hosts: AllowedHosts,
    /// Refuses `http`, which is otherwise accepted with a warning.
    pub require_https: bool,
}

/// A URL that a webhook may be delivered to, as far as its text tells: the addresses its name resolves to are vetted
/// when it is called.
///
/// `Debug` shows the host alone, since paths and queries of webhooks carry credentials; there is no `Display`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WebhookUrl(Url);

/// Something about an accepted URL that its owner should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlWarning {
    /// The scheme is `http`.
    PlainHttp,
}

impl WebhookUrl {
    /// Parses `raw` and applies every rule that needs no network.
    ///
    /// Parsing the [`as_str`](Self::as_str) of an accepted URL under the same policy gives the same URL again.
    ///
    /// # Errors
    ///
    /// The first rule that `raw` breaks; its text never repeats any part of `raw`.
    pub fn parse(raw: &str, policy: &UrlPolicy) -> Result<Self, UrlRefusal> {
        check_length(raw)?;
        check_characters(raw)?;
        let after_scheme = check_scheme(raw, policy)?;
        let authority = authority(after_scheme)?;
        if authority.contains('@') {
            return Err(UrlRefusal::UserInfo);
        }
        let url = Url::parse(raw)?;
        if url.fragment().is_some() {
            return Err(UrlRefusal::Fragment);
        }
        check_host(&url, host_as_written(authority), policy)?;
        check_slashes(after_scheme)?;
        port::check(&url)?;
        let url = without_final_dot(url)?;
        check_length(url.as_str())?;
        Ok(Self(url))
    }

    /// The normalised URL, which is the one requested: the host in lower case and without a final dot, no default
    /// port, dot segments resolved.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The same as [`as_str`](Self::as_str), for the HTTP client.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// The host: the only part of the URL that may be logged. An IPv6 address is in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().expect("a URL without a host is refused")
    }

    /// The address, where the host is one. The HTTP client resolves nothing then, so vet it here.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.0.host()? {
            Host::Ipv4(ip) => Some(ip.into()),
            Host::Ipv6(ip) => Some(ip.into()),
            Host::Domain(_) => None,
        }
    }

    /// Whether payloads travel unencrypted.
    #[must_use]
    pub fn is_http(&self) -> bool {
        self.0.scheme() == "http"
    }

    /// What its owner should know about this URL; empty for most.
    #[must_use]
    pub fn warnings(&self) -> Vec<UrlWarning> {
        if self.is_http() { vec![UrlWarning::PlainHttp] } else { Vec::new() }
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookUrl").field("host", &self.host()).finish_non_exhaustive()
    }
}

impl fmt::Display for UrlWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlainHttp => f.write_str("the URL uses http, so everyone on the way can read the events; use https"),
        }
    }
}

fn check_length(url: &str) -> Result<(), UrlRefusal> {
    if url.len() > MAX_URL_BYTES { Err(UrlRefusal::TooLong) } else { Ok(()) }
}

/// Printable ASCII without the backslash, which the WHATWG rules take for a slash and RFC 3986 does not.
fn check_characters(raw: &str) -> Result<(), UrlRefusal> {
    if raw.bytes().any(|byte| byte.is_ascii_control() || byte == b' ' || byte == b'\\') {
        return Err(UrlRefusal::Raw);
    }
    let mut foreign = raw.chars().filter(|char| !char.is_ascii()).peekable();
    if foreign.peek().is_none() {
        return Ok(());
    }
    if foreign.all(is_letter_or_symbol) { Err(UrlRefusal::Ascii) } else { Err(UrlRefusal::Raw) }
}

/// Whether `foreign` stands for itself in a host name: not a digit of any script, and nothing that the mapping of
/// internationalised names (UTS 46) turns into ASCII, drops or forbids. Letters, their accents and emoji do.
fn is_letter_or_symbol(foreign: char) -> bool {
    let stays = |label: String| Host::parse(&label).is_ok_and(|host| host.to_string().starts_with("xn--"));
    // An accent needs a letter before it; a letter written from right to left must not have a Latin one there.
    !foreign.is_numeric() && (stays(foreign.into()) || stays(format!("a{foreign}")))
}

/// The part after `http:` or `https:`.
fn check_scheme<'a>(raw: &'a str, policy: &UrlPolicy) -> Result<&'a str, UrlRefusal> {
    let no_scheme = UrlRefusal::Parse(ParseError::RelativeUrlWithoutBase);
    let (scheme, after_scheme) = raw.split_once(':').ok_or(no_scheme)?;
    if scheme.eq_ignore_ascii_case("https") {
        return Ok(after_scheme);
    }
    if scheme.eq_ignore_ascii_case("http") {
        return if policy.require_https { Err(UrlRefusal::HttpsRequired) } else { Ok(after_scheme) };
    }
    if is_scheme(scheme) { Err(UrlRefusal::Scheme) } else { Err(no_scheme) }
}

/// RFC 3986, 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Host and port as written, behind any number of slashes as the WHATWG rules have it.
fn authority(after_scheme: &str) -> Result<&str, UrlRefusal> {
    if !after_scheme.starts_with("//") {
        return Err(UrlRefusal::Raw);
    }
    let rest = after_scheme.trim_start_matches('/');
    Ok(rest.find(['/', '?', '#']).map_or(rest, |end| &rest[..end]))
}

fn host_as_written(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // A colon before the closing bracket belongs to an IPv6 address.
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

fn check_host(url: &Url, written: &str, policy: &UrlPolicy) -> Result<(), UrlRefusal> {
    match url.host() {
        Some(Host::Domain(name)) if name.eq_ignore_ascii_case(written) => name::check(name, &policy.allowed_hosts),
        Some(Host::Ipv4(ip)) => {
            // 0177.0.0.1, 127.1 and 2130706433 are 127.0.0.1 to some readers and something else to others.
            let without_dot = written.strip_suffix('.').unwrap_or(written);
            if without_dot != ip.to_string() {
                return Err(UrlRefusal::Host);
            }
            check_address(ip.into(), &policy.addresses)?;
            if without_dot == written { Ok(()) } else { Err(UrlRefusal::Host) }
        }
        Some(Host::Ipv6(ip)) => check_address(ip.into(), &policy.addresses),
        // A name that is written with escapes, or no host at all.
        Some(Host::Domain(_)) | None => Err(UrlRefusal::Host),
    }
}

fn check_address(ip: IpAddr, addresses: &AddressPolicy) -> Result<(), UrlRefusal> {
    if addresses.permits(ip) { Ok(()) } else { Err(UrlRefusal::Blocked) }
}

/// `https:///host` is a host to the WHATWG rules and an empty authority to RFC 3986.
fn check_slashes(after_scheme: &str) -> Result<(), UrlRefusal> {
    if after_scheme.starts_with("///") { Err(UrlRefusal::Raw) } else { Ok(()) }
}

/// `example.com.` is `example.com`, but not every server and certificate check knows.
fn without_final_dot(mut url: Url) -> Result<Url, UrlRefusal> {
    if let Some(name) = url.domain().and_then(|name| name.strip_suffix('.')).map(str::to_owned) {
        url.set_host(Some(&name))?;
    }
    Ok(url)
}

#[cfg(test)]
mod tests;
