//! Addresses that lead nowhere.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// A port where connections are refused; nobody else gets it as long as this lives.
pub struct ClosedPort(TcpSocket);

impl ClosedPort {
    pub fn new() -> Self {
        Self(bound())
    }

    pub fn url(&self) -> String {
        url_of(self.0.local_addr())
    }
}

/// A port where connecting never succeeds and never fails.
pub struct FullBacklog {
    listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl FullBacklog {
    pub async fn new() -> Self {
        let listener = bound().listen(1).expect("it is bound");
        let address = listener.local_addr().expect("it is bound");
        let mut waiting = Vec::new();
        // On one machine a connection is made at once or never.
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            waiting.push(stream.expect("the port is open"));
        }
        Self { listener, _waiting: waiting }
    }

    pub fn url(&self) -> String {
        url_of(self.listener.local_addr())
    }
}

fn bound() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    socket
}

fn url_of(address: std::io::Result<SocketAddr>) -> String {
    format!("http://{}/hook", address.expect("it is bound"))
}
