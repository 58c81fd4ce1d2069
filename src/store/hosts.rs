//! Finds the server among the hosts of an address, within a time that all hosts share.
//!
//! The driver can try several hosts too, but it bounds only the TCP connect. A host that accepts and then stays silent, such
//! as the machine of a server that hangs, would take all of the time at every try.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::seq::SliceRandom as _;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Connection, Error, NoTls, Socket};

use super::address::{Address, Target};
use super::tls::{AUTHORITIES, Tls};
use crate::tls;

/// A session, and the connection that must be polled for it.
pub(super) type Connected = (Client, Connection<Socket, <Tls as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream>);

/// The server that served last. It is tried first: otherwise every session would wait for a silent host before it.
#[derive(Default)]
pub(super) struct LastServed(Mutex<Option<(Target, Option<IpAddr>)>>);

/// Why no host gave us a session.
#[derive(Debug, Default, thiserror::Error)]
pub(super) struct NoHost {
    /// Each host that was tried, and what went wrong.
    tried: Vec<(String, String)>,
    /// The last error of the driver.
    error: Option<Error>,
    /// Whether a server has answered and refused us, for any reason.
    refused: bool,
    /// Whether a server has refused the user name or the password.
    login_refused: bool,
}

impl fmt::Display for NoHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (host, why)) in self.tried.iter().enumerate() {
            write!(f, "{}{host}: {why}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl NoHost {
    /// Whether a server, or a pooler before it, has answered the login and refused it. Poolers have SQLSTATEs of their own for
    /// a wrong password, so the code does not matter.
    pub(super) fn is_refusal(&self) -> bool {
        self.refused
    }

    pub(super) fn into_error(self) -> Option<Error> {
        self.error
    }

    fn note(&mut self, host: String, why: impl Into<String>) {
        self.tried.push((host, why.into()));
    }

    fn note_error(&mut self, host: String, error: Error, address: &Address) {
        let refused = [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION];
        self.refused |= error.as_db_error().is_some();
        self.login_refused |= error.code().is_some_and(|code| refused.contains(code));
        self.note(host, reason(&error, address.sslmode));
        self.error = Some(error);
    }
}

/// Tries the hosts in turn. Every host, and every address of its name, gets an equal share of the time that is left until
/// `deadline`. Names are looked up each time, since their addresses may change.
pub(super) async fn connect(address: &Address, last: &LastServed, deadline: Instant) -> Result<Connected, NoHost> {
    let mut search = Search { address, last, failure: NoHost::default() };
    let targets = last.first(address.targets(), address);
    for (at, target) in targets.iter().enumerate() {
        let deadline = Instant::now() + share(deadline, targets.len() - at);
        match addresses(target, address, last, deadline).await {
            Ok(addresses) => {
                if let Some(connected) = search.try_addresses(target, &addresses, deadline).await {
                    return Ok(connected);
                }
            }
            Err(why) => search.failure.note(target.to_string(), why),
        }
        // As libpq does: other hosts would refuse the login too, and repeated failures may lock the role.
        if search.failure.login_refused {
            break;
        }
    }
    Err(search.failure)
}

/// Why one address gave us no session.
enum Unserved {
    /// It is read-only, and a server that takes writes was asked for.
    TakesNoWrites,
    /// Any other reason.
    Otherwise,
}

struct Search<'a> {
    address: &'a Address,
    last: &'a LastServed,
    failure: NoHost,
}

