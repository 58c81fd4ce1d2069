//! Reads `AMQP_URL`: the addresses of one broker's nodes (<https://www.rabbitmq.com/docs/uri-spec>).
//!
//! The AMQP library reads a single URL, connects to `localhost` instead of an IPv6 host, and misreads text after a `#` and a
//! second URL. So the text is split here, and refused where it cannot be right. An error names the wrong part and shows a
//! right one. No error repeats a value: what looks like a host may be part of a password that was not percent-encoded.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, bail, ensure};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use percent_encoding::percent_decode_str;

const SCHEMES: [(&str, AMQPScheme); 2] = [("amqp://", AMQPScheme::AMQP), ("amqps://", AMQPScheme::AMQPS)];

const FORM: &str = "amqp://user:password@host/%2f";

/// AMQP sends the name as a short string, whose length is one byte.
const MAX_VHOST_BYTES: usize = 255;

/// What `AMQP_URL` holds: the broker's nodes, each with the login for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::queue) struct Address {
    nodes: Vec<Node>,
}

/// One of the URLs in `AMQP_URL`.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::queue) struct Node {
    /// An IPv6 host stands in it without brackets.
    pub(in crate::queue) uri: AMQPUri,
}

impl Address {
    /// # Errors
    ///
    /// What is wrong and what would be right, without any value from the text.
    pub(super) fn read(text: &str) -> anyhow::Result<Self> {
        let texts = split(text)?;
        let several = texts.len() > 1;
        let nth = |at: usize, error: anyhow::Error| error.context(format!("address {}", at + 1));
        let read = |(at, text)| Node::read(text).map_err(|error| if several { nth(at, error) } else { error });
        let nodes = texts.into_iter().enumerate().map(read).collect::<anyhow::Result<_>>()?;
        Ok(Self { nodes })
    }

    /// At least one, in the order of the text.
    pub(in crate::queue) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether any node is reached by TLS.
    pub(in crate::queue) fn is_encrypted(&self) -> bool {
        self.nodes.iter().any(Node::is_encrypted)
    }
}

