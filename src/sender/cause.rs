//! Tells apart why a receiver gave no answer. Decides by the types in the error's chain, never by their texts: those may contain
//! what the receiver sent.

use std::error::Error;
use std::io::ErrorKind;

use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::resolver::ResolveError;
use crate::delivery::{AttemptError, ErrorDetail};

/// The error of the HTTP client while the TCP connection is opened.
type TcpError = <HttpConnector as tower::Service<hyper::Uri>>::Error;

/// The cause of an error that the receiver is to blame for.
pub(super) fn of(error: &reqwest::Error) -> AttemptError {
    if let Some(error) = causes(error).find_map(|cause| cause.downcast_ref()) {
        return of_tls(error).into();
    }
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => ErrorDetail::ConnectTimeout.into(),
        (true, false) => of_connecting(error),
        (false, true) => ErrorDetail::ResponseTimeout.into(),
        (false, false) => of_answer(error).into(),
    }
}

/// The cause of a name that gave no address.
pub(super) fn of_resolving(error: &ResolveError) -> ErrorDetail {
    match error {
        ResolveError::Timeout => ErrorDetail::DnsTimeout,
        ResolveError::Failed(_) if error.is_not_found() => ErrorDetail::DnsNotFound,
        ResolveError::Unreachable => ErrorDetail::Unreachable,
        _ => ErrorDetail::DnsFailed,
    }
}

fn of_connecting(error: &reqwest::Error) -> AttemptError {
    let stood = || if is_https(error) { ErrorDetail::TlsOther } else { ErrorDetail::ClosedEarly };
    let kind = causes(error).find_map(|cause| Some(cause.downcast_ref::<std::io::Error>()?.kind()));
    let is_of_tcp = causes(error).any(|cause| cause.is::<TcpError>());
    match kind {
        // The system reports a connection that never stood as refused, not as reset.
        Some(kind) if !is_of_tcp || kind == ErrorKind::ConnectionReset => stood().into(),
        Some(ErrorKind::ConnectionRefused) => ErrorDetail::Refused.into(),
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => ErrorDetail::Unreachable.into(),
        _ => AttemptError::Connect,
    }
}

fn is_https(error: &reqwest::Error) -> bool {
    error.url().is_some_and(|url| url.scheme() == "https")
}

fn of_answer(error: &reqwest::Error) -> ErrorDetail {
    let is_no_http = |error: &hyper::Error| error.is_parse() && !error.is_parse_too_large();
    if ended_early(error) {
        ErrorDetail::ClosedEarly
    } else if causes(error).any(|cause| cause.downcast_ref().is_some_and(is_no_http)) {
        ErrorDetail::NotHttp
    } else {
        ErrorDetail::ProtocolOther
    }
}

fn of_tls(error: &rustls::Error) -> ErrorDetail {
    use AlertDescription as Alert;
    match error {
        // What other protocols begin with is read as a record of an unknown type or version, or with an absurd length.
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        ) => ErrorDetail::NotTls,
        rustls::Error::NoApplicationProtocol | rustls::Error::AlertReceived(Alert::NoApplicationProtocol) => {
            ErrorDetail::Http2Only
        }
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            Alert::HandshakeFailure | Alert::InsufficientSecurity | Alert::ProtocolVersion,
        ) => ErrorDetail::NoCommonCipher,
        rustls::Error::InvalidCertificate(refused) => of_certificate(refused),
        rustls::Error::NoCertificatesPresented => ErrorDetail::CertificateOther,
        _ => ErrorDetail::TlsOther,
    }
}

fn of_certificate(refused: &CertificateError) -> ErrorDetail {
    match refused {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => ErrorDetail::CertificateExpired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            ErrorDetail::CertificateName
        }
        CertificateError::UnknownIssuer => ErrorDetail::CertificateIssuer,
        // A certificate that has signed itself is one of an authority.
        CertificateError::Other(why) if matches!(why.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) => {
            ErrorDetail::CertificateIssuer
        }
        _ => ErrorDetail::CertificateOther,
    }
}

/// Whether the connection ended before the whole head of an answer.
pub(super) fn ended_early(error: &reqwest::Error) -> bool {
    let ended = |cause: &(dyn Error + 'static)| {
        if let Some(error) = cause.downcast_ref::<hyper::Error>() {
            return error.is_incomplete_message() || error.is_closed() || error.is_canceled();
        }
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(
            kind,
            Some(
                ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
            )
        )
    };
    !error.is_connect() && !error.is_timeout() && causes(error).any(ended)
}

/// The error and its causes.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| wrapped(error).or_else(|| error.source()))
}

/// The error inside an I/O error, which `source` skips. TLS errors are wrapped twice.
fn wrapped<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    Some(inner)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use hickory_resolver::net::NetError;

    use super::*;

    async fn failed(url: &str) -> reqwest::Error {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(url).send().await.unwrap_err()
    }

    /// Closes every connection at once.
    fn leaving() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        address
    }

    #[tokio::test]
    async fn failures_of_connecting_are_told_apart() {
        // Nobody else gets its port meanwhile.
        let without_listener = tokio::net::TcpSocket::new_v4().unwrap();
        without_listener.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let closed = without_listener.local_addr().unwrap();
        let leaving = leaving();
        for (url, detail) in [
            (format!("http://{closed}/"), ErrorDetail::Refused),
            (format!("https://{closed}/"), ErrorDetail::Refused),
            // No TCP connection can be made to a multicast address.
            ("http://224.0.0.1:9/".to_owned(), ErrorDetail::Unreachable),
            ("https://224.0.0.1:9/".to_owned(), ErrorDetail::Unreachable),
            (format!("http://{leaving}/"), ErrorDetail::ClosedEarly),
            (format!("https://{leaving}/"), ErrorDetail::TlsOther),
        ] {
            let error = failed(&url).await;
            assert_eq!(of(&error), detail.into(), "{url}: {}", crate::error_chain(&error));
        }
    }

    #[test]
    fn failures_of_looking_a_name_up_are_told_apart() {
        for (error, detail) in [
            (ResolveError::Timeout, ErrorDetail::DnsTimeout),
            (NetError::Timeout.into(), ErrorDetail::DnsTimeout),
            (NetError::Message("the name has no address").into(), ErrorDetail::DnsNotFound),
            (NetError::Busy.into(), ErrorDetail::DnsFailed),
            (ResolveError::Unreachable, ErrorDetail::Unreachable),
        ] {
            assert_eq!(of_resolving(&error), detail, "{error:?}");
        }
    }

    #[test]
    fn failures_of_tls_are_told_apart() {
        let alert = rustls::Error::AlertReceived;
        for (error, detail) in [
            (InvalidMessage::InvalidContentType.into(), ErrorDetail::NotTls),
            (alert(AlertDescription::NoApplicationProtocol), ErrorDetail::Http2Only),
            (alert(AlertDescription::HandshakeFailure), ErrorDetail::NoCommonCipher),
            (alert(AlertDescription::ProtocolVersion), ErrorDetail::NoCommonCipher),
            (alert(AlertDescription::CertificateRequired), ErrorDetail::TlsOther),
            (CertificateError::Expired.into(), ErrorDetail::CertificateExpired),
            (CertificateError::NotValidYet.into(), ErrorDetail::CertificateOther),
            (CertificateError::NotValidForName.into(), ErrorDetail::CertificateName),
            (CertificateError::UnknownIssuer.into(), ErrorDetail::CertificateIssuer),
            (CertificateError::Revoked.into(), ErrorDetail::CertificateOther),
        ] {
            assert_eq!(of_tls(&error), detail, "{error}");
        }
    }
}
