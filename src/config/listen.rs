//! Reads the address to listen on. An error says what to write instead. Pure.

use std::net::{Ipv6Addr, SocketAddr};

use serde::{Deserialize, Deserializer, de};

/// The address that a setting gives.
///
/// # Errors
///
/// The text is no address with a port: the error says what is wrong with it and what to write.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    address(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| instead_of(text))
}

fn instead_of(text: &str) -> String {
    let (host, port) = text.rsplit_once(':').unwrap_or(match is_port(text) {
        true => ("", text),
        false => (text, ""),
    });
    // An error repeats only the port: the rest of the text may be anything.
    let given = is_port(port);
    let port = if given { port } else { "9090" };
    let all = format!("[::]:{port} for all addresses, 0.0.0.0:{port} for those of IPv4");
    let local = format!("127.0.0.1:{port} for this machine alone");
    let bare = |host: &str| host.parse::<Ipv6Addr>().is_ok();
    match host {
        "" | "*" | "0" => format!("must name an address before the port: {all}, {local}"),
        _ if host == "localhost" || host.ends_with(".localhost") => {
            format!("must be an address, not a name: {local}")
        }
        // The text behind the last colon may be a part of the address, not a port.
        _ if bare(text) || bare(host) => {
            format!("must have an IPv6 address in brackets, and a port behind them, as in [::]:{port} or [::1]:{port}")
        }
        _ if !given => format!("must be an address and a port from 0 to 65535: {all}, {local}"),
        _ => format!("must be an address, not a name: {all}, {local}"),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_as_it_is() {
        for text in ["[::]:9090", "0.0.0.0:0", "127.0.0.1:65535", "[fe80::1%2]:9090", "10.1.2.3:80"] {
            assert_eq!(address(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_told_what_to_write() {
        let all = "must name an address before the port: [::]:9091 for all addresses, 0.0.0.0:9091 for those of IPv4, \
                   127.0.0.1:9091 for this machine alone";
        let brackets = "must have an IPv6 address in brackets, and a port behind them, as in [::]:9091 or [::1]:9091";
        let cases = [
            (":9091", all),
            ("*:9091", all),
            ("9091", all),
            ("localhost:9091", "must be an address, not a name: 127.0.0.1:9091 for this machine alone"),
            ("localhost", "must be an address, not a name: 127.0.0.1:9090 for this machine alone"),
            (":::9091", brackets),
            ("::1:9091", brackets),
            ("::", "must have an IPv6 address in brackets, and a port behind them, as in [::]:9090 or [::1]:9090"),
            ("[::]", "must be an address and a port from 0 to 65535: [::]:9090 for all"),
            ("0.0.0.0", "must be an address and a port from 0 to 65535: [::]:9090 for all"),
            ("0.0.0.0:65536", "must be an address and a port from 0 to 65535: [::]:9090 for all"),
            ("s3cret.example.com:9091", "must be an address, not a name: [::]:9091 for all"),
            ("http://s3cret:9091", "must be an address, not a name: [::]:9091 for all"),
            ("", "must name an address before the port: [::]:9090"),
        ];
        for (text, expected) in cases {
            let problem = address(text).unwrap_err();
            assert!(problem.starts_with(expected) && !problem.contains("s3cret"), "{text}: {problem}");
        }
    }
}
