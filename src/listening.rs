//! Opens listening sockets. `[::]` means all addresses of the machine, IPv6 and IPv4.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait to be accepted. The kernel drops the first packet of further ones, and their callers send it
/// again only after a second. Many callers reconnect at once when another process stops.
const NOT_ACCEPTED: i32 = 4096;

/// Linux's error number for an address family that the kernel does not have (errno(3)). The standard library has no
/// `ErrorKind` for it.
const EAFNOSUPPORT: i32 = 97;

/// Listens on the address of this setting. `[::]` accepts IPv4 too, whatever the system's default is, and IPv4 alone where
/// there is no IPv6.
///
/// # Errors
///
/// The address cannot be used; the error names the setting.
pub(crate) fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let opened = match open(address) {
        Err(ListenError::NoSuchFamily(_)) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            let instead = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::info!(%address, %instead, "there is no IPv6 here, listening on IPv4 alone");
            open(instead)
        }
        opened => opened,
    };
    opened.map_err(ListenError::into_inner).with_context(|| format!("{setting}: {address} cannot be used"))
}

enum ListenError {
    /// The kernel does not have this address family, or it is switched off.
    NoSuchFamily(io::Error),
    Other(io::Error),
}

impl ListenError {
    fn into_inner(self) -> io::Error {
        match self {
            Self::NoSuchFamily(error) | Self::Other(error) => error,
        }
    }
}

fn open(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, None).map_err(|error| match error.raw_os_error() {
            Some(EAFNOSUPPORT) => ListenError::NoSuchFamily(error),
            _ => ListenError::Other(error),
        })?;
    bind(&socket, address).map_err(|error| match error.kind() {
        ErrorKind::AddrNotAvailable => ListenError::NoSuchFamily(error),
        _ => ListenError::Other(error),
    })?;
    TcpListener::from_std(socket.into()).map_err(ListenError::Other)
}

fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        // This option matters for `[::]` only.
        socket.set_only_v6(false)?;
    }
    // Allows the address while connections of an earlier process are still closing.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(NOT_ACCEPTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_addresses_of_ipv6_are_all_of_ipv4_too_and_those_of_ipv4_are_no_others() {
        let both = listen("ops.listen", "[::]:0".parse().unwrap()).unwrap();
        let port = both.local_addr().unwrap().port();
        for loopback in ["127.0.0.1", "::1"] {
            let caller = tokio::net::TcpStream::connect((loopback, port)).await;
            // A machine that tests may have no IPv6.
            assert!(caller.is_ok() || loopback == "::1" && !both.local_addr().unwrap().is_ipv6(), "{loopback}");
        }
        let one = listen("ops.listen", "0.0.0.0:0".parse().unwrap()).unwrap();
        let port = one.local_addr().unwrap().port();
        assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok());
        assert!(tokio::net::TcpStream::connect(("::1", port)).await.is_err());
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named_with_its_setting() {
        let taken = listen("api.listen", "[::]:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let error = crate::error_chain(listen("api.listen", address).unwrap_err().as_ref());
        assert!(error.starts_with(&format!("api.listen: {address} cannot be used: Address")), "{error}");
    }
}
