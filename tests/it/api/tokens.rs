//! Only a token that is valid in every respect is accepted.

use serde_json::json;

use crate::support::api::{Customer, assert_problem, now, sign};
use crate::support::http::ask;
use crate::support::*;

const PATH: &str = "/v1/webhooks";

#[tokio::test]
async fn a_request_without_exactly_one_bearer_token_is_refused() {
    let site = Site::new().await;
    let api = site.api().await;
    let bearer = format!("Bearer {}", api.customer("acc_1").token);
    let cookie = format!("token={}", api.customer("acc_1").token);
    let wrong: [&[(&str, &str)]; 9] = [
        &[],
        &[("Authorization", "")],
        &[("Authorization", "Bearer")],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "Basic YTpi")],
        &[("Authorization", &bearer), ("Authorization", &bearer)],
        &[("Authorization", &bearer["Bearer ".len()..])],
        &[("Cookie", &cookie)],
        &[("X-Account-Id", "acc_1")],
    ];
    for headers in wrong {
        let answer = ask(&api.address, "GET", PATH, headers, b"").await;
        assert_problem(&answer, 401, "unauthorized");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
    }
    let path = format!("{PATH}?token={}", &bearer["Bearer ".len()..]);
    assert_problem(&ask(&api.address, "GET", &path, &[], b"").await, 401, "unauthorized");
    let lower = bearer.replace("Bearer", "bearer");
    assert_eq!(ask(&api.address, "GET", PATH, &[("authorization", &lower)], b"").await.status, 200);
    // No token is in the log.
    assert!(!api.replica.log().contains("eyJ"));
}

