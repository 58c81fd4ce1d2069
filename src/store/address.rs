//! Reads `DATABASE_URL` in both forms that libpq accepts (PostgreSQL manual, 34.1).
//!
//! The driver parses the text. Parameters that the driver does not know, or understands differently from libpq, are removed
//! from the text and handled here. Parameters that neither supports are refused by name. An error names the wrong part and
//! shows a correct one. No error repeats a value: a part that looks like a host or a parameter may belong to a password that
//! was not encoded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::seq::SliceRandom as _;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs};

use super::tls::{self, AUTHORITIES, Tls};
use crate::tls::{ServerNames, Trust};

mod keys;
mod text;

use keys::Key;
use text::{Form, Text};

const DEFAULT_PORT: u16 = 5432;
const APPLICATION: &str = "penr-webhooks";

/// The content of `DATABASE_URL`: where the database is, and how to log in.
pub(super) struct Address {
    /// Everything but the hosts.
    config: Config,
    hosts: Vec<Target>,
    /// Whether a server that takes writes is looked for among several addresses of one host.
    pub(super) prefers_writes: bool,
    pub(super) tls: Tls,
    /// For errors about a server's certificate.
    pub(super) sslmode: &'static str,
}

/// One of the hosts of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: Host,
    /// The operator's `hostaddr`; with it, the name is not looked up.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

/// The parameters that are removed from the text for the driver, by name.
type Cut = HashMap<&'static str, String>;

impl Address {
    pub(super) fn read(text: &str) -> anyhow::Result<Self> {
        let text = text::split(text, &|key| keys::find(key).is_some() || keys::similar(key).is_some())?;
        let mut cut = Cut::new();
        let mut kept = Vec::new();
        for (at, parameter) in text.parameters.iter().enumerate() {
            let key = parameter.key.as_str();
            match keys::find(key) {
                // The driver refuses an empty password; libpq ignores it.
                Some(("password", _)) if parameter.value.is_empty() => {}
                Some((_, Key::Drivers { example })) => {
                    read_by_driver(&text.alone(parameter))
                        .with_context(|| format!("its {key} cannot be used; write it as in {example}"))?;
                    kept.push(parameter.written);
                }
                Some((key, Key::Ours)) => drop(cut.insert(key, parameter.value.clone())),
                Some((key, Key::Unsupported { instead })) => bail!("{key} is not supported: {instead}"),
                None => return Err(unknown(at, parameter)),
            }
        }
        let hosts = hosts(&text, &cut)?;
        let mut config = read_by_driver(&text.without_hosts(&kept))
            .context("its user name or database name is not UTF-8 once it is percent-decoded")?;
        if !config.get_hosts().is_empty() {
            bail!("its hosts and its database's name cannot be told apart; write it as in postgresql://user@host/name");
        }
        defaults(&mut config, &cut, &text)?;
        session_attributes(&mut config, &cut, hosts.len())?;
        let prefers_writes = hosts.len() == 1 && !cut.contains_key("target_session_attrs");
        let (tls, sslmode) = encryption(&mut config, &cut)?;
        Ok(Self { config, hosts, prefers_writes, tls, sslmode })
    }

    /// The hosts in the order in which they are tried.
    pub(super) fn targets(&self) -> Vec<&Target> {
        let mut targets: Vec<_> = self.hosts.iter().collect();
        if self.is_shuffled() {
            targets.shuffle(&mut rand::rng());
        }
        targets
    }

    /// Whether hosts are tried in random order (`load_balance_hosts=random`).
    pub(super) fn is_shuffled(&self) -> bool {
        self.config.get_load_balance_hosts() == LoadBalanceHosts::Random
    }

    /// The operator's bound for one address (`connect_timeout`).
    pub(super) fn patience(&self) -> Option<Duration> {
        self.config.get_connect_timeout().copied()
    }

