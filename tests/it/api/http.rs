//! A malformed request head is answered with a problem that says what is wrong, never with a 500; slow callers lose their
//! connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::api::assert_problem;
use crate::support::http::ask;
use crate::support::*;

#[tokio::test]
async fn a_path_that_names_nothing_is_not_found() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    let id = path.rsplit('/').next().unwrap();
    let spelled = [
        id.to_uppercase(),
        format!("{{{id}}}"),
        format!("urn:uuid:{id}"),
        id.replace('-', ""),
        format!("{id}%00"),
        "%00".into(),
        "%ff%fe".into(),
        "..%2f..%2fetc%2fpasswd".into(),
        "'%20OR%201=1--".into(),
    ];
    for id in spelled {
        for rest in ["", "/secret", "/deliveries", "/stats"] {
            assert_problem(&customer.get(&format!("/v1/webhooks/{id}{rest}")).await, 404, "not-found");
        }
        let resend = format!("{path}/deliveries/{id}/resend");
        assert_problem(&customer.ask("POST", &resend, &[], b"").await, 404, "not-found");
    }
    for path in ["/", "/v1", "/v1/", "/v1/webhooks/", "/v2/webhooks", "/v1//webhooks", "/debug", "/metrics", "/livez"] {
        let answer = customer.get(path).await;
        assert_problem(&answer, 404, "not-found");
        assert_eq!(answer.header("cache-control"), Some("no-store, no-transform"));
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_refused_with_the_names_of_those_it_has() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    for (method, path, allowed) in [
        ("PUT", "/v1/webhooks", "GET"),
        ("TRACE", "/v1/webhooks", "POST"),
        ("OPTIONS", "/v1/webhooks", "GET"),
        ("BREW", "/v1/webhooks", "GET"),
        ("POST", "/settings/webhooks", "GET"),
        ("CONNECT", "example.com:443", "GET"),
    ] {
        let answer = customer.ask(method, path, &[("X-HTTP-Method-Override", "GET")], b"").await;
        assert_problem(&answer, 405, "method-not-allowed");
        assert!(answer.header("allow").unwrap().contains(allowed), "{method}: {:?}", answer.header("allow"));
    }
    assert_eq!(customer.ask("HEAD", "/v1/webhooks", &[], b"").await.status, 200);
}

#[tokio::test]
async fn a_query_that_is_not_understood_is_refused() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    for query in [
        "/v1/webhooks?account_id=acc_2",
        "/v1/webhooks?order=id;drop",
        "/v1/webhooks?limit=0",
        "/v1/webhooks?limit=101",
        "/v1/webhooks?limit=-1",
        "/v1/webhooks?limit=%2B5",
        "/v1/webhooks?limit=5&limit=5",
        "/v1/webhooks?cursor=x",
        "/v1/webhooks?cursor=%00",
        "/v1/webhooks?include=everything",
        "/v1/event-types?x",
        &format!("{path}?x=1"),
        &format!("{path}/deliveries?status=Success"),
        &format!("{path}/deliveries?delivery_id=x"),
        &format!("{path}/deliveries?event_type='"),
        &format!("{path}/deliveries?event_type=%ff"),
        &format!("{path}/stats?window=25h"),
    ] {
        let answer = customer.get(query).await;
        assert_problem(&answer, 400, "malformed-request");
        assert!(answer.json()["errors"][0]["field"].is_string());
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let long = "x".repeat(9000);
    assert_problem(&customer.get(&format!("/v1/webhooks/{long}")).await, 414, "uri-too-long");
    let large = "x".repeat(100_000);
    let answer = customer.ask("GET", "/v1/webhooks", &[("X-Large", &large)], b"").await;
    assert_problem(&answer, 431, "headers-too-large");
    let larger = format!("/{}", "x".repeat(64 * 1024));
    assert_eq!(ask(&api.address, "GET", &larger, &[], b"").await.status, 414);
}

