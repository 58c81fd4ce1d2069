use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::AddressPolicy;

/// The refused ranges once more, as first and last address, so that a slip in a prefix length shows.
const REFUSED: &[(&str, &str)] = &[
    ("0.0.0.0", "0.255.255.255"),
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("168.63.129.16", "168.63.129.16"),
    ("169.254.0.0", "169.254.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.255"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.31.196.0", "192.31.196.255"),
    ("192.52.193.0", "192.52.193.255"),
    ("192.88.99.0", "192.88.99.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("192.175.48.0", "192.175.48.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "255.255.255.255"),
    ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"),
    ("3ffe::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of the test")
}

fn policy(allow: &[&str], deny: &[&str]) -> AddressPolicy {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network of the test")).collect();
    AddressPolicy::new(nets(allow), nets(deny))
}

fn ranges() -> impl Iterator<Item = (IpAddr, IpAddr)> {
    REFUSED.iter().map(|(first, last)| (ip(first), ip(last)))
}

fn refused(candidate: IpAddr) -> bool {
    ranges().any(|(first, last)| first.is_ipv4() == candidate.is_ipv4() && first <= candidate && candidate <= last)
}

/// The address `steps` after (or before) this one; none past either end of its family.
fn moved(from: IpAddr, steps: i128) -> Option<IpAddr> {
    match from {
        IpAddr::V4(from) => {
            let number = i128::from(from.to_bits()) + steps;
            u32::try_from(number).ok().map(|bits| Ipv4Addr::from_bits(bits).into())
        }
        IpAddr::V6(from) => from.to_bits().checked_add_signed(steps).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

#[test]
fn the_table_of_addresses_is_kept() {
    for line in include_str!("ip.tsv").lines().skip(1) {
        let [address, verdict, reason] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("bad row: {line}") };
        let permitted = AddressPolicy::default().permits(ip(address));
        assert_eq!(permitted, verdict == "allow", "{address} ({reason})");
    }
}

#[test]
fn every_range_ends_where_it_should() {
    let policy = AddressPolicy::default();
    for (first, last) in ranges() {
        assert!(!policy.permits(first), "first of the range: {first}");
        assert!(!policy.permits(last), "last of the range: {last}");
        for neighbour in [moved(first, -1), moved(last, 1)].into_iter().flatten() {
            assert_eq!(policy.permits(neighbour), !refused(neighbour), "beside the range: {neighbour}");
        }
    }
}

#[test]
fn an_allowed_network_is_permitted_although_it_is_private() {
    let policy = policy(&["10.1.0.0/16", "fd00::/8"], &[]);
    assert!(policy.permits(ip("10.1.2.3")));
    assert!(policy.permits(ip("fd00::1")));
    assert!(!policy.permits(ip("10.2.0.0")));
}

#[test]
fn a_denied_network_is_refused_although_it_is_public_or_allowed() {
    let policy = policy(&["10.0.0.0/8", "8.8.0.0/16"], &["10.1.0.0/16", "8.8.8.8/32", "2606:4700::/32"]);
    assert!(policy.permits(ip("10.2.0.1")));
    assert!(policy.permits(ip("8.8.4.4")));
    for denied in ["10.1.0.1", "8.8.8.8", "2606:4700:4700::1111"] {
        assert!(!policy.permits(ip(denied)), "{denied}");
    }
}

#[test]
fn a_denied_ipv4_network_is_refused_in_its_mapped_form_too() {
    let policy = policy(&["::ffff:0:0/96"], &["8.8.8.0/24"]);
    assert!(policy.permits(ip("::ffff:8.8.4.4")));
    assert!(!policy.permits(ip("::ffff:8.8.8.8")));
}

#[test]
fn a_denied_ipv6_world_leaves_ipv4_alone() {
    let policy = policy(&[], &["::/0"]);
    assert!(policy.permits(ip("8.8.8.8")));
    assert!(!policy.permits(ip("2606:4700:4700::1111")));
}

#[test]
fn a_mapped_address_is_allowed_only_as_such() {
    for allow in ["0.0.0.0/0", "127.0.0.0/8", "::/0", "::/80"] {
        let policy = policy(&[allow], &[]);
        assert!(!policy.permits(ip("::ffff:127.0.0.1")), "allowed by {allow}");
        assert!(!policy.permits(ip("::ffff:8.8.8.8")), "allowed by {allow}");
    }
    assert!(policy(&["::ffff:127.0.0.1/128"], &[]).permits(ip("::ffff:127.0.0.1")));
}

/// What a DNS64 makes of an IPv4 address.
fn synthesised(host: Ipv4Addr) -> IpAddr {
    Ipv6Addr::from_bits(0x64_ff9b << 96 | u128::from(host.to_bits())).into()
}

#[test]
fn an_answer_of_a_dns64_is_as_good_as_the_ipv4_address_inside_it() {
    let default = AddressPolicy::default();
    for public in ["64:ff9b::808:808", "64:ff9b::5db8:d822"] {
        assert!(default.permits_answer(ip(public)), "{public}");
    }
    for refused in ["10.1.2.3", "127.0.0.1", "169.254.169.254", "168.63.129.16", "0.0.0.0", "224.0.0.1"] {
        let answer = synthesised(refused.parse().unwrap());
        assert!(!default.permits_answer(answer), "{refused}");
        for allow in ["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "64:ff9b::/96", "64:ff9b::/64", "::/1"] {
            assert!(!policy(&[allow], &[]).permits_answer(answer), "{refused}, with {allow} allowed");
        }
    }
    for deny in ["8.8.8.0/24", "64:ff9b::/96", "64:ff9b::808:0/112", "::/0"] {
        assert!(!policy(&[], &[deny]).permits_answer(ip("64:ff9b::808:808")), "{deny}");
    }
}

#[test]
fn an_ipv4_address_inside_another_form_is_refused_as_an_answer_too() {
    for answer in [
        "64:ff9b:1::808:808",
        "64:ff9b:1:808:8:800::",
        "64:ff9b:0:0:0:1:808:808",
        "64:ff9b::1:0:808:808",
        "64:ff9c::808:808",
        "::ffff:8.8.8.8",
        "::ffff:0:8.8.8.8",
        "::8.8.8.8",
        "2002:808:808::1",
        "2001:0:4136:e378:8000:63bf:f7f7:f7f7",
        "fe80::5efe:808:808",
        "::200:5efe:808:808",
    ] {
        assert!(!AddressPolicy::default().permits_answer(ip(answer)), "{answer}");
    }
}

#[test]
fn a_translated_address_in_a_url_is_refused_whatever_is_allowed() {
    for allow in ["8.8.8.0/24", "64:ff9b::/96", "64:ff9b::808:808/128", "64:ff9b::/32", "::/1"] {
        assert!(!policy(&[allow], &[]).permits(ip("64:ff9b::808:808")), "{allow}");
    }
    assert!(
        policy(&["64:ff9b:1::/48"], &[]).permits(ip("64:ff9b:1::808:808")),
        "a network's own prefix may be allowed"
    );
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    // IPv6 twice: over the whole space, and where the permitted addresses are.
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits >> 3 | 1 << 125).into()),
    ]
}

