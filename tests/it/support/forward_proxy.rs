//! A forward proxy on loopback: it tunnels (CONNECT) and passes requests on (absolute form), and keeps what it was asked.

use std::io::Result;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::http::Head;
use super::reserved_port::ReservedPort;

pub struct ForwardProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Head>>,
    refusal: Mutex<Option<u16>>,
}

impl ForwardProxy {
    pub async fn start() -> Self {
        Self::start_at(&ReservedPort::new()).await
    }

    /// A proxy that a test stops, and another one that it starts later, may have the same port.
    pub async fn start_at(port: &ReservedPort) -> Self {
        Self::listening(port.listen().await)
    }

    fn listening(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::<Shared>::default();
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers every request with this status instead of serving it; `None` ends that.
    pub fn refuse(&self, status: Option<u16>) {
        *self.shared.refusal.lock().unwrap() = status;
    }

    /// The first lines of what it was asked, such as `CONNECT hooks.example.com:443 HTTP/1.1`.
    pub fn asked(&self) -> Vec<String> {
        self.heads().into_iter().map(|head| head.first_line).collect()
    }

    pub fn heads(&self) -> Vec<Head> {
        self.shared.asked.lock().unwrap().clone()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut serving = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        serving.spawn(serve(client, shared.clone()));
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) -> Result<()> {
    let mut client = BufReader::new(client);
    while let Some(head) = Head::read(&mut client).await? {
        let mut words = head.first_line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        shared.asked.lock().unwrap().push(head.clone());
        let refusal = *shared.refusal.lock().unwrap();
        if let Some(status) = refusal {
            head.read_body(&mut client).await?;
            client.write_all(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
            continue;
        }
        if method == "CONNECT" {
            let Some(mut server) = connect(&target).await else {
                client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await?;
                continue;
            };
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
        let (authority, path) = target.trim_start_matches("http://").split_once('/').unwrap_or_default();
        let Some(mut server) = connect(authority).await else {
            client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await?;
            continue;
        };
        let own = |name: &str| ["proxy-authorization", "connection"].iter().any(|own| name.eq_ignore_ascii_case(own));
        let kept = head.headers.iter().filter(|(name, _)| !own(name));
        let headers: String = kept.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let body = head.read_body(&mut client).await?;
        let request = format!("{method} /{path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        server.write_all(&[request.as_bytes(), &body].concat()).await?;
        copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    Ok(())
}

/// Resolves every name to this machine.
async fn connect(authority: &str) -> Option<TcpStream> {
    let port = authority.rsplit_once(':')?.1.parse::<u16>().ok()?;
    TcpStream::connect(("127.0.0.1", port)).await.ok()
}
