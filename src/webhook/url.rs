//! Parses the URL a webhook is delivered to, and refuses every URL that must not be called. Pure.
//!
//! The URL is read by the WHATWG rules (<https://url.spec.whatwg.org>), as the HTTP client reads it, and is refused
//! where another parser could read something else: the URL that was checked is the URL that is called.

use std::fmt;
use std::net::IpAddr;

use url::{Host, ParseError, Url};

use crate::address::AddressPolicy;

mod allowed;
mod name;
mod port;
mod refusal;

pub use allowed::AllowedHosts;
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
    /// Refuses `http`, which is otherwise accepted; its owner is warned.
    pub require_https: bool,
}

/// A URL that passed every rule that needs no network. The addresses that its name resolves to are checked when it is called.
///
/// `Debug` shows only the host, since paths and queries of webhooks contain credentials; there is no `Display`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WebhookUrl(Url);

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

    /// Scheme, host and port, such as `https://example.com`.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// The host: the only part of the URL that may be logged. An IPv6 address is in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().expect("a URL without a host is refused")
    }
}

/// Scheme, host and port of a saved URL, also of one that the present policy refuses. `None` if it is no URL.
pub fn origin_of(saved: &str) -> Option<String> {
    Url::parse(saved).ok().map(|url| url.origin().ascii_serialization())
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookUrl").field("host", &self.host()).finish_non_exhaustive()
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

/// Whether `foreign` may stand in an internationalised host name (UTS 46), as letters, accents and emoji may. Digits of other
/// scripts, and characters that the mapping turns into ASCII, drops or forbids, may not.
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
    match policy.require_https {
        _ if !is_scheme(scheme) => Err(no_scheme),
        true => Err(UrlRefusal::HttpsRequired),
        false if scheme.eq_ignore_ascii_case("http") => Ok(after_scheme),
        false => Err(UrlRefusal::Scheme),
    }
}

/// RFC 3986, 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Host and port as written. The WHATWG rules allow any number of slashes before them.
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
        Some(Host::Domain(name)) if name.eq_ignore_ascii_case(written) => check_name(name, &policy.allowed_hosts),
        Some(Host::Ipv4(ip)) => {
            // Some parsers read 0177.0.0.1, 127.1 and 2130706433 as 127.0.0.1, others as another host.
            let without_dot = written.strip_suffix('.').unwrap_or(written);
            if without_dot != ip.to_string() {
                return Err(UrlRefusal::Host);
            }
            check_address(ip.into(), &policy.addresses)?;
            if without_dot == written { Ok(()) } else { Err(UrlRefusal::Host) }
        }
        Some(Host::Ipv6(ip)) => check_address(ip.into(), &policy.addresses),
        // A name with percent-encoding, or no host.
        Some(Host::Domain(_)) | None => Err(UrlRefusal::Host),
    }
}

/// A name among the allowed hosts need not be public.
fn check_name(name: &str, allowed_hosts: &AllowedHosts) -> Result<(), UrlRefusal> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if allowed_hosts.contains(name) { name::check_syntax(name) } else { name::check_public(name) }
}

fn check_address(ip: IpAddr, addresses: &AddressPolicy) -> Result<(), UrlRefusal> {
    if addresses.permits(ip) { Ok(()) } else { Err(UrlRefusal::Blocked) }
}

/// By the WHATWG rules `https:///host` names the host `host`; by RFC 3986 its authority is empty.
fn check_slashes(after_scheme: &str) -> Result<(), UrlRefusal> {
    if after_scheme.starts_with("///") { Err(UrlRefusal::Raw) } else { Ok(()) }
}

/// `example.com.` means `example.com`, but some servers and certificate checks treat them as different.
fn without_final_dot(mut url: Url) -> Result<Url, UrlRefusal> {
    if let Some(name) = url.domain().and_then(|name| name.strip_suffix('.')).map(str::to_owned) {
        url.set_host(Some(&name))?;
    }
    Ok(url)
}

#[cfg(test)]
mod tests;