    /// The driver's configuration for one host. `address` is one of the host's addresses, or `None` for a socket.
    pub(super) fn config_for(&self, target: &Target, address: Option<IpAddr>) -> Config {
        let mut config = self.config.clone();
        config.port(target.port);
        match &target.host {
            // As libpq does: a Unix socket is not encrypted.
            Host::Unix(folder) => config.host_path(folder).ssl_mode(SslMode::Disable),
            Host::Tcp(name) => config.host(name),
        };
        if let Some(address) = address {
            config.hostaddr(address);
        }
        config
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

/// Drops the driver's error, which may repeat a part of the text and with it the password.
fn read_by_driver(text: &str) -> Option<Config> {
    text.parse().ok()
}

fn unknown(at: usize, parameter: &text::Parameter<'_>) -> anyhow::Error {
    let key = &parameter.key;
    match keys::similar(key) {
        Some(similar) => anyhow::anyhow!("no parameter is called {key}; {similar} is"),
        None if parameter.may_be_shown && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
            anyhow::anyhow!("no parameter is called {key}")
        }
        None => anyhow::anyhow!(
            "its parameter {} is unknown; if your password has a space or &, quote it, or write it %20 or %26 in a URI",
            at + 1
        ),
    }
}

/// As in libpq, parameters override the hosts before the path, and the lists of hosts, addresses and ports belong together
/// by their order.
fn hosts(text: &Text<'_>, cut: &Cut) -> anyhow::Result<Vec<Target>> {
    let written = match text.form {
        Form::Uri => read_by_driver(&text.hosts_alone()).context(
            "a host or port cannot be used: a port is a number, as in host:5432, an IPv6 address stands in brackets, as in \
             [::1]:5432, and a / ? or # in the password is written %2F %3F or %23",
        )?,
        Form::KeyValue => Config::new(),
    };
    let list = |key| cut.get(key).filter(|value| !value.is_empty()).map(|value: &String| value.split(','));
    let host = |name: &str| match name.starts_with('/') {
        true => Host::Unix(name.into()),
        false => Host::Tcp(name.to_owned()),
    };
    let mut hosts = list("host").map_or(written.get_hosts().to_vec(), |names| names.map(host).collect());
    let ports = match list("port") {
        Some(ports) => ports.map(port).collect::<anyhow::Result<_>>()?,
        None => written.get_ports().to_vec(),
    };
    let addresses = list("hostaddr").into_iter().flatten().map(hostaddr).collect::<anyhow::Result<Vec<_>>>()?;
    if hosts.is_empty() {
        hosts = vec![Host::Tcp(String::new()); addresses.len()];
    }
    let count = hosts.len();
    if !addresses.is_empty() && addresses.len() != count {
        bail!("hostaddr must give one address for each host, as in host=a,b hostaddr=10.0.0.1,10.0.0.2");
    }
    if ports.len() > 1 && ports.len() != count {
        bail!("there must be one port for all hosts, or one for each, as in host1:5432,host2:5433");
    }
    if ports.contains(&0) {
        bail!("a port must be from 1 to 65535, as in host:5432");
    }
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
    let address = |at: usize| addresses.get(at).copied().flatten();
    let targets = hosts.into_iter().enumerate();
    let targets = targets.map(|(at, host)| target(host, address(at), port(at))).collect::<anyhow::Result<Vec<_>>>()?;
    match targets.is_empty() {
        true => bail!("it names no host; write it as in postgresql://user@host/name, or host=/folder for a socket"),
        false => Ok(targets),
    }
}

fn target(host: Host, address: Option<IpAddr>, port: u16) -> anyhow::Result<Target> {
    let host = match (host, address) {
        (Host::Unix(_), Some(_)) => bail!("hostaddr belongs to a host's name, and not to the folder of a socket"),
        // Logs show hosts. If the space before the next pair is missing, the host contains that pair, perhaps the password.
        (Host::Unix(folder), None) if folder.to_string_lossy().contains(divides_pairs) => {
            bail!("a socket's folder with {SWALLOWS}")
        }
        (Host::Tcp(name), Some(address)) if name.is_empty() => Host::Tcp(address.to_string()),
        (Host::Tcp(name), None) if name.is_empty() => {
            bail!("one of its hosts has no name; write it as in postgresql://user@host/name")
        }
        (Host::Tcp(name), _) if name.starts_with('@') => {
            bail!(
                "a socket in the abstract namespace (host=@…) is not supported: name its folder, as in host=/run/postgresql"
            )
        }
        (Host::Tcp(name), _) if name.contains('%') => {
            bail!("an IPv6 address with a zone, as fe80::1%eth0, is not supported: name an address without one")
        }
        (Host::Tcp(name), _) if name.parse::<IpAddr>().is_err() && !name.chars().all(is_of_a_name) => {
            bail!(
                "a host's name may have letters, digits and . - _ only; pairs have a space between them, as in host=h port=5432"
            )
        }
        (host, _) => host,
    };
    Ok(Target { host, address, port })
}

fn is_of_a_name(letter: char) -> bool {
    letter.is_alphanumeric() || ".-_".contains(letter)
}

/// Characters of a value that show that the space, or the `&`, before the next pair is missing.
fn divides_pairs(letter: char) -> bool {
    "=;'\"".contains(letter)
}

const SWALLOWS: &str = "= ; or a quote in its name is not supported: pairs have a space between them, in a URI an &";

fn port(text: &str) -> anyhow::Result<u16> {
    match text {
        "" => Ok(DEFAULT_PORT),
        text => text.parse().ok().context("a port must be a number, as in port=5432 or port=5432,5433"),
    }
}

fn hostaddr(text: &str) -> anyhow::Result<Option<IpAddr>> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).ok().context("hostaddr must be an IP address, as in hostaddr=10.0.0.1"),
    }
}

