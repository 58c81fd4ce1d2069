//! The closed list of causes why a receiver gave no answer. The names stand in the database and in the API.

use serde::Serialize;
use utoipa::ToSchema;

/// The phase of a request that failed, which is the attempt's `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The host's name was looked up.
    Dns,
    /// The connection was opened.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The answer was waited for.
    Timeout,
    /// The answer was read.
    Protocol,
}

impl Phase {
    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
        }
    }
}

/// What went wrong within the phase that `error` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorDetail {
    /// The name does not exist, or has no address.
    DnsNotFound,
    /// The name's own servers failed.
    DnsFailed,
    /// The name's own servers did not answer.
    DnsTimeout,
    /// Nobody listens at the port.
    Refused,
    /// There is no route to the host.
    Unreachable,
    /// Connecting, with the TLS handshake, took too long.
    ConnectTimeout,
    /// The server does not speak TLS.
    NotTls,
    /// The server takes HTTP/2 alone.
    Http2Only,
    /// The server and this service have no TLS version or cipher in common.
    NoCommonCipher,
    /// The certificate has expired.
    CertificateExpired,
    /// The certificate is for other hosts.
    CertificateName,
    /// No authority that is trusted has signed the certificate.
    CertificateIssuer,
    /// The certificate is refused for another reason.
    CertificateOther,
    /// The TLS handshake failed for another reason.
    TlsOther,
    /// The answer did not come in time.
    ResponseTimeout,
    /// The connection ended before the answer.
    ClosedEarly,
    /// What came is no HTTP/1.
    NotHttp,
    /// The answer cannot be used for another reason.
    ProtocolOther,
}

impl ErrorDetail {
    /// All of them, by phase.
    pub const ALL: [Self; 18] = [
        Self::DnsNotFound,
        Self::DnsFailed,
        Self::DnsTimeout,
        Self::Refused,
        Self::Unreachable,
        Self::ConnectTimeout,
        Self::NotTls,
        Self::Http2Only,
        Self::NoCommonCipher,
        Self::CertificateExpired,
        Self::CertificateName,
        Self::CertificateIssuer,
        Self::CertificateOther,
        Self::TlsOther,
        Self::ResponseTimeout,
        Self::ClosedEarly,
        Self::NotHttp,
        Self::ProtocolOther,
    ];

    /// The phase that failed.
    pub fn phase(self) -> Phase {
        match self {
            Self::DnsNotFound | Self::DnsFailed | Self::DnsTimeout => Phase::Dns,
            Self::Refused | Self::Unreachable | Self::ConnectTimeout => Phase::Connect,
            Self::NotTls
            | Self::Http2Only
            | Self::NoCommonCipher
            | Self::CertificateExpired
            | Self::CertificateName
            | Self::CertificateIssuer
            | Self::CertificateOther
            | Self::TlsOther => Phase::Tls,
            Self::ResponseTimeout => Phase::Timeout,
            Self::ClosedEarly | Self::NotHttp | Self::ProtocolOther => Phase::Protocol,
        }
    }

    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DnsNotFound => "dns_not_found",
            Self::DnsFailed => "dns_failed",
            Self::DnsTimeout => "dns_timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::NotTls => "not_tls",
            Self::Http2Only => "http2_only",
            Self::NoCommonCipher => "no_common_cipher",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateName => "certificate_name",
            Self::CertificateIssuer => "certificate_issuer",
            Self::CertificateOther => "certificate_other",
            Self::TlsOther => "tls_other",
            Self::ResponseTimeout => "response_timeout",
            Self::ClosedEarly => "closed_early",
            Self::NotHttp => "not_http",
            Self::ProtocolOther => "protocol_other",
        }
    }

    /// The cause with this name. `None` for a name that a newer release has stored.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|detail| detail.as_str() == name)
    }

    /// Whether time ran out while connecting to the receiver or waiting for it.
    pub(crate) fn is_timeout(self) -> bool {
        matches!(self, Self::ConnectTimeout | Self::ResponseTimeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_has_the_same_name_in_the_database_and_in_the_api() {
        for detail in ErrorDetail::ALL {
            assert_eq!(serde_json::to_value(detail).unwrap(), detail.as_str());
            assert_eq!(ErrorDetail::from_name(detail.as_str()), Some(detail));
        }
        assert_eq!(ErrorDetail::from_name("quic_timeout"), None);
    }
}