impl Node {
    pub(in crate::queue) fn is_encrypted(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    pub(super) fn host(&self) -> &str {
        &self.uri.authority.host
    }

    pub(super) fn port(&self) -> u16 {
        self.uri.authority.port
    }

    /// `host:port`, followed by the IP address if the host is a name.
    pub(super) fn label(&self, ip: Option<IpAddr>) -> String {
        match ip {
            Some(ip) if self.host().parse() != Ok(ip) => format!("{self} ({ip})"),
            _ => self.to_string(),
        }
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        let Some((scheme, rest)) = scheme(text) else { bail!("it must begin with amqp:// or amqps://, as in {FORM}") };
        ensure!(!text.contains(char::is_control), "it holds a line break or another control character");
        ensure!(
            !text[scheme_length(text)..].contains("://"),
            "it holds a second URL: several addresses have a comma between them, as in amqp://…,amqp://…"
        );
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // Otherwise the password would end there, and errors might show the rest of it.
        ensure!(
            !tail.contains(['#', '@']),
            "a # / ? or @ in the user name, the password or the virtual host must be written %23 %2F %3F or %40"
        );
        let (login, place) =
            authority.rsplit_once('@').map_or((None, authority), |(login, place)| (Some(login), place));
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let userinfo = userinfo(login)?;
        let (host, port) = host_and_port(place)?;
        let port = port.unwrap_or_else(|| scheme.default_port());
        let (vhost, query) = (virtual_host(path)?, parameters(query)?);
        Ok(Self { uri: AMQPUri { scheme, authority: AMQPAuthority { userinfo, host, port }, vhost, query } })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host(), self.port()) {
            (host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            (host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl fmt::Debug for Node {
    /// Leaves out the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The text of each URL. A comma or a line break divides two URLs only directly before a scheme, since a password may hold a
/// comma.
fn split(text: &str) -> anyhow::Result<Vec<&str>> {
    let mut texts = Vec::new();
    let mut rest = text.trim();
    ensure!(!rest.ends_with(','), "it ends with a comma; a comma at the end of a virtual host is written %2C");
    while let Some((one, others)) = split_first(rest) {
        texts.push(one.trim_end());
        rest = others;
    }
    texts.push(rest);
    Ok(texts)
}

fn split_first(text: &str) -> Option<(&str, &str)> {
    text.match_indices([',', '\n']).find_map(|(at, divider)| {
        let others = text[at + divider.len()..].trim_start();
        scheme(others).map(|_| (&text[..at], others))
    })
}

fn scheme(text: &str) -> Option<(AMQPScheme, &str)> {
    let begins = |name: &str| text.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name));
    SCHEMES.iter().find(|(name, _)| begins(name)).map(|(name, scheme)| (scheme.clone(), &text[name.len()..]))
}

fn scheme_length(text: &str) -> usize {
    scheme(text).map_or(0, |(_, rest)| text.len() - rest.len())
}

/// A missing user name is `guest`, and so is a missing password.
fn userinfo(login: Option<&str>) -> anyhow::Result<AMQPUserInfo> {
    let (username, password) = login.map_or(("", ""), |login| login.split_once(':').unwrap_or((login, "")));
    let given = |text: &str, usual: String| match text {
        "" => Ok(usual),
        text => decoded(text).context("the user name or the password is not UTF-8 once it is percent-decoded"),
    };
    let usual = AMQPUserInfo::default();
    Ok(AMQPUserInfo { username: given(username, usual.username)?, password: given(password, usual.password)? })
}

fn host_and_port(place: &str) -> anyhow::Result<(String, Option<u16>)> {
    ensure!(
        !place.contains(','),
        "each address is a whole URL, as in amqp://user:password@host1/%2f,amqp://user:password@host2/%2f"
    );
    let (host, port) = match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
        Some((ip, after)) => {
            ensure!(!ip.contains('%'), "an IPv6 address with a zone is not supported: name an address without one");
            let is_ip = ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
            ensure!(is_ip, "what stands in brackets must be an IPv6 address, as in [::1]:5672");
            let port = if after.is_empty() { Some("") } else { after.strip_prefix(':') };
            (ip.to_owned(), port.context("a port is a number after a colon, as in [::1]:5672")?)
        }
        None => {
            let (host, port) = place.split_once(':').unwrap_or((place, ""));
            ensure!(!port.contains(':'), "an IPv6 address stands in brackets, as in [::1]:5672");
            (decoded(host).context("its host is not UTF-8 once it is percent-decoded")?, port)
        }
    };
    ensure!(!host.is_empty(), "it names no host; write it as in {FORM}");
    // Logs show the host: a part of a password must not be taken for one.
    ensure!(
        host.chars().all(is_of_a_name) || host.parse::<IpAddr>().is_ok(),
        "a host's name may have letters, digits and . - _ only"
    );
    let port =
        match port {
            "" => None,
            port => {
                let port = port.parse().ok().filter(|port| *port != 0);
                Some(port.context(
                    "a port must be a number from 1 to 65535, as in host:5672, and an @ follows the password",
                )?)
            }
        };
    Ok((host, port))
}

fn is_of_a_name(letter: char) -> bool {
    letter.is_alphanumeric() || ".-_".contains(letter)
}

fn virtual_host(path: &str) -> anyhow::Result<String> {
    let name = match path.strip_prefix('/') {
        None => return Ok("/".to_owned()),
        Some("") => bail!("it names the empty virtual host; write %2f for the one called /, or leave the / away"),
        Some(name) => decoded(name).context("its virtual host is not UTF-8 once it is percent-decoded")?,
    };
    ensure!(name.len() <= MAX_VHOST_BYTES, "its virtual host has more than {MAX_VHOST_BYTES} bytes");
    Ok(name)
}

/// The parameters that the library knows. Only `auth_mechanism` and `channel_max` have an effect: our settings replace the
/// others.
fn parameters(query: &str) -> anyhow::Result<AMQPQueryString> {
    let mut found = AMQPQueryString::default();
    for (at, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decoded(key).unwrap_or_default(), decoded(value).unwrap_or_default());
        let must_be = |what: &str, example: &str| format!("{key} must be {what}, as in {key}={example}");
        match key.as_str() {
            "frame_max" => found.frame_max = Some(value.parse().ok().with_context(|| must_be("a number", "131072"))?),
            "channel_max" => found.channel_max = Some(value.parse().ok().with_context(|| must_be("a number", "16"))?),
            "heartbeat" => {
                found.heartbeat = Some(value.parse().ok().with_context(|| must_be("a number of seconds", "10"))?);
            }
            "connection_timeout" => {
                let millis = value.parse().ok().with_context(|| must_be("a number of milliseconds", "10000"))?;
                found.connection_timeout = Some(millis);
            }
            "auth_mechanism" => {
                found.auth_mechanism = Some(value.parse().ok().with_context(|| must_be("a mechanism", "plain"))?);
            }
            "cacertfile" | "verify" => {
                bail!("{key} is not supported: amqps:// always verifies, with amqp.ca_file if set")
            }
            // Not by its name, which may be a part of a password that holds a `?`.
            _ => bail!("its parameter {} is unknown; there are auth_mechanism and channel_max", at + 1),
        }
    }
    Ok(found)
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(String::from)
}

#[cfg(test)]
mod tests;
