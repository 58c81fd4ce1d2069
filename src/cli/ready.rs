//! Asks the process on this machine whether it is ready, for health checks of containers. Needs no shell, no HTTP client,
//! no database and no secret.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{CommandResult, Failure, output};
use crate::config::Settings;
use crate::text::printable;

/// The bound for the whole command. The process itself waits up to 2 s for its database.
const PATIENCE: Duration = Duration::from_secs(3);
/// Far more than an answer of ours has.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks ready
  penr-webhooks ready --role worker";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Ask for one role of a process that has both
    #[arg(long)]
    role: Option<ProbedRole>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ProbedRole {
    /// Consumes events and delivers them
    Worker,
    /// Serves the HTTP API and the page
    Api,
}

pub(super) fn run(arguments: &Arguments, settings: &Settings, as_json: bool) -> CommandResult {
    let path = match arguments.role {
        None => "/readyz",
        Some(ProbedRole::Worker) => "/readyz?role=worker",
        Some(ProbedRole::Api) => "/readyz?role=api",
    };
    let listen = settings.ops_listen;
    if listen.port() == 0 {
        let problem =
            "ops.listen has port 0, which takes a free one that nobody else knows: give it a port, such as 9090";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let answer = ask(listen, path).map_err(|error| anyhow::anyhow!("no answer on ops.listen ({listen}): {error}"))?;
    let Some((status, lines)) = read(&answer) else {
        return Err(anyhow::anyhow!("what answers on ops.listen ({listen}) is not a penr-webhooks process").into());
    };
    match status {
        200 | 503 if as_json => output::json(&json!({ "ready": status == 200, "lines": lines }))?,
        200 | 503 => lines.iter().try_for_each(output::line)?,
        _ => return Err(Failure::Usage(lines.join(" "))),
    }
    match status {
        200 => Ok(()),
        _ => Err(anyhow::anyhow!("not ready").into()),
    }
}

/// Sends one request and reads the whole answer.
fn ask(listen: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let rest = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        rest => Ok(rest),
    };
    let mut stream = connect(&reachable(listen), PATIENCE / 2)?;
    stream.set_write_timeout(Some(rest()?))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while answer.len() as u64 <= MAX_ANSWER_BYTES {
        stream.set_read_timeout(Some(rest()?))?;
        match stream.read(&mut part) {
            Ok(0) => return Ok(answer),
            Ok(bytes) => answer.extend_from_slice(&part[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Connects to the first address that accepts, within `patience` for all addresses together.
fn connect(addresses: &[SocketAddr], patience: Duration) -> io::Result<TcpStream> {
    let patience = patience / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// The addresses at which a process that listens on `listen` can be reached from this machine. One that listens on `[::]`
/// also takes IPv4, where the machine has it.
fn reachable(listen: SocketAddr) -> Vec<SocketAddr> {
    let at = |ip: IpAddr| SocketAddr::new(ip, listen.port());
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![at(Ipv4Addr::LOCALHOST.into())],
        IpAddr::V6(ip) if ip.is_unspecified() => vec![at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into())],
        _ => vec![listen],
    }
}

/// Status and body lines of an answer; `None` if the answer is not one of ours.
fn read(answer: &[u8]) -> Option<(u16, Vec<String>)> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let known = [200, 400, 404, 503].contains(&status) && head.to_ascii_lowercase().contains("text/plain");
    known.then(|| (status, body.lines().map(|line| printable(line, 200)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_on_all_addresses_is_called_on_this_machines_own() {
        let called =
            |listen: &str| reachable(listen.parse().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(called("0.0.0.0:9090"), ["127.0.0.1:9090"]);
        assert_eq!(called("[::]:9090"), ["127.0.0.1:9090", "[::1]:9090"]);
        assert_eq!(called("10.1.2.3:9090"), ["10.1.2.3:9090"]);
    }

    #[test]
    fn only_an_answer_of_ours_is_read() {
        let plain = "Content-Type: text/plain; charset=utf-8\r\n\r\n";
        let ready = read(format!("HTTP/1.1 200 OK\r\n{plain}consumer: ready\ndatabase: ready\n").as_bytes());
        assert_eq!(ready, Some((200, vec!["consumer: ready".to_owned(), "database: ready".to_owned()])));
        assert!(read(format!("HTTP/1.1 302 Found\r\n{plain}").as_bytes()).is_none());
        assert!(read(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>").is_none());
        assert!(read(b"AMQP\0\0\x09\x01").is_none());
    }
}
