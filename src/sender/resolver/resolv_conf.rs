//! Reads the name servers out of a resolv.conf(5). Pure.

use std::net::IpAddr;

/// The C library uses no more than these either.
const MAX_NAME_SERVERS: usize = 3;

/// The addresses of the `nameserver` lines, in their order. Other lines, and lines without a valid address, are skipped.
pub(super) fn name_servers(text: &str) -> Vec<IpAddr> {
    text.lines().filter_map(name_server).take(MAX_NAME_SERVERS).collect()
}

fn name_server(line: &str) -> Option<IpAddr> {
    let mut words = line.trim_start_matches('\u{feff}').split_ascii_whitespace();
    if words.next()? != "nameserver" {
        return None;
    }
    let word = words.next()?;
    let word = word.split(['#', ';']).next().unwrap_or(word);
    // The DNS client takes no zone of an IPv6 address (fe80::1%eth0).
    let address = word.split_once('%').map_or(word, |(address, _zone)| address);
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<String> {
        name_servers(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn files_as_they_are_found() {
        assert_eq!(read("nameserver 10.0.0.2\n"), ["10.0.0.2"]);
        let kubernetes = "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(read(kubernetes), ["10.96.0.10"]);
        let systemd =
            "# This is /run/systemd/resolve/stub-resolv.conf\nnameserver 127.0.0.53\noptions edns0 trust-ad\n";
        assert_eq!(read(systemd), ["127.0.0.53"]);
        assert_eq!(read("nameserver 10.0.0.2\r\nnameserver\t2001:db8::53 # ours\r\n"), ["10.0.0.2", "2001:db8::53"]);
        assert_eq!(read("nameserver fe80::1%eth0\nnameserver ::1"), ["fe80::1", "::1"]);
        assert_eq!(read("nameserver 10.0.0.1;\nnameserver 10.0.0.2#x"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(read("  nameserver 10.0.0.2\n\u{feff}nameserver 10.0.0.3"), ["10.0.0.2", "10.0.0.3"]);
    }

    #[test]
    fn an_odd_line_costs_no_other() {
        let odd = [
            "search bad..name",
            "domain -",
            "options timeout:a attempts",
            "nameserver",
            "nameserver localhost",
            "nameserver 10.0.0.256",
            "sortlist 130.155.160.0/255.255.240.0 x",
            "nameservers 10.9.9.9",
            "#nameserver 10.9.9.9",
            "; nameserver 10.9.9.9",
            "\u{0}\u{fffd}",
        ];
        for line in odd {
            assert_eq!(read(&format!("{line}\nnameserver 10.0.0.2\n{line}\n")), ["10.0.0.2"], "{line:?}");
        }
        assert!(read("").is_empty());
        assert!(read("search example.com\n").is_empty());
    }

    #[test]
    fn no_more_are_taken_than_the_c_library_takes() {
        let text: String = (1..=9).map(|last| format!("nameserver 10.0.0.{last}\n")).collect();
        assert_eq!(read(&text), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    }

    proptest! {
        #[test]
        fn any_text_around_leaves_what_is_there(
            lines in proptest::collection::vec("[^\n\r]{0,40}", 0..10), at in 0..10_usize, server in any::<IpAddr>(),
        ) {
            let foreign: Vec<String> = lines.into_iter().filter(|line| name_server(line).is_none()).collect();
            let mut lines = foreign.clone();
            lines.insert(at.min(lines.len()), format!("nameserver {server}"));
            prop_assert_eq!(name_servers(&lines.join("\n")), [server]);
            prop_assert!(name_servers(&foreign.join("\n")).is_empty());
        }
    }
}
