//! A listener that no test may ever see a connection at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::wait_until;

pub struct Canary {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Canary {
    /// On an address that may be called, at a port that no webhook names.
    pub async fn beside() -> Self {
        Self::at("127.0.0.1", 0).await
    }

    /// On an address that must not be called.
    pub async fn inside() -> Self {
        Self::at("127.0.0.2", 0).await
    }

    pub async fn at(ip: &str, port: u16) -> Self {
        let listener = TcpListener::bind((ip, port)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::<AtomicUsize>::default();
        let counted = connections.clone();
        let accepting = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { address, connections, accepting }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Connections are accepted in order: after a connection of the test's own, all earlier ones have been counted.
    pub async fn assert_untouched(&self) {
        let before = TcpStream::connect(self.address).await.expect("it is listening");
        wait_until("the canary counts", async || self.connections.load(Ordering::SeqCst) > 0).await;
        assert_eq!(self.connections.load(Ordering::SeqCst), 1, "somebody connected to {}", self.address);
        self.connections.store(0, Ordering::SeqCst);
        drop(before);
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
