//! Answers that are no HTTP, almost HTTP, or unusual HTTP: each has its verdict, at bounded cost, and none reaches the log.

use std::time::Duration;

use super::stage::{MARK, Stage, rows};
use crate::support::{Reply, Site};

const NO_PAUSE: Duration = Duration::ZERO;

type Table = Vec<(&'static str, Reply, &'static str)>;

/// These header lines between a good status line and a body.
fn lines(lines: impl AsRef<[u8]>) -> Reply {
    Reply::raw([b"HTTP/1.1 200 OK\r\n", lines.as_ref(), b"\r\n\r\n", MARK.as_bytes()].concat()).then_close()
}

fn raw(text: &str) -> Reply {
    Reply::raw(text.replace("MARK", MARK)).then_close()
}

async fn play(table: Table) {
    let stage = Stage::open(Site::new().await).await;
    stage.play(rows(table).await).await;
    stage.close().await;
}

#[tokio::test]
async fn a_body_whose_length_cannot_be_known_is_judged_by_whether_its_head_can_be_read() {
    play(vec![
        ("more promised than sent", lines("Content-Length: 9223372036854775807"), "ok 200"),
        ("less promised than sent", lines("Content-Length: 2"), "ok 200"),
        ("the same length twice", lines("Content-Length: 17\r\nContent-Length: 17"), "ok 200"),
        ("two lengths", lines("Content-Length: 5\r\nContent-Length: 6"), "protocol"),
        ("two lengths in one line", lines("Content-Length: 5, 6"), "protocol"),
        ("a negative length", lines("Content-Length: -1"), "protocol"),
        ("a length of 2^64", lines("Content-Length: 18446744073709551616"), "protocol"),
        ("a length with a sign", lines("Content-Length: +5"), "protocol"),
        ("a length in words", lines("Content-Length: receiver-was-here"), "protocol"),
        (
            "length and chunks",
            raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            "ok 200",
        ),
        ("an unknown coding", lines("Transfer-Encoding: receiver-was-here"), "ok 200"),
        ("chunks inside of gzip", lines("Transfer-Encoding: chunked, gzip"), "ok 200"),
        ("a chunk without a size", lines("Transfer-Encoding: chunked"), "ok 200"),
        (
            "a chunk of 2^68 bytes",
            raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nMARK"),
            "ok 200",
        ),
        (
            "a chunk that is longer than it says",
            raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nMARK\r\n0\r\n\r\n"),
            "ok 200",
        ),
        ("chunks without an end", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), "ok 200"),
        ("204 with a body", raw("HTTP/1.1 204 No Content\r\nContent-Length: 17\r\n\r\nMARK"), "ok 204"),
        ("304 with a body", raw("HTTP/1.1 304 Not Modified\r\nContent-Length: 17\r\n\r\nMARK"), "http_status 304"),
        ("no length at all", raw("HTTP/1.1 200 OK\r\n\r\nMARK"), "ok 200"),
        ("nothing but a head", raw("HTTP/1.1 200 OK\r\n\r\n"), "ok 200"),
    ])
    .await;
}

#[tokio::test]
async fn a_head_larger_than_anybody_needs_costs_no_memory() {
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: {MARK}")).collect::<Vec<_>>().join("\r\n");
    let large = format!("X: {}", MARK.repeat(300 * 1024 / MARK.len()));
    let endless = |start: &str, again: &[u8]| Reply::endless(format!("{start}{MARK}"), again, NO_PAUSE);
    play(vec![
        ("a hundred headers", lines(many(100)), "ok 200"),
        ("a hundred and one headers", lines(many(101)), "protocol protocol_other"),
        ("one header of 300 KB", lines(large), "ok 200"),
        ("a header line without an end", endless("HTTP/1.1 200 OK\r\nX: ", &[b'x'; 65536]), "protocol protocol_other"),
        ("a header name without an end", endless("HTTP/1.1 200 OK\r\n", &[b'x'; 65536]), "protocol"),
        ("headers without an end", endless("HTTP/1.1 200 OK\r\nX: ", &b"\r\nX: y".repeat(4096)), "protocol"),
        ("a status line without an end", endless("HTTP/1.1 200 ", &[b'x'; 65536]), "protocol"),
        ("empty lines without an end", endless("\r\n", &b"\r\n".repeat(32768)), "protocol"),
    ])
    .await;
}

