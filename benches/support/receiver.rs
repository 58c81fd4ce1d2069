//! The receiver, a process of its own: answers as a request's path says and notes when each event arrived.
//!
//! `/ok`, `/delay/MILLISECONDS`, `/status/CODE` and `/never`, whatever follows. Only events whose id begins with `h`,
//! healthy traffic, are noted. The parent asks line by line over the child's standard input.

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::now;

pub const COMMAND: &str = "receiver";
/// Addresses that answer; webhooks are spread over them, since customers share no host.
pub const WEBHOOK_HOSTS: usize = 200;
/// If nothing arrives for this long, the missing deliveries count as lost.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Webhooks with numbers from here on have a host each, at which the benchmark itself listens.
pub const FIRST_OWN_HOST: usize = 1 << 20;

/// The address of a webhook's host.
pub fn host(webhook: usize) -> Ipv4Addr {
    if let Some(own) = webhook.checked_sub(FIRST_OWN_HOST) {
        let first = u32::from(Ipv4Addr::new(127, 2, 0, 1));
        return Ipv4Addr::from(first + u32::try_from(own).unwrap_or_default());
    }
    let last = u8::try_from(webhook % WEBHOOK_HOSTS).unwrap_or_default() + 1;
    Ipv4Addr::new(127, 0, 1, last)
}

/// The receiver as its parent sees it.
pub struct Receiver {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    pub port: u16,
}

impl Receiver {
    pub async fn start() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let questions = child.stdin.take().context("it is piped")?;
        let answers = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        let mut receiver = Self { child, questions, answers, port: 0 };
        receiver.port = receiver.answer().await?.parse()?;
        Ok(receiver)
    }

    pub fn process(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Arrivals since the last [`take`](Self::take).
    pub async fn count(&mut self) -> anyhow::Result<u64> {
        self.questions.write_all(b"count\n").await?;
        Ok(self.answer().await?.parse()?)
    }

    /// Waits until this many have arrived; an error once nothing arrives any more.
    pub async fn wait_for(&mut self, count: u64) -> anyhow::Result<()> {
        let (mut arrived, mut since) = (self.count().await?, Instant::now());
        while arrived < count {
            anyhow::ensure!(since.elapsed() < PATIENCE, "only {arrived} of {count} deliveries arrived");
            tokio::time::sleep(POLL).await;
            let before = std::mem::replace(&mut arrived, self.count().await?);
            if arrived > before {
                since = Instant::now();
            }
        }
        Ok(())
    }

    /// Waits until this many have arrived, but no longer than this.
    pub async fn wait_at_most(&mut self, count: u64, longest: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.count().await? < count && started.elapsed() < longest {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Returns every arrival, as the event's number and the time, and clears them at the receiver.
    pub async fn take(&mut self) -> anyhow::Result<Vec<(u64, u64)>> {
        self.questions.write_all(b"take\n").await?;
        let count: usize = self.answer().await?.parse()?;
        let mut arrivals = Vec::with_capacity(count);
        for _ in 0..count {
            let line = self.answer().await?;
            let (event, time) = line.split_once(' ').context("an arrival has two parts")?;
            arrivals.push((event.parse()?, time.parse()?));
        }
        Ok(arrivals)
    }

    /// The first arrival of each event, and how many arrived again.
    pub async fn take_first(&mut self) -> anyhow::Result<(HashMap<u64, u64>, u64)> {
        let (mut first, mut again) = (HashMap::new(), 0);
        for (event, time) in self.take().await? {
            let known = first.entry(event).or_insert(time);
            again += u64::from(*known != time);
            *known = time.min(*known);
        }
        Ok((first, again))
    }

    async fn answer(&mut self) -> anyhow::Result<String> {
        self.answers.next_line().await?.context("the receiver has ended")
    }
}

type Arrivals = Arc<Mutex<Vec<(u64, u64)>>>;

/// The process itself. Half of the processors are enough for answers that cost so little.
pub fn serve() -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let arrivals = Arrivals::default();
    println!("{}", runtime.block_on(listen(&arrivals))?);
    for question in std::io::stdin().lock().lines() {
        let mut answer = std::io::BufWriter::new(std::io::stdout().lock());
        if question? == "count" {
            writeln!(answer, "{}", lock(&arrivals).len())?;
        } else {
            let taken = std::mem::take(&mut *lock(&arrivals));
            writeln!(answer, "{}", taken.len())?;
            taken.iter().try_for_each(|(event, time)| writeln!(answer, "{event} {time}"))?;
        }
        answer.flush()?;
    }
    Ok(())
}

fn lock(arrivals: &Arrivals) -> MutexGuard<'_, Vec<(u64, u64)>> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen(arrivals: &Arrivals) -> anyhow::Result<u16> {
    let mut port = 0;
    for number in 0..WEBHOOK_HOSTS {
        let listener = TcpListener::bind((host(number), port)).await?;
        port = listener.local_addr()?.port();
        let arrivals = arrivals.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, arrivals.clone()));
            }
        });
    }
    Ok(port)
}

async fn converse(mut stream: TcpStream, arrivals: Arrivals) {
    let mut buffer = Vec::with_capacity(8192);
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        while let Some(request) = Request::read(&buffer) {
            if let Some(event) = request.event {
                lock(&arrivals).push((event, now()));
            }
            let Some(answer) = request.answer else {
                // Until the sender hangs up.
                stream.read_to_end(&mut buffer).await.ok();
                return;
            };
            buffer.drain(..request.length);
            if !answer.wait.is_zero() {
                tokio::time::sleep(answer.wait).await;
            }
            let head = format!("HTTP/1.1 {} -\r\nContent-Length: 0\r\n\r\n", answer.status);
            if stream.write_all(head.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// What the receiver needs of a complete request.
struct Request {
    length: usize,
    event: Option<u64>,
    /// `None`: the request is never answered.
    answer: Option<Answer>,
}

struct Answer {
    status: u16,
    wait: Duration,
}

impl Request {
    fn read(buffer: &[u8]) -> Option<Self> {
        let (mut length, mut event, mut answer) = (0, None, None);
        let mut rest = buffer;
        loop {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let line = std::str::from_utf8(&rest[..end]).unwrap_or_default().trim_end();
            rest = &rest[end + 1..];
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.parse().unwrap_or_default();
            } else if let Some(value) = line.strip_prefix("Webhook-Id: h") {
                event = value.parse().ok();
            } else if let Some(value) = line.strip_prefix("POST /") {
                answer = Answer::to(value);
            } else if line.is_empty() {
                break;
            }
        }
        (rest.len() >= length).then(|| Self { length: buffer.len() - rest.len() + length, event, answer })
    }
}

impl Answer {
    fn to(path: &str) -> Option<Self> {
        let mut parts = path.split(['/', ' ']);
        let kind = parts.next();
        let number = parts.next().and_then(|part| part.parse::<u16>().ok());
        match (kind, number) {
            (Some("never"), _) => None,
            (Some("delay"), Some(millis)) => Some(Self { status: 200, wait: Duration::from_millis(millis.into()) }),
            (Some("status"), Some(status)) => Some(Self { status, wait: Duration::ZERO }),
            _ => Some(Self { status: 200, wait: Duration::ZERO }),
        }
    }
}
