//! A name server on loopback whose replies a test decides.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Answers over UDP until it is dropped.
pub struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
    task: JoinHandle<()>,
}

/// What the name server answers for a name. Of the addresses it gives those of the family that was asked for.
#[derive(Clone)]
pub struct Says {
    addresses: Vec<IpAddr>,
    alias: Option<Name>,
    code: ResponseCode,
    ttl: u32,
    silent: Option<Silence>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Silence {
    Always,
    ForIpv6,
}

impl Says {
    pub fn addresses(texts: &[&str]) -> Self {
        let addresses = texts.iter().map(|text| text.parse().expect("an address of the test")).collect();
        Self { addresses, alias: None, code: ResponseCode::NoError, ttl: 60, silent: None }
    }

    /// A CNAME without addresses: the resolver must ask for the addresses of that name.
    pub fn alias(of: &str) -> Self {
        Self { alias: Some(Name::from_ascii(of).expect("a name of the test")), ..Self::addresses(&[]) }
    }

    pub fn no_such_name() -> Self {
        Self { code: ResponseCode::NXDomain, ..Self::addresses(&[]) }
    }

    pub fn refused() -> Self {
        Self { code: ResponseCode::Refused, ..Self::addresses(&[]) }
    }

    /// SERVFAIL, as from a name server that cannot reach the servers it asks itself.
    pub fn failed() -> Self {
        Self { code: ResponseCode::ServFail, ..Self::addresses(&[]) }
    }

    pub fn silence() -> Self {
        Self { silent: Some(Silence::Always), ..Self::addresses(&[]) }
    }

    pub fn silent_for_ipv6(self) -> Self {
        Self { silent: Some(Silence::ForIpv6), ..self }
    }

    pub fn with_ttl(self, ttl: u32) -> Self {
        Self { ttl, ..self }
    }

    fn write(self, query: &Message) -> Option<Vec<u8>> {
        let question = query.queries.first().expect("one question");
        let kind = question.query_type();
        match self.silent {
            Some(Silence::Always) => return None,
            Some(Silence::ForIpv6) if kind == RecordType::AAAA => return None,
            _ => {}
        }
        let mut reply = query.clone().into_response();
        reply.metadata.response_code = self.code;
        let alias = self.alias.map(|name| RData::CNAME(CNAME(name)));
        let data = self.addresses.into_iter().map(RData::from).filter(|data| data.record_type() == kind).chain(alias);
        reply.add_answers(data.map(|data| Record::from_rdata(question.name().clone(), self.ttl, data)));
        Some(reply.to_vec().expect("a reply that can be encoded"))
    }
}

impl NameServer {
    /// `decide` gets the name and how often that name and family were asked for before.
    pub async fn start(decide: impl Fn(&str, usize) -> Says + Send + 'static) -> Self {
        Self::start_on("127.0.0.1", decide).await
    }

    /// As `start`, on another address of this machine.
    pub async fn start_on(ip: &str, decide: impl Fn(&str, usize) -> Says + Send + 'static) -> Self {
        let socket = UdpSocket::bind((ip, 0)).await.expect("a port");
        let address = socket.local_addr().expect("bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(socket, asked.clone(), decide));
        Self { address, asked, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many questions came in.
    pub fn queries(&self) -> usize {
        self.questions().len()
    }

    /// The names and the kinds of record that were asked for.
    pub fn questions(&self) -> Vec<(String, RecordType)> {
        self.asked.lock().expect("no panic").clone()
    }

    /// The different names that were asked for.
    pub fn names(&self) -> Vec<String> {
        let asked = self.asked.lock().expect("no panic");
        let mut names: Vec<String> = asked.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    socket: UdpSocket,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
    decide: impl Fn(&str, usize) -> Says + Send + 'static,
) {
    let mut buffer = [0; 1500];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await.expect("a query");
        let query = Message::from_vec(&buffer[..length]).expect("a query that can be decoded");
        let question = query.queries.first().expect("one question");
        let key = (question.name().to_ascii(), question.query_type());
        let before = {
            let mut asked = asked.lock().expect("no panic");
            asked.push(key.clone());
            asked.iter().filter(|one| **one == key).count() - 1
        };
        if let Some(reply) = decide(&key.0, before).write(&query) {
            socket.send_to(&reply, peer).await.expect("sent");
        }
    }
}