fn refused_ip() -> impl Strategy<Value = IpAddr> {
    (0..REFUSED.len(), any::<u128>()).prop_map(|(range, dice)| match (ip(REFUSED[range].0), ip(REFUSED[range].1)) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let size = u128::from(last.to_bits() - first.to_bits()) + 1;
            Ipv4Addr::from_bits(first.to_bits() + u32::try_from(dice % size).expect("within the range")).into()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let size = last.to_bits() - first.to_bits() + 1;
            Ipv6Addr::from_bits(first.to_bits() + dice % size).into()
        }
        _ => panic!("a range of two families"),
    })
}

proptest! {
    #[test]
    fn nothing_inside_a_refused_range_is_permitted(ip in refused_ip()) {
        prop_assert!(!AddressPolicy::default().permits(ip));
    }

    #[test]
    fn everything_outside_the_refused_ranges_is_permitted(ip in any_ip()) {
        prop_assert_eq!(AddressPolicy::default().permits(ip), !refused(ip));
    }

    #[test]
    fn no_mapped_address_is_permitted(bits: u32) {
        prop_assert!(!AddressPolicy::default().permits(Ipv4Addr::from_bits(bits).to_ipv6_mapped().into()));
    }

    #[test]
    fn a_dns64_leads_to_public_ipv4_addresses_that_are_not_denied_and_to_no_others(
        host in prop_oneof![any::<u32>(), refused_ip().prop_filter_map("IPv4", |ip| match ip {
            IpAddr::V4(ip) => Some(ip.to_bits()),
            IpAddr::V6(_) => None,
        })],
        bits in 0..=32_u8,
        other: u32,
    ) {
        let host = Ipv4Addr::from_bits(host);
        prop_assert_eq!(AddressPolicy::default().permits_answer(synthesised(host)), !refused(host.into()));
        for near in [host, Ipv4Addr::from_bits(other)] {
            let network = ipnet::Ipv4Net::new(near, bits).unwrap();
            let policy = AddressPolicy::new(vec!["0.0.0.0/1".parse().unwrap(), IpAddr::from(host).into()], vec![network.into()]);
            let expected = !refused(host.into()) && !network.contains(&host);
            prop_assert_eq!(policy.permits_answer(synthesised(host)), expected);
        }
    }

    #[test]
    fn any_other_answer_is_judged_as_if_it_stood_in_a_url(ip in any_ip(), allowed in any_ip(), denied in any_ip()) {
        let policy = AddressPolicy::new(vec![allowed.into()], vec![denied.into()]);
        for ip in [ip, allowed, denied] {
            prop_assert_eq!(policy.permits_answer(ip), policy.permits(ip));
        }
    }

    #[test]
    fn deny_wins_over_everything(ip in any_ip()) {
        let policy = AddressPolicy::new(vec![ip.into()], vec![ip.into()]);
        prop_assert!(!policy.permits(ip));
    }
}