impl Search<'_> {
    /// Tries the addresses of one host. If there are several, a server that takes writes is looked for first: the name of a
    /// cluster may also have the address of a server that was demoted. If none takes writes, a read-only one serves, as it
    /// would if it were the only address.
    async fn try_addresses(
        &mut self,
        target: &Target,
        addresses: &[Option<IpAddr>],
        deadline: Instant,
    ) -> Option<Connected> {
        let prefers_writes = self.address.prefers_writes && addresses.len() > 1;
        let mut may_be_read = None;
        for (at, ip) in addresses.iter().enumerate() {
            let share = share(deadline, addresses.len() - at + usize::from(prefers_writes));
            let mut config = self.address.config_for(target, *ip);
            if prefers_writes {
                config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            }
            match self.try_one(target, *ip, &config, share).await {
                Ok(connected) => {
                    self.last.remember(target, *ip);
                    return Some(connected);
                }
                Err(Unserved::TakesNoWrites) => may_be_read = may_be_read.or(Some(*ip)),
                Err(Unserved::Otherwise) if self.failure.login_refused => return None,
                Err(Unserved::Otherwise) => {}
            }
        }
        let ip = may_be_read.filter(|_| prefers_writes)?;
        let config = self.address.config_for(target, ip);
        self.try_one(target, ip, &config, share(deadline, 1)).await.ok()
    }

    async fn try_one(
        &mut self,
        target: &Target,
        ip: Option<IpAddr>,
        config: &Config,
        share: Duration,
    ) -> Result<Connected, Unserved> {
        let share = self.address.patience().map_or(share, |patience| share.min(patience));
        let name = || match ip {
            Some(ip) if target.host != Host::Tcp(ip.to_string()) => format!("{target} ({ip})"),
            _ => target.to_string(),
        };
        match timeout(share, config.connect(self.address.tls.clone())).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => {
                let unserved = if takes_no_writes(&error) { Unserved::TakesNoWrites } else { Unserved::Otherwise };
                self.failure.note_error(name(), error, self.address);
                Err(unserved)
            }
            Err(_) => {
                self.failure.note(name(), "no answer");
                Err(Unserved::Otherwise)
            }
        }
    }
}

/// Whether the driver refused a server because of `target_session_attrs`.
fn takes_no_writes(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
}

/// The driver's error for a server that has not answered. Only the driver can make an `Error`, so this lets it connect to a
/// stream without a peer.
pub(super) async fn unanswered() -> Error {
    let (alone, _) = tokio::io::duplex(1);
    let failed = Config::new().user("nobody").ssl_mode(SslMode::Disable).connect_raw(alone, NoTls).await;
    failed.err().expect("nobody is there to log in to")
}

fn share(deadline: Instant, among: usize) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left / u32::try_from(among.max(1)).unwrap_or(u32::MAX)
}

/// The addresses to try for a host; `None` stands for the address of a Unix socket.
async fn addresses(
    target: &Target,
    address: &Address,
    last: &LastServed,
    deadline: Instant,
) -> Result<Vec<Option<IpAddr>>, String> {
    let name = match (&target.host, target.address) {
        (Host::Unix(_), _) => return Ok(vec![None]),
        (_, Some(given)) => return Ok(vec![Some(given)]),
        (Host::Tcp(name), None) => name,
    };
    let found = match tokio::time::timeout_at(deadline, lookup_host((name.as_str(), target.port))).await {
        Err(_) => return Err("no answer when its name was looked up".to_owned()),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(found)) => found,
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in found.map(|found| found.ip()) {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    if address.is_shuffled() {
        addresses.shuffle(&mut rand::rng());
    } else {
        addresses.sort_by_key(|ip| !last.was(target, *ip));
    }
    if addresses.is_empty() {
        Err("its name has no address".to_owned())
    } else {
        Ok(addresses.into_iter().map(Some).collect())
    }
}

impl LastServed {
    fn first<'a>(&self, mut targets: Vec<&'a Target>, address: &Address) -> Vec<&'a Target> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, _)) = last.as_ref().filter(|_| !address.is_shuffled()) {
            targets.sort_by_key(|target| *target != last);
        }
        targets
    }

    fn was(&self, target: &Target, ip: IpAddr) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().is_some_and(|last| last.0 == *target && last.1 == Some(ip))
    }

    /// After a failover: another server may take writes now.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn remember(&self, target: &Target, ip: Option<IpAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((target.clone(), ip));
    }
}

/// The message of the server or the driver, without the text that the driver puts before it.
fn reason(error: &Error, sslmode: &str) -> String {
    if let Some(refusal) = error.as_db_error() {
        // Without the detail, which may repeat what was sent.
        return format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code());
    }
    let Some(cause) = std::error::Error::source(error) else { return error.to_string() };
    match tls::refused_certificate(cause, AUTHORITIES) {
        Some(why) => format!("its certificate is refused by sslmode={sslmode}: {why}"),
        None => crate::error_chain(cause),
    }
}

#[cfg(test)]
mod tests;
