//! Reads the addresses of a name from a hosts(5) file. In containers it has names such as `host.docker.internal`.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::PathBuf;

/// More than any real file has.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A hosts file, read at each lookup: there are few, since only names that the operator allows are looked up in it.
pub(super) struct HostsFile(pub(super) PathBuf);

impl HostsFile {
    pub(super) fn of_system() -> Self {
        Self("/etc/hosts".into())
    }

    /// The addresses that the file gives for `name`; none if it does not name it, or cannot be read.
    pub(super) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let mut bytes = Vec::new();
        let read = File::open(&self.0).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
        if read.is_err() {
            return Vec::new();
        }
        addresses(&String::from_utf8_lossy(&bytes), name)
    }
}

fn addresses(text: &str, name: &str) -> Vec<IpAddr> {
    text.lines().filter_map(|line| address(line, name)).collect()
}

fn address(line: &str, name: &str) -> Option<IpAddr> {
    let mut words = line.split('#').next()?.split_ascii_whitespace();
    // The zone of an IPv6 address (fe80::1%eth0) is dropped.
    let address = words.next()?.split('%').next()?.parse().ok()?;
    let named = words.any(|word| word.strip_suffix('.').unwrap_or(word).eq_ignore_ascii_case(name));
    named.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_as_docker_writes_it() {
        let text = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
# 10.0.0.1\thidden
172.17.0.1\thost.docker.internal # 10.0.0.2 more
fd00::1\tHost.Docker.Internal.
fe80::1%eth0 linked
nonsense host.docker.internal
172.18.0.9\t1f2e3d4c5b6a\r
172.18.0.10";
        let found = |name| addresses(text, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found("host.docker.internal"), ["172.17.0.1", "fd00::1"]);
        assert_eq!(found("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(found("linked"), ["fe80::1"]);
        assert_eq!(found("1f2e3d4c5b6a"), ["172.18.0.9"]);
        assert!(
            ["hidden", "more", "nonsense", "docker.internal", "host", ""]
                .into_iter()
                .all(|name| found(name).is_empty())
        );
        assert!(HostsFile("/nowhere/hosts".into()).addresses("localhost").is_empty());
    }
}