#[tokio::test]
async fn a_token_that_is_wrong_in_any_respect_is_refused() {
    let site = Site::new().await;
    let api = site.api().await;
    let secret = site.settings().get("api.jwt_secret");
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    let soon = now() + 60;
    let good = format!(r#"{{"sub":"acc_1","exp":{soon}}}"#);
    let of = |header: &str, claims: &str| sign(secret, header, claims);
    let unsigned = |header: &str| of(header, &good).rsplit_once('.').unwrap().0.to_owned() + ".";
    let mut wrong = vec![
        unsigned(r#"{"alg":"none"}"#),
        unsigned(header),
        of(r#"{"alg":"nOnE"}"#, &good),
        of(r#"{"alg":"HS512"}"#, &good),
        of(r#"{"alg":"HS256","kid":"../../dev/null"}"#, &good),
        of(r#"{"alg":"HS256","jku":"https://evil.example/"}"#, &good),
        of(r#"{"alg":"HS256","crit":["x"],"x":1}"#, &good),
        sign("another secret of at least 32 bytes!", header, &good),
        of(header, &format!(r#"{{"sub":"acc_1","exp":{soon},"pad":"{}"}}"#, "x".repeat(9000))),
        of(header, &format!(r#"{{"sub":"acc_1","exp":{soon},"nbf":{}}}"#, soon + 60)),
        of(header, &format!(r#"{{"sub":"acc_1","exp":{soon},"nbf":"0"}}"#)),
        of(header, &format!(r#"{{"sub":"acc_1","sub":"acc_2","exp":{soon}}}"#)),
    ];
    for exp in ["null", "\"99999999999\"", "[]", "{}", "1e400", "-1", "0", "true", "99999999999999"] {
        wrong.push(of(header, &format!(r#"{{"sub":"acc_1","exp":{exp}}}"#)));
    }
    wrong.push(of(header, &format!(r#"{{"sub":"acc_1","exp":{}}}"#, now() - 30)));
    wrong.push(of(header, &format!(r#"{{"sub":"acc_1","exp":{}}}"#, now() + 25 * 3600)));
    for sub in ["null", "42", "[\"acc_1\"]", "\"\"", "\"a\\u0000\""] {
        wrong.push(of(header, &format!(r#"{{"sub":{sub},"exp":{soon}}}"#)));
    }
    for token in wrong {
        let answer = ask(&api.address, "GET", PATH, &[("Authorization", &format!("Bearer {token}"))], b"").await;
        assert_problem(&answer, 401, "unauthorized");
    }
    let good =
        ask(&api.address, "GET", PATH, &[("Authorization", &format!("Bearer {}", of(header, &good)))], b"").await;
    assert_eq!(good.status, 200);
}

#[tokio::test]
async fn a_key_is_rotated_by_putting_the_new_one_first() {
    let (old, new) = ("the old secret of at least 32 bytes.", "the new secret of at least 32 bytes.");
    let site = Site::new().await.set("api.jwt_secret", &format!(" {new},\n{old} \n"));
    let api = site.api().await;
    let claims = json!({ "sub": "acc_1", "exp": now() + 60 }).to_string();
    let status = async |secret| {
        let bearer = format!("Bearer {}", sign(secret, r#"{"alg":"HS256"}"#, &claims));
        ask(&api.address, "GET", PATH, &[("Authorization", &bearer)], b"").await.status
    };
    assert_eq!((status(old).await, status(new).await), (200, 200));
    let path = site.folder().join("secrets");
    std::fs::write(&path, format!(" {new} \n")).unwrap();
    let later = site.unset("api.jwt_secret").env("PENR_WEBHOOKS__API__JWT_SECRET_FILE", path.to_str().unwrap());
    let api = later.api().await;
    let bearer = format!("Bearer {}", sign(old, r#"{"alg":"HS256"}"#, &claims));
    assert_eq!(ask(&api.address, "GET", PATH, &[("Authorization", &bearer)], b"").await.status, 401);
}

#[tokio::test]
async fn issuer_and_audience_must_be_those_of_the_settings() {
    let site = Site::new().await.set("api.jwt_issuer", "https://penr.ai").set("api.jwt_audience", "webhooks");
    let api = site.api().await;
    let status = async |more: serde_json::Value| {
        let mut claims = json!({ "sub": "acc_1", "exp": now() + 60 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let bearer = format!("Bearer {}", api.token(&claims));
        ask(&api.address, "GET", PATH, &[("Authorization", &bearer)], b"").await.status
    };
    assert_eq!(status(json!({ "iss": "https://penr.ai", "aud": ["webhooks"] })).await, 200);
    assert_eq!(status(json!({ "iss": "https://penr.ai" })).await, 401);
    assert_eq!(status(json!({ "iss": "https://evil.example", "aud": "webhooks" })).await, 401);
    let made = site.json(&["token", "--account", "acc_1", "--expires-in", "1m"]).await;
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    assert_eq!(ask(&api.address, "GET", PATH, &[("Authorization", &bearer)], b"").await.status, 200);
}

#[tokio::test]
async fn the_command_line_makes_tokens_that_are_valid_for_at_most_a_day() {
    let site = Site::new().await;
    let api = site.api().await;
    let plain = site.cli(&["token", "--account", "acc 1", "--expires-in", "24h"]).await;
    let bearer = format!("Bearer {}", plain.stdout.trim());
    assert_eq!(ask(&api.address, "GET", PATH, &[("Authorization", &bearer)], b"").await.status, 200);
    for wrong in ["25h", "0s", "soon"] {
        assert_eq!(site.cli(&["token", "--account", "acc_1", "--expires-in", wrong]).await.code, 2);
    }
    let unset = site.unset("api.jwt_secret");
    let output = unset.cli(&["token", "--account", "acc_1"]).await;
    assert!(output.code == 2 && output.stderr.contains("PENR_WEBHOOKS__API__JWT_SECRET"), "{output:?}");
}

#[tokio::test]
async fn a_read_only_token_sees_everything_but_secrets_and_changes_nothing() {
    let site = Site::new().await;
    let api = site.api().await;
    let owner = api.customer("acc_1");
    let path = owner.create_at("http://127.0.0.1:9999/hook").await;
    let before = owner.get(&path).await.json();
    let made = site.json(&["token", "--account", "acc_1", "--read-only"]).await;
    let reader = Customer { token: made["token"].as_str().unwrap().to_owned(), ..owner.clone() };
    for path in [
        "/v1/webhooks?include=activity",
        "/v1/event-types",
        &path,
        &format!("{path}/deliveries"),
        &format!("{path}/stats"),
    ] {
        assert_eq!(reader.get(path).await.status, 200, "{path}");
    }
    let described = reader.get("/v1/openapi.json").await.json();
    let id = path.rsplit_once('/').unwrap().1;
    let mut refused = 0;
    for (route, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|method| *method != "get") {
            let asked = route.replace("{id}", id).replace("{delivery_id}", id);
            // Not even the body is looked at.
            let answer = reader.ask(&method.to_uppercase(), &asked, &[], b"").await;
            assert_problem(&answer, 403, "read-only-token");
            assert!(methods[method]["responses"]["403"].is_object(), "{method} {route} is described with 403");
            refused += 1;
        }
    }
    assert!(refused >= 7, "{refused}");
    let secret = reader.get(&format!("{path}/secret")).await;
    assert_problem(&secret, 403, "read-only-token");
    assert!(secret.header("www-authenticate").unwrap().contains("insufficient_scope"));
    assert_eq!(owner.get(&path).await.json(), before);
}

#[tokio::test]
async fn a_token_that_is_refused_for_its_time_is_told_which_one() {
    let site = Site::new().await;
    let api = site.api().await;
    let ask = async |more: serde_json::Value| {
        let mut claims = json!({ "sub": "acc_1", "exp": now() + 60 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let bearer = format!("Bearer {}", api.token(&claims));
        ask(&api.address, "GET", PATH, &[("Authorization", &bearer)], b"").await
    };
    let future = ask(json!({ "iat": now() + 30 })).await;
    assert_problem(&future, 401, "unauthorized");
    assert!(future.text().contains("issued in the future") && future.text().contains("check the clocks"));
    assert!(ask(json!({ "exp": now() - 30 })).await.text().contains("has expired"));
    let now_with_fraction = now().to_string().parse::<f64>().unwrap() + 0.25;
    assert_eq!(ask(json!({ "iat": now_with_fraction, "exp": now_with_fraction + 60.0 })).await.status, 200);
}

#[tokio::test]
async fn a_scope_may_be_a_list_and_one_that_cannot_be_read_is_refused() {
    let site = Site::new().await;
    let api = site.api().await;
    let ask = async |method: &str, scope: serde_json::Value| {
        let claims = json!({ "sub": "acc_1", "exp": now() + 60, "scope": scope });
        let bearer = format!("Bearer {}", api.token(&claims));
        ask(&api.address, method, PATH, &[("Authorization", &bearer)], b"").await
    };
    assert_eq!(ask("GET", json!(["read"])).await.status, 200);
    assert_problem(&ask("POST", json!(["read"])).await, 403, "read-only-token");
    for unreadable in [json!(1), json!({ "read": true }), json!(["read", 1])] {
        let refused = ask("GET", unreadable).await;
        assert_problem(&refused, 401, "unauthorized");
        assert!(refused.text().contains("the scope of the token cannot be read"), "{}", refused.text());
    }
}