/// Sets the parameters that the driver has under another name or in another unit, and our defaults.
fn defaults(config: &mut Config, cut: &Cut, text: &Text<'_>) -> anyhow::Result<()> {
    let number = |key: &str, example: &str| match cut.get(key) {
        Some(value) => {
            value.parse::<u32>().ok().with_context(|| format!("{key} must be a number, as in {example}")).map(Some)
        }
        None => Ok(None),
    };
    if let Some(probes) = number("keepalives_count", "keepalives_count=3")? {
        config.keepalives_retries(probes);
    }
    if let Some(millis) = number("tcp_user_timeout", "tcp_user_timeout=10000")?.filter(|millis| *millis > 0) {
        config.tcp_user_timeout(Duration::from_millis(millis.into()));
    }
    if config.get_application_name().is_none() {
        config.application_name(cut.get("fallback_application_name").map_or(APPLICATION, String::as_str));
    }
    // Settings that the operator leaves out are the same as at the server (`keepalive`).
    let given = |key: &str| text.parameters.iter().any(|parameter| parameter.key == key);
    if !given("keepalives_idle") {
        config.keepalives_idle(super::keepalive::IDLE);
    }
    if !given("keepalives_interval") {
        config.keepalives_interval(super::keepalive::PROBES_APART);
    }
    if !given("keepalives_count") && !given("keepalives_retries") {
        config.keepalives_retries(super::keepalive::PROBES);
    }
    if !given("tcp_user_timeout") {
        config.tcp_user_timeout(super::keepalive::SILENCE);
    }
    Ok(())
}

fn session_attributes(config: &mut Config, cut: &Cut, hosts: usize) -> anyhow::Result<()> {
    let wanted = match cut.get("target_session_attrs").map(String::as_str) {
        Some("read-write" | "primary") => TargetSessionAttrs::ReadWrite,
        Some("any") => TargetSessionAttrs::Any,
        // One of several hosts is the primary, and only the primary takes writes.
        None if hosts > 1 => TargetSessionAttrs::ReadWrite,
        None => TargetSessionAttrs::Any,
        Some(which @ ("read-only" | "standby" | "prefer-standby")) => {
            bail!(
                "target_session_attrs={which} is not supported: every process writes; write target_session_attrs=read-write"
            )
        }
        Some(_) => {
            bail!("target_session_attrs must be read-write, primary or any, as in target_session_attrs=read-write")
        }
    };
    config.target_session_attrs(wanted);
    Ok(())
}

/// `sslmode` and `sslrootcert` mean the same as in libpq (PostgreSQL manual, 34.19), with three exceptions: `verify-full`
/// without a file trusts the system's authorities, `~/.postgresql/root.crt` is never read, and `allow` is the same as `prefer`.
fn encryption(config: &mut Config, cut: &Cut) -> anyhow::Result<(Tls, &'static str)> {
    let file = cut.get("sslrootcert").map(String::as_str).filter(|file| !file.is_empty());
    // Errors show the path. If the space before the next pair is missing, the path contains that pair.
    if file.is_some_and(|file| file.contains(divides_pairs)) {
        bail!("an sslrootcert with {SWALLOWS}");
    }
    let mode = match cut.get("sslmode").map(String::as_str) {
        None if file == Some("system") => "verify-full",
        None | Some("allow") => "prefer",
        Some(mode) => *["disable", "prefer", "require", "verify-ca", "verify-full"]
            .iter()
            .find(|known| **known == mode)
            .context("sslmode must be disable, prefer, require, verify-ca or verify-full, as in sslmode=verify-full")?,
    };
    let trust = match (mode, file) {
        ("disable", _) | ("prefer" | "require", None) => Trust::Anyone,
        ("prefer", Some(_)) => {
            bail!(
                "sslrootcert checks nothing with sslmode=prefer, the default: add sslmode=verify-full, verify-ca or require"
            )
        }
        ("verify-full", None | Some("system")) => Trust::System,
        (_, Some("system")) => {
            bail!("sslrootcert=system needs sslmode=verify-full: anybody has a certificate of a public authority")
        }
        ("verify-full", Some(file)) => Trust::File { setting: AUTHORITIES, file, name: ServerNames::Checked },
        (_, Some(file)) => Trust::File { setting: AUTHORITIES, file, name: ServerNames::Ignored },
        (_, None) => {
            bail!("sslmode=verify-ca needs sslrootcert=/folder/ca.pem: anybody has a certificate of a public authority")
        }
    };
    config.ssl_mode(match mode {
        "disable" => SslMode::Disable,
        "prefer" => SslMode::Prefer,
        _ => SslMode::Require,
    });
    let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
    if direct && config.get_ssl_mode() != SslMode::Require {
        bail!("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full");
    }
    Ok((tls::connector(&trust, direct)?, mode))
}

#[cfg(test)]
mod tests;
