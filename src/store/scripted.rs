//! A scripted server for unit tests, on an address of this machine. It gives answers to a login that a real server gives only
//! during a failover or behind a pooler; real servers are in tests/it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScriptedLogin {
    Served,
    /// With an SQLSTATE.
    Refused(&'static str),
    NeverAnswered,
}

pub(super) struct Scripted {
    pub(super) addr: SocketAddr,
    read_only: Arc<AtomicBool>,
    logins: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Scripted {
    pub(super) async fn start(login: ScriptedLogin) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), login).await
    }

    /// Two servers whose addresses one name may have.
    pub(super) async fn start_two() -> [Self; 2] {
        let one = Self::start(ScriptedLogin::Served).await;
        let beside = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), one.addr.port());
        let two = Self::start_at(beside, ScriptedLogin::Served).await;
        [one, two]
    }

    async fn start_at(addr: SocketAddr, login: ScriptedLogin) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (read_only, logins) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (for_sessions, counted) = (read_only.clone(), logins.clone());
        let serving = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                sessions.spawn(serve(client, login, for_sessions.clone()));
            }
        });
        Self { addr, read_only, logins, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    pub(super) fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::Relaxed);
    }

    pub(super) fn logins(&self) -> usize {
        self.logins.load(Ordering::Relaxed)
    }
}

/// Serves one client until it closes its connection.
async fn serve(mut client: TcpStream, login: ScriptedLogin, read_only: Arc<AtomicBool>) -> Option<()> {
    let length = client.read_u32().await.ok()?;
    client.read_exact(&mut vec![0; length as usize - 4]).await.ok()?;
    match login {
        ScriptedLogin::NeverAnswered => {}
        ScriptedLogin::Refused(code) => {
            let fields = format!("SFATAL\0C{code}\0Mrefused by a script\0\0");
            client.write_all(&message(b'E', fields.as_bytes())).await.ok()?;
            return None;
        }
        ScriptedLogin::Served => {
            client.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()).await.ok()?
        }
    }
    while let Ok(kind) = client.read_u8().await {
        let length = client.read_u32().await.ok()?;
        client.read_exact(&mut vec![0; length as usize - 4]).await.ok()?;
        if kind == b'Q' {
            // The only statement that the driver sends is SHOW transaction_read_only.
            let value: &[u8] =
                if read_only.load(Ordering::Relaxed) { b"\0\x01\0\0\0\x02on" } else { b"\0\x01\0\0\0\x03off" };
            let column =
                [&b"\0\x01transaction_read_only\0"[..], &[0; 6], &[0, 0, 0, 25, 0xff, 0xff], &[0xff; 4], &[0; 2]];
            let answer =
                [message(b'T', &column.concat()), message(b'D', value), message(b'C', b"SHOW\0"), message(b'Z', b"I")];
            client.write_all(&answer.concat()).await.ok()?;
        }
    }
    Some(())
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}