#[tokio::test]
async fn a_request_id_is_kept_if_it_is_harmless() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let answered = async |id: &str| {
        let answer = customer.ask("GET", "/v1/event-types", &[("X-Request-Id", id)], b"").await;
        answer.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(answered("req-1.a_B").await, "req-1.a_B");
    for id in ["", "a b", "a\"b", &"x".repeat(65), "\u{e4}"] {
        assert_ne!(answered(id).await, id);
    }
}

#[tokio::test]
async fn each_request_leaves_one_line_and_one_count_without_ids() {
    let site = Site::new().await;
    let mut api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/secret-path?key=hidden").await;
    customer.ask("GET", &format!("{path}?token=eyJhidden"), &[("X-Request-Id", "mine")], b"").await;
    let line = eventually("the request is logged", async || {
        api.replica.log_lines().into_iter().find(|line| line["request_id"] == "mine")
    });
    let line = line.await;
    assert_eq!(
        (&line["route"], &line["status"], &line["account"]),
        (&"/v1/webhooks/{id}".into(), &400.into(), &"acc_1".into())
    );
    assert!(line["duration_ms"].is_u64());
    let log = api.replica.log();
    assert!(!log.contains("hidden") && !log.contains("secret-path"), "{log}");
    let operations = api.replica.logged("operations address", "address").await;
    let counted = r#"api_requests_total{method="GET",route="/v1/webhooks/{id}",status="4xx"}"#;
    // Counted after the line is logged.
    wait_until("it is counted", async || http::metric(&operations, counted).await == 1.0).await;
    let metrics = ask(&operations, "GET", "/metrics", &[], b"").await.text();
    assert!(!metrics.contains(path.rsplit('/').next().unwrap()));
}

