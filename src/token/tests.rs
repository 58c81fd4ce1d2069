use super::*;

const NOW: i64 = 1_795_428_000;

fn secret(byte: u8) -> SecretText {
    SecretText::new(String::from_utf8(vec![byte; 32]).unwrap())
}

fn tokens() -> Tokens {
    Tokens { secrets: vec![secret(b'a')], issuer: None, audience: None }
}

fn account() -> AccountId {
    AccountId::parse("acc_42").unwrap()
}

fn grant() -> Grant {
    Grant { account: account(), access: Access::Full, actor: None }
}

/// A well-signed token of these two texts.
fn signed(header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = mac(&secret(b'a'), signed.as_bytes()).finalize().into_bytes();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn verdict(header: &str, claims: &str) -> Result<Grant, TokenRefusal> {
    tokens().verify(&signed(header, claims), NOW)
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn of_claims(more: &str) -> Result<Grant, TokenRefusal> {
    verdict(HEADER, &format!(r#"{{"sub":"acc_42",{more}}}"#))
}

#[test]
fn a_token_names_its_account_until_it_expires() {
    let token = tokens().sign(&account(), NOW, Duration::from_secs(60));
    assert_eq!(tokens().verify(&token, NOW), Ok(grant()));
    assert_eq!(tokens().verify(&token, NOW + 64), Ok(grant()), "leeway");
    assert_eq!(tokens().verify(&token, NOW + 65), Err(TokenRefusal::Expired));
    assert_eq!(tokens().verify(&token, NOW - 6), Err(TokenRefusal::IssuedInFuture));
}

/// Made by Python's `hmac` and `base64` from the texts of `HEADER` and these claims, with the key `a` × 32.
#[test]
fn a_token_of_another_library_is_read() {
    let claims = r#"{"sub":"acc_42","exp":1795428060}"#;
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhY2NfNDIiLCJleHAiOjE3OTU0MjgwNjB9.\
                 mct1d47r3CXiMfR-WdT6Qk-3YDOC0tWy6uHOgIr5VUQ";
    assert_eq!(signed(HEADER, claims), token);
    assert_eq!(tokens().verify(token, NOW), Ok(grant()));
}

#[test]
fn only_hs256_and_nothing_that_wants_to_be_obeyed() {
    let claims = format!(r#"{{"sub":"acc_42","exp":{}}}"#, NOW + 60);
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":"nOnE"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS384"}"#,
        r#"{"alg":"HS512"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"typ":"JWT"}"#,
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HS256","kid":"../../dev/null"}"#,
        r#"{"alg":"HS256","jku":"https://evil.example/keys"}"#,
        r#"{"alg":"HS256","jwk":{}}"#,
        r#"{"alg":"HS256","x5u":"x"}"#,
        r#"{"alg":"HS256","x5c":[]}"#,
        r#"{"alg":"HS256","typ":5}"#,
        "[]",
        "",
    ] {
        assert_eq!(verdict(header, &claims), Err(TokenRefusal::Invalid), "{header}");
    }
    assert_eq!(verdict(HEADER, &claims), Ok(grant()));
    assert_eq!(verdict(r#"{"alg":"HS256"}"#, &claims), Ok(grant()));
}

#[test]
fn times_are_seconds_that_make_sense() {
    let soon = NOW + 60;
    for more in [
        r#""x":1"#.to_owned(),
        format!(r#""exp":"{soon}""#),
        r#""exp":null"#.into(),
        r#""exp":[]"#.into(),
        r#""exp":{}"#.into(),
        r#""exp":1e400"#.into(),
        r#""exp":-1"#.into(),
        r#""exp":-0.5"#.into(),
        r#""exp":true"#.into(),
        format!(r#""exp":{soon},"exp":{soon}"#),
        format!(r#""exp":{soon},"nbf":"{NOW}""#),
        format!(r#""exp":{soon},"nbf":null"#),
        format!(r#""exp":{soon},"iat":"x""#),
        format!(r#""exp":{soon},"iat":-9223372036854775808"#),
    ] {
        assert_eq!(of_claims(&more), Err(TokenRefusal::Invalid), "{more}");
    }
    assert_eq!(of_claims(&format!(r#""exp":{},"nbf":{NOW},"iat":{NOW}"#, NOW + 24 * 3600)), Ok(grant()));
}

#[test]
fn times_may_have_a_fraction() {
    for more in [
        format!(r#""exp":{}.5"#, NOW + 60),
        format!(r#""exp":{}.123456,"iat":{NOW}.75,"nbf":{NOW}.0"#, NOW + 60),
        format!(r#""exp":{}.001"#, NOW - 5),
        format!(r#""exp":{},"iat":{}.999"#, NOW + 60, NOW + 4),
        r#""exp":1.79542806e9"#.to_owned(),
    ] {
        assert_eq!(of_claims(&more), Ok(grant()), "{more}");
    }
    let refused = |more: String| of_claims(&more).unwrap_err();
    assert_eq!(refused(format!(r#""exp":{}.999"#, NOW - 6)), TokenRefusal::Expired);
    assert_eq!(refused(format!(r#""exp":{},"iat":{}.001"#, NOW + 60, NOW + 5)), TokenRefusal::IssuedInFuture);
}

#[test]
fn a_token_refused_for_its_time_says_so() {
    let soon = NOW + 60;
    for (more, refusal) in [
        (format!(r#""exp":{}"#, NOW - 30), TokenRefusal::Expired),
        (r#""exp":0"#.to_owned(), TokenRefusal::Expired),
        (format!(r#""exp":{soon},"iat":{}"#, NOW + 6), TokenRefusal::IssuedInFuture),
        (format!(r#""exp":{soon},"nbf":{}"#, NOW + 6), TokenRefusal::NotYetValid),
        (format!(r#""exp":{}"#, NOW + 24 * 3600 + 6), TokenRefusal::LastsTooLong),
        (r#""exp":18446744073709551615"#.to_owned(), TokenRefusal::LastsTooLong),
        (format!(r#""exp":{soon},"iat":{}"#, soon + 1), TokenRefusal::EndsBeforeItBegins),
    ] {
        assert_eq!(of_claims(&more), Err(refusal), "{more}");
    }
    assert_eq!(
        TokenRefusal::IssuedInFuture.to_string(),
        "the token is issued in the future: its iat is more than 5 s ahead of our clock; check the clocks"
    );
    // Whoever has no valid token learns nothing about times.
    let stranger = Tokens { issuer: Some("penr".into()), ..tokens() };
    let expired = tokens().sign(&account(), NOW - 3600, Duration::from_secs(60));
    assert_eq!(stranger.verify(&expired, NOW), Err(TokenRefusal::Invalid));
}

#[test]
fn only_a_scope_of_read_without_write_takes_rights_away() {
    let of_scope = |scope: &str| of_claims(&format!(r#""exp":{},"scope":{scope}"#, NOW + 60)).unwrap().access;
    let lists = [r#"["read"]"#, r#"["openid","read"]"#, r#"["read profile"]"#];
    for scope in [r#""read""#, r#""openid read""#, r#""read profile""#].into_iter().chain(lists) {
        assert_eq!(of_scope(scope), Access::ReadOnly, "{scope}");
    }
    let lists = ["[]", r#"["write","read"]"#, r#"["read write"]"#, r#"["readonly"]"#];
    for scope in
        [r#""""#, r#""read write""#, r#""write""#, r#""readonly""#, r#""READ""#, "null"].into_iter().chain(lists)
    {
        assert_eq!(of_scope(scope), Access::Full, "{scope}");
    }
    let looking = Grant { access: Access::ReadOnly, ..grant() };
    assert_eq!(tokens().verify(&tokens().sign_grant(&looking, NOW, LONGEST), NOW), Ok(looking));
}

#[test]
fn a_scope_that_cannot_be_read_gives_no_access() {
    let exp = NOW + 60;
    for scope in ["1", "true", "{}", r#"{"read":true}"#, r#"["read",1]"#, "[null]", r#"[["read"]]"#] {
        assert_eq!(
            of_claims(&format!(r#""exp":{exp},"scope":{scope}"#)),
            Err(TokenRefusal::ScopeUnreadable),
            "{scope}"
        );
    }
    // Whoever has no valid token learns nothing about scopes.
    assert_eq!(verdict(HEADER, &format!(r#"{{"exp":{exp},"scope":1}}"#)), Err(TokenRefusal::Invalid));
}

#[test]
fn the_actor_is_the_sub_of_act_and_nobody_else() {
    let of_act = |act: &str| of_claims(&format!(r#""exp":{},"act":{act}"#, NOW + 60)).map(|grant| grant.actor);
    let actor = |name: &str| Ok(Some(Actor::parse(name).unwrap()));
    assert_eq!(of_claims(&format!(r#""exp":{}"#, NOW + 60)).unwrap().actor, None);
    let longest = "a".repeat(128);
    for name in ["user_7", "Ann Example <ann@example.com>", &longest] {
        assert_eq!(of_act(&format!(r#"{{"sub":"{name}"}}"#)), actor(name));
    }
    // Who acted before, and whatever else the issuer says about the actor.
    let chain = r#"{"sub":"user_7","iss":"https://penr.ai","act":{"sub":"service_2","act":{"sub":7}},"exp":1}"#;
    assert_eq!(of_act(chain), actor("user_7"));
    let long = format!(r#"{{"sub":"{}"}}"#, "a".repeat(129));
    for wrong in [
        "null",
        r#""user_7""#,
        "[]",
        r#"[{"sub":"user_7"}]"#,
        "{}",
        r#"{"iss":"https://penr.ai"}"#,
        r#"{"act":{"sub":"user_7"}}"#,
        r#"{"sub":null}"#,
        r#"{"sub":7}"#,
        r#"{"sub":["user_7"]}"#,
        r#"{"sub":""}"#,
        r#"{"sub":"a\nb"}"#,
        "{\"sub\":\"\u{e4}\"}",
        &long,
    ] {
        assert_eq!(of_act(wrong), Err(TokenRefusal::Invalid), "{wrong}");
    }
    let acting = Grant { actor: Actor::parse("user_7"), ..grant() };
    assert_eq!(tokens().verify(&tokens().sign_grant(&acting, NOW, LONGEST), NOW), Ok(acting));
}

#[test]
fn the_account_is_taken_exactly() {
    let of_sub = |sub: &str| verdict(HEADER, &format!(r#"{{"exp":{},"sub":{sub}}}"#, NOW + 60));
    let long = format!("\"{}\"", "a".repeat(129));
    for sub in ["null", "42", "[\"acc_42\"]", "{}", "\"\"", "\"acc\\u0000\"", "\"\u{e4}\"", &long] {
        assert_eq!(of_sub(sub), Err(TokenRefusal::Invalid), "{sub}");
    }
    assert_eq!(of_sub("\"ACC_42\"").unwrap().account.as_str(), "ACC_42");
}

#[test]
fn every_secret_verifies_and_the_first_signs() {
    let old = Tokens { secrets: vec![secret(b'a')], ..tokens() };
    let both = Tokens { secrets: vec![secret(b'b'), secret(b'a')], ..tokens() };
    let new = Tokens { secrets: vec![secret(b'b')], ..tokens() };
    let token = old.sign(&account(), NOW, LONGEST);
    assert_eq!(both.verify(&token, NOW), Ok(grant()));
    assert_eq!(new.verify(&token, NOW), Err(TokenRefusal::Invalid));
    assert_eq!(new.verify(&both.sign(&account(), NOW, LONGEST), NOW), Ok(grant()));
}

#[test]
fn issuer_and_audience_are_checked_where_they_are_named() {
    let strict = Tokens { issuer: Some("penr".into()), audience: Some("webhooks".into()), ..tokens() };
    let says = |more: &str| {
        let claims = format!(r#"{{"sub":"acc_42","exp":{}{more}}}"#, NOW + 60);
        strict.verify(&signed(HEADER, &claims), NOW).is_ok()
    };
    assert!(strict.verify(&strict.sign(&account(), NOW, LONGEST), NOW).is_ok());
    assert!(says(r#","iss":"penr","aud":["other","webhooks"]"#));
    assert!(!says(r#","iss":"penr""#) && !says(r#","aud":"webhooks""#));
    assert!(!says(r#","iss":"Penr","aud":"webhooks""#) && !says(r#","iss":["penr"],"aud":"webhooks""#));
    assert!(!says(r#","iss":"penr","aud":[]"#));
}

#[test]
fn a_changed_or_oversized_token_is_refused() {
    let token = tokens().sign(&account(), NOW, LONGEST);
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(tokens().verify(&changed, NOW), Err(TokenRefusal::Invalid), "byte {at}");
        assert!(tokens().verify(&token[..at], NOW).is_err());
    }
    for wrong in ["", ".", "..", "a.b.c", &format!("{token}="), &format!("{token}.{token}")] {
        assert_eq!(tokens().verify(wrong, NOW), Err(TokenRefusal::Invalid), "{wrong}");
    }
    let padded = format!(r#"{{"sub":"acc_42","exp":{},"pad":"{}"}}"#, NOW + 60, "x".repeat(9 * 1024));
    assert_eq!(verdict(HEADER, &padded), Err(TokenRefusal::Invalid));
}
