//! HTTP/1.1 as bytes: heads with their spelling and order kept, bodies by length or in chunks, and a tiny client.

use std::io::{Error, Result};

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::search;
use super::wait::{PATIENCE, within};

#[derive(Debug, Clone, Default)]
pub struct Head {
    pub first_line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of a header, whatever its spelling.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// `None` if the other side left before saying anything.
    pub async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Self>> {
        let Some(first_line) = read_line(stream).await? else { return Ok(None) };
        let mut head = Self { first_line, headers: Vec::new() };
        loop {
            let line = read_line(stream).await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                return Ok(Some(head));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| Error::other(format!("no header: {line:?}")))?;
            head.headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// The body a request with this head has.
    pub async fn read_body(&self, stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>> {
        if self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return read_chunks(stream).await;
        }
        let length = self.header("content-length").map_or(Ok(0), str::parse).map_err(Error::other)?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        Ok(body)
    }
}

async fn read_chunks(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = read_line(stream).await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(Error::other)?;
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..]).await?;
        read_line(stream).await?;
        if size == 0 {
            return Ok(body);
        }
    }
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<String>> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => {
            line.pop_if(|last| *last == b'\r');
            Ok(Some(String::from_utf8_lossy(&line).into_owned()))
        }
        Some(_) => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }
}

pub async fn get(address: &str, path: &str) -> Response {
    ask(address, "GET", path, &[], b"").await
}

/// A metric of ours by its name without `penr_webhooks_`, and its labels. One with labels is 0 until it is counted.
pub async fn metric(operations: &str, name: &str) -> f64 {
    let text = get(operations, "/metrics").await.text();
    let mut ours = text.lines().filter_map(|line| line.strip_prefix("penr_webhooks_")?.rsplit_once(' '));
    match ours.find(|(found, _)| *found == name) {
        Some((_, value)) => value.parse().expect("a number"),
        None if name.contains('{') => 0.0,
        None => panic!("no {name} in {text}"),
    }
}

/// A connection that is kept for one request after the other.
pub struct Kept(BufReader<TcpStream>);

impl Kept {
    pub async fn open(address: &str) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.expect("somebody listens")))
    }

    /// Sends a request; fails the test if no answer comes.
    pub async fn get(&mut self, path: &str) -> Response {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        self.0.write_all(head.as_bytes()).await.expect("the connection stands");
        let answer = async {
            let head = Head::read(&mut self.0).await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            let status = head.first_line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
            let body = head.read_body(&mut self.0).await?;
            Ok::<_, Error>(Response { status, head, body })
        };
        let what = format!("GET {path} is answered");
        let answer = within(&what, PATIENCE, answer).await.unwrap_or_else(|error| panic!("GET {path}: {error}"));
        search::no_value_in_answer(path, &answer);
        answer
    }

    /// Waits until the other side closes the connection without having sent anything more.
    pub async fn ends(&mut self) {
        let mut rest = Vec::new();
        let ended = within("the connection is closed", PATIENCE, self.0.read_to_end(&mut rest)).await;
        assert!(rest.is_empty() && ended.is_ok(), "{ended:?} after {rest:?}");
    }
}

/// One request on a connection of its own; the answer must come.
pub async fn ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let what = format!("{method} {path} is answered");
    let answer = within(&what, PATIENCE, try_ask(address, method, path, headers, body)).await;
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

pub async fn try_ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let head = Head::read(&mut stream).await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.first_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| Error::other(format!("no status line: {}", head.first_line)))?;
    let body = if method == "HEAD" { Vec::new() } else { head.read_body(&mut stream).await? };
    let answer = Response { status, head, body };
    search::no_value_in_answer(path, &answer);
    Ok(answer)
}
