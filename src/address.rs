//! Decides which IP addresses may be called. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The addresses that a request may go to: public ones and those that the operator allows, except those that the operator denies.
///
/// Public addresses are those outside the blocks of the IANA special-purpose address registries (RFC 6890); of IPv6 only
/// global unicast (`2000::/3`). IPv6 addresses that contain an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo, ISATAP)
/// are not public. [`permits_answer`](Self::permits_answer) has the one exception, for answers of name servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl AddressPolicy {
    /// A policy that always refuses the networks of `deny`, and permits those of `allow` even if they are not public.
    ///
    /// An IPv4 network in `deny` also refuses the IPv4-mapped form of its addresses (`::ffff:a.b.c.d`); one in `allow`
    /// does not permit that form. Only a network inside `::ffff:0:0/96` does. Nothing in `allow` permits an address inside
    /// [`NAT64`].
    #[must_use]
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        Self { allow, deny }
    }

    /// Whether a request may go to `ip`, the host of a URL.
    #[must_use]
    pub fn permits(&self, ip: IpAddr) -> bool {
        if self.denies(ip) || translated(ip).is_some() {
            return false;
        }
        self.allows(ip) || is_public(ip)
    }

    /// Whether a request may go to `ip`, the answer of a name server.
    ///
    /// In a network without IPv4 the name servers (DNS64, RFC 6147) give a host that has only IPv4 an address of [`NAT64`], and
    /// a gateway translates. Such an answer is permitted if the IPv4 address inside it is public and neither of the two is
    /// denied. `allow` does not count here: private addresses must not be called through this prefix (RFC 6052, 3.1), and
    /// anybody can publish such an answer in the DNS.
    #[must_use]
    pub fn permits_answer(&self, ip: IpAddr) -> bool {
        match translated(ip) {
            Some(host) => !self.denies(ip) && !self.denies(host) && is_public(host),
            None => self.permits(ip),
        }
    }

    /// The networks that the operator allows beside public ones.
    #[must_use]
    pub fn allowed(&self) -> &[IpNet] {
        &self.allow
    }

    fn denies(&self, ip: IpAddr) -> bool {
        // The kernel connects a mapped address to the IPv4 address inside it.
        let host = ip.to_canonical();
        self.deny.iter().any(|net| net.contains(&ip) || net.contains(&host))
    }

    fn allows(&self, ip: IpAddr) -> bool {
        // `::/0` must not permit every IPv4 address in its mapped form.
        let shortest = if mapped(ip) { MAPPED_PREFIX } else { 0 };
        self.allow.iter().any(|net| net.prefix_len() >= shortest && net.contains(&ip))
    }
}

/// The well-known prefix `64:ff9b::/96`, whose addresses end with the IPv4 address that they stand for (RFC 6052, 2.1).
pub const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0], 96);

/// The IPv4 address that an address of [`NAT64`] stands for.
fn translated(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V6(ip) if NAT64.contains(&ip) => {
            let [.., a, b, c, d] = ip.octets();
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        _ => None,
    }
}

/// The prefix length of `::ffff:0:0/96` (RFC 4291, 2.5.5.2).
const MAPPED_PREFIX: u8 = 96;

fn mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !REFUSED_V4.iter().any(|net| net.contains(&ip)),
        IpAddr::V6(ip) => GLOBAL_V6.contains(&ip) && !REFUSED_V6.iter().any(|net| net.contains(&ip)),
    }
}

// https://www.iana.org/assignments/iana-ipv4-special-registry, and what cloud hosts answer on themselves.
const REFUSED_V4: [Ipv4Net; 18] = [
    v4([0, 0, 0, 0], 8),        // "this network", RFC 791
    v4([10, 0, 0, 0], 8),       // private, RFC 1918
    v4([100, 64, 0, 0], 10),    // carrier-grade NAT, RFC 6598
    v4([127, 0, 0, 0], 8),      // loopback, RFC 1122
    v4([168, 63, 129, 16], 32), // Azure's WireServer: a public number that the host itself answers
    v4([169, 254, 0, 0], 16),   // link-local, RFC 3927: cloud metadata
    v4([172, 16, 0, 0], 12),    // private, RFC 1918
    v4([192, 0, 0, 0], 24),     // IETF protocols, RFC 6890
    v4([192, 0, 2, 0], 24),     // documentation, RFC 5737
    v4([192, 31, 196, 0], 24),  // AS112, RFC 7535
    v4([192, 52, 193, 0], 24),  // AMT, RFC 7450
    v4([192, 88, 99, 0], 24),   // 6to4 relays, RFC 7526
    v4([192, 168, 0, 0], 16),   // private, RFC 1918
    v4([192, 175, 48, 0], 24),  // AS112, RFC 7534
    v4([198, 18, 0, 0], 15),    // benchmarks, RFC 2544
    v4([198, 51, 100, 0], 24),  // documentation, RFC 5737
    v4([203, 0, 113, 0], 24),   // documentation, RFC 5737
    v4([224, 0, 0, 0], 3),      // multicast, reserved and broadcast, RFC 1112
];

// https://www.iana.org/assignments/ipv6-unicast-address-assignments: all that has ever been assigned for use.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0], 3);

// https://www.iana.org/assignments/iana-ipv6-special-registry, as far as it lies inside GLOBAL_V6.
const REFUSED_V6: [Ipv6Net; 6] = [
    v6([0x2001, 0, 0], 23),         // IETF protocols, RFC 2928: Teredo, ORCHID, AMT
    v6([0x2001, 0xdb8, 0], 32),     // documentation, RFC 3849
    v6([0x2002, 0, 0], 16),         // 6to4, RFC 3056: carries any IPv4 address
    v6([0x2620, 0x4f, 0x8000], 48), // AS112, RFC 7534
    v6([0x3ffe, 0, 0], 16),         // 6bone, returned, RFC 3701
    v6([0x3fff, 0, 0], 20),         // documentation, RFC 9637
];

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 3], prefix: u8) -> Ipv6Net {
    let [a, b, c] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

#[cfg(test)]
mod tests;
