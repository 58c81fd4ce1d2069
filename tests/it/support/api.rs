//! The HTTP API as its callers use it: a process that serves it, and customers who hold a token.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::hidden_value;
use super::http::{self, Response};
use super::replica::{Launch, Replica};
use super::search;
use super::settings::Configure;
use super::site::Site;

pub struct Api {
    pub replica: Replica,
    pub address: String,
    secret: String,
}

/// An account with a token of its own.
#[derive(Clone)]
pub struct Customer {
    pub address: String,
    pub account: String,
    pub token: String,
}

impl Site {
    /// An API without limits that a test would notice, however busy the machine is.
    pub async fn api(&self) -> Api {
        let launch = self.launch(&["api"]).set("api.requests_per_second", "100000").set("api.requests_burst", "100000");
        let launch = launch.set("api.tests_per_minute", "100000").set("api.database_timeout", "15s");
        self.api_of(launch.set("api.request_timeout", "20s")).await
    }

    /// Starts a process and waits until it serves the API.
    pub async fn api_of(&self, launch: Launch) -> Api {
        let mut replica = launch.start();
        let address = replica.logged("API address", "address").await;
        Api { replica, address, secret: self.settings().get("api.jwt_secret").to_owned() }
    }
}

impl Api {
    pub fn customer(&self, account: &str) -> Customer {
        let token = self.token(&json!({ "sub": account, "exp": now() + 3600 }));
        Customer { address: self.address.clone(), account: account.to_owned(), token }
    }

    /// A token as penr.ai's backend makes them, of any claims.
    pub fn token(&self, claims: &Value) -> String {
        sign(&self.secret, &json!({ "alg": "HS256", "typ": "JWT" }).to_string(), &claims.to_string())
    }
}

impl Customer {
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let bearer = format!("Bearer {}", self.token);
        let headers = [&[("Authorization", bearer.as_str())], headers].concat();
        http::ask(&self.address, method, path, &headers, body).await
    }

    pub async fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[], b"").await
    }

    pub async fn delete(&self, path: &str) -> Response {
        self.ask("DELETE", path, &[], b"").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, body).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Response {
        self.send("PATCH", path, body).await
    }

    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Response {
        self.send_text(method, path, &body.to_string()).await
    }

    /// Sends this text as JSON, whether it is or not.
    pub async fn send_text(&self, method: &str, path: &str, body: &str) -> Response {
        self.ask(method, path, &[("Content-Type", "application/json")], body.as_bytes()).await
    }

    /// Registers a webhook whose requests have the run's hidden value, and returns it, with its secret.
    pub async fn create(&self, url: &str, events: &[&str]) -> Value {
        let headers = hidden_value::headers();
        let webhook = json!({ "name": "A test's", "url": url, "events": events, "headers": headers });
        let webhook = self.register(&webhook).await;
        search::count("webhooks", 1);
        webhook
    }

    /// The same without headers.
    pub async fn create_plain(&self, url: &str, events: &[&str]) -> Value {
        self.register(&json!({ "name": "A test's", "url": url, "events": events })).await
    }

    async fn register(&self, webhook: &Value) -> Value {
        let answer = self.post("/v1/webhooks", webhook).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    /// Registers a webhook for `content.created` and returns its path in the API.
    pub async fn create_at(&self, url: &str) -> String {
        let webhook = self.create(url, &["content.created"]).await;
        path_of(&webhook)
    }

    /// The same without headers.
    pub async fn create_plain_at(&self, url: &str) -> String {
        path_of(&self.create_plain(url, &["content.created"]).await)
    }
}

fn path_of(webhook: &Value) -> String {
    format!("/v1/webhooks/{}", webhook["id"].as_str().expect("a webhook has an id"))
}

/// A JSON Web Token of these two texts, whatever they are.
pub fn sign(secret: &str, header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims));
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length").chain_update(&signed);
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970").as_secs()
}

/// Asserts that an answer is a problem document of this kind, without SQL, code or secrets in it.
pub fn assert_problem(answer: &Response, status: u16, name: &str) {
    assert_eq!(answer.status, status, "{} {}", answer.head.first_line, answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["type"], format!("urn:penr-webhooks:problem:{name}"), "{problem}");
    assert_eq!(problem["status"], status);
    assert_eq!(problem["request_id"].as_str(), answer.header("x-request-id"));
    for leak in ["SQLSTATE", "panicked", "src/", "whsec_", "eyJ"] {
        assert!(!answer.text().contains(leak), "{problem}");
    }
}