#[tokio::test]
async fn a_connection_that_dawdles_is_closed() {
    let site = Site::new().await;
    let launch = site.launch(&["api"]).set("api.header_timeout", "300ms").set("api.idle_timeout", "300ms");
    let api = site.api_of(launch).await;
    for begun in ["", "GET /v1/webhooks HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut stream = TcpStream::connect(&api.address).await.unwrap();
        // On a busy machine it may be closed before this is sent: then these calls return an error.
        let _ = stream.write_all(begun.as_bytes()).await;
        let _ = within("the connection is closed", PATIENCE, stream.read_to_end(&mut Vec::new())).await;
    }
    let api = site.api_of(site.launch(&["api"]).set("api.request_timeout", "300ms")).await;
    let customer = api.customer("acc_1");
    let mut stream = TcpStream::connect(&api.address).await.unwrap();
    let head = format!(
        "POST /v1/webhooks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 50\r\nConnection: close\r\n\r\n{{",
        customer.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within("the request is answered", PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("problem:timeout"), "{answer}");
}

#[tokio::test]
async fn a_caller_who_asks_on_and_on_but_never_reads_holds_no_connection() {
    let site = Site::new().await.set("api.max_connections", "1").set("api.request_timeout", "1s");
    let api = site.api_of(site.launch(&["api"])).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut deaf = socket.connect(api.address.parse().unwrap()).await.unwrap();
    // Far more answers than all socket buffers hold.
    let questions = "GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
    deaf.write_all(questions.as_bytes()).await.unwrap();
    assert_eq!(api.customer("acc_1").get("/v1/event-types").await.status, 200);
}

/// An API with one request that is being answered until the gate opens.
struct Answering {
    api: Api,
    customer: Customer,
    /// The path of the customer's webhook.
    path: String,
    gate: Gate,
    answered: JoinHandle<u16>,
    _receiver: Receiver,
}

impl Answering {
    async fn of(site: &Site) -> Self {
        let (receiver, gate) = (Receiver::start().await, Gate::default());
        receiver.always(Reply::status(204).held_by(&gate));
        let launch = site.launch(&["api"]).set("api.database_timeout", "15s").set("api.request_timeout", "20s");
        let launch = launch.set("api.requests_per_second", "1000").set("api.requests_burst", "1000");
        let api = site.api_of(launch.set("sender.timeout", "60s").set("worker.lease", "10m")).await;
        let customer = api.customer("acc_1");
        let path = customer.create_at(&receiver.url()).await;
        gate.close();
        let answered = asked(&customer, "POST", format!("{path}/test"));
        receiver.wait_for(1).await;
        Self { api, customer, path, gate, answered, _receiver: receiver }
    }
}

fn asked(customer: &Customer, method: &'static str, path: String) -> JoinHandle<u16> {
    let customer = customer.clone();
    tokio::spawn(async move { customer.ask(method, &path, &[], b"").await.status })
}

#[tokio::test]
async fn beyond_the_limit_a_connection_waits_while_all_others_are_being_answered() {
    let site = Site::new().await.set("api.max_connections", "1");
    let Answering { mut api, customer, gate, answered: first, _receiver, .. } = Answering::of(&site).await;
    let second = asked(&customer, "GET", "/v1/event-types".into());
    let operations = api.replica.logged("operations address", "address").await;
    for _ in 0..5 {
        assert_eq!(http::metric(&operations, "api_connections_closed_total").await, 0.0);
        assert!(!first.is_finished() && !second.is_finished());
    }
    gate.open();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
}

/// Sends the beginning of a head, and connects again each time the connection is closed.
async fn dawdle(address: String) {
    loop {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let _ = stream.write_all(b"GET /v1/webhooks HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test]
async fn at_the_limit_idle_and_slow_connections_are_closed_to_make_room() {
    let site = Site::new().await.set("api.max_connections", "20").set("api.header_timeout", "60s");
    let Answering { mut api, customer, path, gate, answered, _receiver } = Answering::of(&site).await;
    let mut idle = Vec::new();
    for _ in 0..19 {
        let mut stream = TcpStream::connect(&api.address).await.unwrap();
        stream.write_all(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 15]).await.unwrap();
        idle.push(stream);
    }
    assert_eq!(customer.get("/v1/event-types").await.status, 200);
    within("the oldest idle connection is closed", PATIENCE, idle[0].read_to_end(&mut Vec::new())).await.unwrap();
    let mut dawdlers = JoinSet::new();
    for _ in 0..40 {
        dawdlers.spawn(dawdle(api.address.clone()));
    }
    for mut stream in idle.split_off(1) {
        within("all that are idle are closed", PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap();
    }
    let bearer = format!("Bearer {}", customer.token);
    for _ in 0..5 {
        // While this test is not running, its own connection may be the one that dawdles longest.
        wait_until("a customer among the dawdlers is answered", async || {
            let answer = http::try_ask(&customer.address, "GET", &path, &[("Authorization", &bearer)], b"").await;
            answer.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }
    let operations = api.replica.logged("operations address", "address").await;
    wait_until("dawdlers are closed, too", async || {
        http::metric(&operations, "api_connections_closed_total").await >= 40.0
    })
    .await;
    dawdlers.shutdown().await;
    assert!(!answered.is_finished());
    gate.open();
    assert_eq!(answered.await.unwrap(), 200);
}

#[tokio::test]
async fn other_origins_get_nothing_unless_the_settings_name_them() {
    let site = Site::new().await;
    let preflight = [
        ("Origin", "https://evil.example"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "authorization"),
    ];
    let allowed = |answer: &http::Response| {
        answer.head.headers.iter().any(|(name, _)| name.to_lowercase() == "access-control-allow-origin")
    };
    let api = site.api().await;
    assert!(!allowed(&ask(&api.address, "OPTIONS", "/v1/webhooks", &preflight, b"").await));
    let named = site.set("api.cors_origins", r#"["https://app.example"]"#);
    let api = named.api().await;
    let answer = ask(&api.address, "OPTIONS", "/v1/webhooks", &preflight, b"").await;
    assert!(!allowed(&answer), "{:?}", answer.head);
    let ours = [("Origin", "https://app.example"), preflight[1], preflight[2]];
    let answer = ask(&api.address, "OPTIONS", "/v1/webhooks", &ours, b"").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    let answer = ask(&api.address, "GET", "/v1/webhooks", &ours[..1], b"").await;
    let exposed = answer.header("access-control-expose-headers").unwrap_or_default();
    for name in ["etag", "location", "retry-after", "x-request-id"] {
        assert!(exposed.split(',').any(|exposed| exposed.trim() == name), "{name} is not in {exposed}");
    }
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}
