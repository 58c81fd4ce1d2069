//! Of a body only the cleaned beginning is kept, and nothing in a body changes the verdict.

use std::time::Duration;

use super::stage::{MARK, Played, Row, Stage, rows};
use crate::support::{Configure, Receiver, Reply, Site};

const SNIPPET_BYTES: usize = 1024;
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A body, and the snippet that is kept of it.
fn said(body: &[u8], snippet: &str) -> (Vec<u8>, String) {
    (body.to_vec(), snippet.to_owned())
}

fn table() -> Vec<(Vec<u8>, String)> {
    let long = MARK.repeat(1_000_000 / MARK.len());
    let cut = |text: &str| text[..SNIPPET_BYTES].to_owned();
    vec![
        said(b"received, thank you", "received, thank you"),
        said(b"", ""),
        said(b"ok\r\n{\"level\":\"ERROR\"} fake\x1b[31m\x1b]0;x\x07\0", "ok\n{\"level\":\"ERROR\"} fake [31m ]0;x  "),
        said(b"\xff\xfe not UTF-8 \xc3", "\u{fffd}\u{fffd} not UTF-8 \u{fffd}"),
        said(b"\xff\xfeo\0k\0", "\u{fffd}\u{fffd}o k "),
        said(b"lone \xed\xa0\x80", "lone \u{fffd}\u{fffd}\u{fffd}"),
        said(b"\xef\xbb\xbfmarked", "\\u{feff}marked"),
        said("\u{202e}evil\u{2066}\u{200b}.\u{200d}".as_bytes(), r"\u{202e}evil\u{2066}\u{200b}.\u{200d}"),
        said("\u{85}\u{9b}31m".as_bytes(), "  31m"),
        said("pаypal".as_bytes(), "pаypal"),
        said(
            b"<script>alert(1)</script><svg onload=alert(1)></textarea>",
            "<script>alert(1)</script><svg onload=alert(1)></textarea>",
        ),
        said(
            b"{{7*7}} ${7*7} javascript:alert(1) '; DROP TABLE attempts; --",
            "{{7*7}} ${7*7} javascript:alert(1) '; DROP TABLE attempts; --",
        ),
        said(long.as_bytes(), &cut(&long)),
        said(&b"\0".repeat(5000), &cut(&" ".repeat(5000))),
        said("é".repeat(2000).as_bytes(), &"é".repeat(SNIPPET_BYTES / 2)),
        said(format!("{}é", "x".repeat(1023)).as_bytes(), &"x".repeat(1023)),
        said("👩\u{200d}🚀".repeat(500).as_bytes(), &r"👩\u{200d}🚀".repeat(64)),
    ]
}

#[tokio::test]
async fn a_snippet_is_short_clean_and_cut_between_characters() {
    let stage = Stage::open(Site::new().await).await.without_headers();
    let (bodies, snippets): (Vec<_>, Vec<_>) = table().into_iter().unzip();
    let replies = bodies
        .iter()
        .map(|body| (String::from_utf8_lossy(&body[..body.len().min(40)]), Reply::body(200, body), "ok 200"));
    let played = stage.play(rows(replies).await).await;
    for (row, expected) in played.iter().zip(&snippets) {
        assert_eq!(row.snippet(), expected, "{}", row.name);
        assert!(row.snippet().len() <= SNIPPET_BYTES);
    }
    for (row, expected) in played.iter().zip(&snippets).take(6) {
        let log = stage.site.log(&row.webhook.id).await;
        assert_eq!(log[0]["response_snippet"].as_str().unwrap_or_default(), expected, "as the command line shows it");
        assert_eq!(log[0]["status"], "success");
    }
    stage.close().await;
}

fn endless(start: &str, again: &[u8]) -> Reply {
    Reply::endless(start, again, Duration::ZERO)
}

/// With pauses: the worker reads a chunk's head byte by byte, which is slow without optimisation.
fn slowly(start: &str, again: &[u8]) -> Reply {
    Reply::endless(start, again, Duration::from_millis(1))
}

