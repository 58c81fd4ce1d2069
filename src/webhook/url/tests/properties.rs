use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{UrlRefusal, WebhookUrl, address_of, allowing, parse};
use crate::address::AddressPolicy;

/// Hosts that some reader takes for `ip`: every spelling but the canonical one.
fn disguises(ip: Ipv4Addr) -> Vec<String> {
    [numbers(ip), inside_ipv6(ip), decorated(&ip.to_string())].concat()
}

/// As inet_aton(3) and the WHATWG rules read them.
fn numbers(ip: Ipv4Addr) -> Vec<String> {
    let (bits, [a, b, c, d]) = (ip.to_bits(), ip.octets());
    vec![
        format!("{bits:010}"),
        format!("{bits:#x}"),
        format!("0X{bits:X}"),
        format!("0{bits:o}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("{a:#x}.0{b:o}.{c}.{d}"),
        format!("{a:04}.{b:04}.{c:04}.{d:04}"),
        format!("{a}.{}", bits & 0xff_ffff),
        format!("{a}.{b}.{}", bits & 0xffff),
    ]
}

fn inside_ipv6(ip: Ipv4Addr) -> Vec<String> {
    let [high, low] = [ip.to_bits() >> 16, ip.to_bits() & 0xffff];
    vec![
        format!("[{}]", ip.to_ipv6_mapped()),
        format!("[{}]", ip.to_ipv6_compatible()),
        format!("[::ffff:{high:x}:{low:x}]"),
        format!("[0:0:0:0:0:FFFF:{ip}]"),
        format!("[::ffff:0:{ip}]"),
        format!("[::{high:x}:{low:x}]"),
        format!("[64:ff9b::{ip}]"),
        format!("[2002:{high:x}:{low:x}::]"),
        format!("[::5efe:{ip}]"),
        format!("[{ip}]"),
    ]
}

fn decorated(text: &str) -> Vec<String> {
    vec![
        format!("{text}."),
        format!("{text}.."),
        text.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        text.replace('.', "%2e"),
        text.replace('.', "。"),
        text.replace('.', "．"),
        with_digits_of(text, '０'),
        with_digits_of(text, '٠'),
        with_digits_of(text, '०'),
        format!("{text}%00"),
        format!("{text}\\"),
        format!("{text}\u{200b}"),
        format!("\t{text}"),
        format!("user@{text}"),
        format!("example.com@{text}"),
        format!("example.com\\@{text}"),
        format!("/{text}"),
    ]
}

fn with_digits_of(text: &str, zero: char) -> String {
    let foreign = |digit| char::from_u32(u32::from(zero) + digit);
    text.chars().map(|char| char.to_digit(10).and_then(foreign).unwrap_or(char)).collect()
}

fn any_ipv4() -> impl Strategy<Value = Ipv4Addr> {
    let start = prop::sample::select(vec![[0, 0], [10, 0], [127, 0], [169, 254], [172, 16], [192, 168], [224, 0]]);
    prop_oneof![
        any::<u32>().prop_map(Ipv4Addr::from_bits),
        (start, any::<[u8; 2]>()).prop_map(|([a, b], [c, d])| Ipv4Addr::new(a, b, c, d)),
    ]
}

fn any_ipv6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        any::<u128>().prop_map(Ipv6Addr::from_bits),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits >> 3 | 1 << 125)),
        any::<u16>().prop_map(|bits| Ipv6Addr::from_bits(bits.into())),
    ]
}

fn permitted(ip: impl Into<IpAddr>) -> bool {
    AddressPolicy::default().permits(ip.into())
}

proptest! {
    #[test]
    fn an_ipv4_address_is_accepted_in_its_canonical_form_if_the_policy_permits_it(ip in any_ipv4(), tls: bool) {
        let scheme = if tls { "https" } else { "http" };
        let result = parse(&format!("{scheme}://{ip}/hook"));
        prop_assert_eq!(result.is_ok(), permitted(ip));
        prop_assert!(result.map_or_else(|refusal| refusal == UrlRefusal::Blocked, |url| address_of(&url) == Some(ip.into())));
    }

    #[test]
    fn an_ipv4_address_is_never_accepted_in_disguise(ip in any_ipv4(), port in prop_oneof![Just(""), Just(":8443")]) {
        // Even where the operator allows the address itself.
        let everything = allowing(&["0.0.0.0/0"]);
        for host in disguises(ip) {
            let raw = format!("https://{host}{port}/hook");
            prop_assert!(parse(&raw).is_err(), "{}", raw);
            prop_assert!(WebhookUrl::parse(&raw, &everything).is_err(), "{}", raw);
        }
    }

    #[test]
    fn an_ipv6_address_is_accepted_if_the_policy_permits_it(ip in any_ipv6()) {
        let [a, b, c, d, e, f, g, h] = ip.segments();
        let tail = Ipv4Addr::from((u32::from(g) << 16) | u32::from(h));
        for host in [
            ip.to_string(),
            format!("{a:04X}:{b:04X}:{c:04X}:{d:04X}:{e:04X}:{f:04X}:{g:04X}:{h:04X}"),
            format!("{a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}:{tail}"),
        ] {
            let result = parse(&format!("https://[{host}]/hook"));
            prop_assert_eq!(result.is_ok(), permitted(ip), "{}", host);
            prop_assert!(result.map_or_else(|refusal| refusal == UrlRefusal::Blocked, |url| address_of(&url) == Some(ip.into())));
        }
    }

    #[test]
    fn an_accepted_number_is_an_address_the_policy_permits(host in "[0-9a-fx.%:\\[\\]]{1,24}|0x[0-9a-f]{1,8}|[0-9.]{1,15}") {
        if let Ok(url) = parse(&format!("https://{host}/")) {
            match address_of(&url) {
                Some(ip) => prop_assert!(permitted(ip)),
                None => prop_assert!(url.host().rsplit('.').next().is_some_and(|label| label.parse::<u64>().is_err())),
            }
        }
    }

    #[test]
    fn whatever_is_accepted_is_accepted_again_unchanged(raw in "https?://([a-zA-Z0-9_-]{1,9}\\.){1,3}[a-z]{2,5}\\.?(:[0-9]{0,5})?([/?][!-~]{0,60})?") {
        if let Ok(url) = parse(&raw) {
            prop_assert_eq!(parse(url.as_str()), Ok(url));
        }
    }

    #[test]
    fn nothing_makes_the_parser_panic(raw in any::<String>(), rest in "\\PC*", mess in "[a-z0-9:/\\\\@\\[\\]?#.%\\t １٠ü🔐-]{0,40}") {
        for raw in [raw, format!("https://{rest}"), format!("http:{mess}"), format!("https://{mess}")] {
            if let Ok(url) = parse(&raw) {
                prop_assert!(url.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(parse(url.as_str()), Ok(url));
            }
        }
    }

    #[test]
    fn a_refusal_never_repeats_the_url(host in "[a-z]{12,20}", path in "[a-z]{12,20}") {
        for raw in [
            format!("https://{host}/{path}"),
            format!("ftp://{host}.com/{path}"),
            format!("https://{host}:{path}@example.com/"),
            format!("https://{host}.com:x/{path}"),
            format!("https://{host}.local/{path}"),
            format!("https://127.0.0.1/{host}?{path}"),
        ] {
            let refusal = parse(&raw).expect_err("each breaks a rule");
            let shown = format!("{refusal} {refusal:?}");
            prop_assert!(!shown.contains(&host) && !shown.contains(&path), "{}", shown);
        }
    }
}
