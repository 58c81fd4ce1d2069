//! A port for what begins to listen later, or stops and begins again.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A port of 127.0.0.1 that no other test gets as long as this lives, also while nothing listens on it. Connections are refused
/// then. Whoever listens on it must set `SO_REUSEADDR`, as tokio does.
pub struct ReservedPort(TcpSocket);

impl ReservedPort {
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("a new socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    pub async fn listen(&self) -> TcpListener {
        TcpListener::bind(self.address()).await.expect("nobody else has the port")
    }
}