#[tokio::test]
async fn a_head_that_is_not_quite_http_is_refused_or_understood_but_never_logged() {
    play(vec![
        ("a folded header", lines("X: a\r\n receiver-was-here"), "protocol"),
        ("a space before the colon", lines("X : receiver-was-here"), "protocol"),
        ("a space in a header's name", lines("X Y: receiver-was-here"), "protocol"),
        ("a header without a colon", lines(MARK), "protocol"),
        ("a header without a name", lines(": receiver-was-here"), "protocol"),
        ("a NUL in a value", lines("X: receiver-was-here\0"), "protocol"),
        ("a carriage return in a value", lines("X: a\rreceiver-was-here"), "protocol"),
        ("latin-1 in a value", lines(b"X: caf\xe9"), "ok 200"),
        ("latin-1 in a name", lines(b"X\xe9: y"), "protocol"),
        (
            "latin-1 in values we look at",
            lines(b"Retry-After: \xe9\r\nContent-Encoding: \xe9\r\nContent-Type: \xe9"),
            "ok 200",
        ),
        ("an escape in the reason", raw("HTTP/1.1 200 \x1b[31mMARK\r\n\r\n"), "protocol"),
        ("a NUL in the reason", raw("HTTP/1.1 200 \0MARK\r\n\r\n"), "protocol"),
        (
            "bytes above ASCII in the reason",
            Reply::raw(*b"HTTP/1.1 200 \xff\xfe\r\nContent-Length: 0\r\n\r\n"),
            "ok 200",
        ),
        ("no reason", raw("HTTP/1.1 200\r\n\r\n"), "ok 200"),
        ("bare line feeds", raw("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), "ok 200"),
        ("a status of two digits", raw("HTTP/1.1 20 MARK\r\n\r\n"), "protocol"),
        ("a status in letters", raw("HTTP/1.1 2OO MARK\r\n\r\n"), "protocol"),
        ("a negative status", raw("HTTP/1.1 -200 MARK\r\n\r\n"), "protocol"),
        ("a status line alone", raw("HTTP/1.1 200 MARK\r\n"), "protocol"),
        ("half a status line", raw("HTTP/1.1 20"), "protocol closed_early"),
    ])
    .await;
}

#[tokio::test]
async fn another_protocol_than_http_is_recognised_as_such() {
    play(vec![
        ("HTTP/0.9", raw("MARK\r\n"), "protocol not_http"),
        ("HTTP/1.0", raw("HTTP/1.0 200 OK\r\n\r\nMARK"), "ok 200"),
        (
            "HTTP/1.0 that stays",
            Reply::raw("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"),
            "ok 200",
        ),
        ("HTTP/1.2", raw("HTTP/1.2 200 MARK\r\n\r\n"), "protocol"),
        ("HTTP/2.0 in words", raw("HTTP/2.0 200 MARK\r\n\r\n"), "protocol"),
        (
            "HTTP/2 frames",
            Reply::raw(*b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\0\x04\0\x01\0\0\0\x05\0\xff\xff\xff"),
            "protocol",
        ),
        ("http in small letters", raw("http/1.1 200 MARK\r\n\r\n"), "protocol"),
        ("ICY", raw("ICY 200 MARK\r\n\r\n"), "protocol"),
        ("SSH", raw("SSH-2.0-MARK\r\n"), "protocol not_http"),
        ("Redis", raw("-ERR unknown command MARK\r\n"), "protocol"),
        ("SMTP", raw("220 MARK ESMTP\r\n"), "protocol not_http"),
        ("a TLS alert", Reply::raw(*b"\x15\x03\x01\0\x02\x02\x46").then_close(), "protocol"),
        ("HTML alone", raw("<html>MARK</html>"), "protocol"),
        ("a terminal's escapes", raw("\x1b]0;MARK\x07\x1b[2J\r\n"), "protocol"),
        ("zeros", Reply::raw(vec![0; 65536]).then_close(), "protocol"),
        ("the other bytes", Reply::raw((128..=255).collect::<Vec<u8>>()).then_close(), "protocol"),
        ("a request", raw("POST / HTTP/1.1\r\nHost: MARK\r\nContent-Length: 0\r\n\r\n"), "protocol"),
        ("nothing, then a close", Reply::close(), "protocol"),
        ("nothing, then a reset", Reply::reset(), "protocol"),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_in_pieces_is_put_together() {
    let good = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: <{MARK}>\r\n\r\n");
    let after = |hints: &str| Reply::raw(format!("{hints}{good}"));
    play(vec![
        ("one byte at a time", Reply::drip(good, NO_PAUSE), "ok 200"),
        ("500 early hints first", after(&hints.repeat(500)), "ok 200"),
        ("100 first", after("HTTP/1.1 100 Continue\r\n\r\n"), "ok 200"),
        ("102 first", after("HTTP/1.1 102 Processing\r\n\r\n"), "ok 200"),
        ("199 first", after("HTTP/1.1 199 Scripted\r\n\r\n"), "ok 200"),
        ("nothing but hints", Reply::raw(hints).then_close(), "protocol"),
    ])
    .await;
}