#[tokio::test]
async fn a_body_without_an_end_is_read_to_the_cap_and_dropped() {
    let stage = Stage::open(Site::new().await).await;
    let block = [b"10000\r\n".to_vec(), vec![b'x'; 65536], b"\r\n".to_vec()].concat();
    let extension = format!("{CHUNKED}2;{}\r\nok\r\n0\r\n\r\n", "x".repeat(6_000_000));
    let trailers: String = (0..5000).map(|n| format!("X-{n}: {MARK}\r\n")).collect();
    let table = vec![
        ("chunks", endless(CHUNKED, &block), "ok 200"),
        ("chunks of one byte", endless(CHUNKED, &b"1\r\nx\r\n".repeat(10_000)), "ok 200"),
        ("plain bytes", endless("HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 65536]), "ok 200"),
        ("plain bytes of HTTP/1.0", endless("HTTP/1.0 200 OK\r\n\r\n", &[b'x'; 65536]), "ok 200"),
        ("plain bytes of a failure", endless("HTTP/1.1 500 Scripted\r\n\r\n", &[b'x'; 65536]), "http_status 500"),
        ("a chunk's extension", endless(&format!("{CHUNKED}2;"), &[b'x'; 65536]), "ok 200"),
        ("a chunk's size", slowly(CHUNKED, &[b'0'; 1024]), "ok 200"),
        ("blanks behind a chunk's size", slowly(&format!("{CHUNKED}2"), &[b' '; 1024]), "ok 200"),
        ("6 MB of extensions", Reply::raw(extension), "ok 200"),
        ("5,000 trailers", Reply::raw(format!("{CHUNKED}2\r\nok\r\n0\r\n{trailers}\r\n")), "ok 200"),
        ("trailers", endless(&format!("{CHUNKED}2\r\nok\r\n0\r\n"), &b"X: y\r\n".repeat(10_000)), "ok 200"),
    ];
    stage.play(rows(table).await).await;
    stage.close().await;
}

#[tokio::test]
async fn what_happens_in_the_body_never_changes_the_verdict() {
    let stage = Stage::open(Site::new().await.set("sender.body_timeout", "500ms")).await;
    let head = |status: u16| format!("HTTP/1.1 {status} Scripted\r\nContent-Length: 1000\r\n\r\n");
    let every = Duration::from_millis(20);
    let slow = |status: u16| Reply::endless(head(status) + "slow", "x", every);
    let table = vec![
        ("slow", slow(200), "ok 200"),
        ("slow after a failure", slow(503), "http_status 503"),
        ("never", Reply::raw(head(200)).then_hang(), "ok 200"),
        ("reset", Reply::raw(head(200) + "slow").then_reset(), "ok 200"),
        ("closed", Reply::raw(head(200) + "slow").then_close(), "ok 200"),
    ];
    let played = stage.play(rows(table).await).await;
    let snippets = played.iter().filter(|row| row.name.starts_with("slow")).map(Played::snippet);
    assert!(snippets.into_iter().all(|snippet| snippet.starts_with("slow")), "what came in time is kept");
    stage.close().await;
}

#[tokio::test]
async fn a_compressed_body_stays_compressed() {
    let stage = Stage::open(Site::new().await).await;
    let bomb = gzip_of_zeros(10_000_000);
    let table = ["gzip", "br", "zstd", "deflate", "gzip, gzip", "receiver-was-here"].map(|coding| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n", bomb.len());
        (coding, Reply::raw([head.as_bytes(), &bomb].concat()), "ok 200")
    });
    for row in stage.play(rows(table).await).await {
        assert_eq!(row.snippet(), "(compressed, not shown)", "{}", row.name);
        let requests = row.receiver.expect("every row has one").requests();
        assert_eq!(requests[0].head.header("accept-encoding"), None, "the request asks for no compression");
    }
    stage.close().await;
}

/// RFC 1952 around one block of RFC 1951 in fixed codes: a zero, then the longest copies of it.
fn gzip_of_zeros(length: usize) -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    let mut push = |code: &str| bits.extend(code.bytes().map(|bit| bit == b'1'));
    push("110");
    push("00110000");
    for _ in 0..(length - 1) / 258 {
        push("1100010100000");
    }
    push("0000000");
    let byte = |bits: &[bool]| bits.iter().rev().fold(0_u8, |byte, bit| byte << 1 | u8::from(*bit));
    let deflated = bits.chunks(8).map(byte);
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255].into_iter().chain(deflated).chain([0; 8]).collect()
}

#[tokio::test]
async fn the_answer_of_a_receiver_that_refuses_a_large_event_half_way_counts() {
    let stage = Stage::open(Site::new().await).await;
    let refusal = Reply::body(413, MARK);
    // A close with the request unread is a reset, which can overtake the answer.
    let table = [
        (refusal.clone().then_hang(), vec!["http_status 413"]),
        (refusal.then_close(), vec!["http_status 413", "protocol"]),
    ];
    for (row, (reply, verdicts)) in table.into_iter().enumerate() {
        let (receiver, account) = (Receiver::start().await, format!("acc_{row}"));
        receiver.answer_early(reply);
        let webhook = stage.site.create_webhook(&account, &receiver.url(), &["content.created"]).await;
        stage.site.publish(&account, "content.created", "x".repeat(200_000).into()).await;
        let first = stage.site.wait_for_attempts(&webhook, 1).await.remove(0);
        assert!(verdicts.contains(&first.verdict().as_str()), "{first:?}");
    }
    stage.close().await;
}

#[tokio::test]
async fn nothing_a_receiver_says_reaches_the_log_at_any_level() {
    let stage = Stage::open(Site::new().await.set("log.filter", "trace")).await;
    let head = format!("HTTP/1.1 500 {MARK}\r\nX: {MARK}\r\nContent-Length: {}\r\n\r\n{MARK}", MARK.len());
    let broken = format!("{MARK} {MARK}\r\n{MARK}\r\n\r\n");
    let table = vec![("an answer", Reply::raw(head), "http_status 500"), ("none", Reply::raw(broken), "protocol")];
    let receiver = Receiver::start_tls(crate::support::Authority::new().identity().server_config()).await;
    let tls = Row::at_url("a certificate", receiver.url(), "tls");
    stage.play(rows(table).await.into_iter().chain([tls]).collect()).await;
    stage.close().await;
}
