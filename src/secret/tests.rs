use super::*;

fn keyring(ids: &[&str]) -> Keyring {
    let entry = |id: &&str| format!("{id}:{}", STANDARD.encode([id.as_bytes()[0]; 32]));
    Keyring::parse(&ids.iter().map(entry).collect::<Vec<_>>().join(",")).unwrap()
}

fn account(id: &str) -> AccountId {
    AccountId::parse(id).unwrap()
}

#[test]
fn a_sealed_secret_opens_for_its_owner_and_for_nobody_else() {
    let (ring, acc) = (keyring(&["k1"]), account("acc_1"));
    let owner = Owner { account_id: &acc, webhook_id: WebhookId(Uuid::from_u128(1)) };
    let secret = SigningSecret::from_random([7; 32]);
    let envelope = ring.seal(&secret, owner, [9; 24]);
    assert_eq!(ring.open(&envelope, owner), Ok(secret));

    let other = Owner { webhook_id: WebhookId(Uuid::from_u128(2)), ..owner };
    assert_eq!(ring.open(&envelope, other), Err(OpenError::Damaged));
    let stranger = account("acc_2");
    let other = Owner { account_id: &stranger, ..owner };
    assert_eq!(ring.open(&envelope, other), Err(OpenError::Damaged));
}

#[test]
fn a_sealed_answer_opens_for_its_account_and_key_and_never_as_a_secret() {
    let (ring, acc) = (keyring(&["k1"]), account("acc_1"));
    let owner = AnswerOwner { account_id: &acc, key: "k" };
    let envelope = ring.seal_answer("whsec_AAAA", owner, [9; 24]);
    assert_eq!(ring.open_answer(&envelope, owner).unwrap().expose(), "whsec_AAAA");
    let stranger = account("acc_2");
    for other in [AnswerOwner { key: "l", ..owner }, AnswerOwner { account_id: &stranger, ..owner }] {
        assert_eq!(ring.open_answer(&envelope, other), Err(OpenError::Damaged));
    }
    for webhook_id in [WebhookId(Uuid::nil()), WebhookId(Uuid::from_u128(1))] {
        assert_eq!(ring.open(&envelope, Owner { account_id: &acc, webhook_id }), Err(OpenError::Damaged));
    }
}

#[test]
fn sealed_headers_open_for_their_owner_and_never_as_anything_else() {
    let (ring, one, other) = (keyring(&["k1"]), account("acc_1"), account("acc_2"));
    let owner = Owner { account_id: &one, webhook_id: WebhookId(Uuid::from_u128(1)) };
    // What else would be a secret, too.
    let text = SecretText::from("whsec_c2VjcmV0");
    let ours = HeadersOwner { owner, origin: "https://a.example" };
    let envelope = ring.seal_headers(&text, ours, [1; 24]);
    assert_eq!(ring.open_headers(&envelope, ours), Ok(text));
    let another = Owner { webhook_id: WebhookId(Uuid::from_u128(2)), ..owner };
    for stranger in [
        HeadersOwner { owner: another, ..ours },
        HeadersOwner { owner: Owner { account_id: &other, ..owner }, ..ours },
        HeadersOwner { origin: "http://a.example", ..ours },
        HeadersOwner { origin: "https://a.example:8443", ..ours },
        HeadersOwner { origin: "https://b.example", ..ours },
    ] {
        assert_eq!(ring.open_headers(&envelope, stranger), Err(OpenError::Damaged));
    }
    assert_eq!(ring.open(&envelope, owner), Err(OpenError::Damaged), "no secret");
    let secret = SigningSecret::parse("whsec_c2VjcmV0").unwrap();
    let envelope = ring.seal(&secret, owner, [1; 24]);
    assert_eq!(ring.open_headers(&envelope, ours), Err(OpenError::Damaged), "no headers");
}

#[test]
fn an_older_key_still_decrypts_and_a_missing_one_is_named() {
    let acc = account("acc_1");
    let owner = Owner { account_id: &acc, webhook_id: WebhookId(Uuid::from_u128(1)) };
    let secret = SigningSecret::from_random([7; 32]);
    let envelope = keyring(&["old"]).seal(&secret, owner, [9; 24]);
    assert_eq!(keyring(&["newest", "old"]).open(&envelope, owner), Ok(secret));
    let missing = keyring(&["newest"]).open(&envelope, owner);
    assert_eq!(missing, Err(OpenError::UnknownKey("old".into())));
}

#[test]
fn the_beginning_of_an_envelope_tells_whose_key_it_needs() {
    let acc = account("acc_1");
    let owner = Owner { account_id: &acc, webhook_id: WebhookId(Uuid::from_u128(1)) };
    let envelope = keyring(&["old"]).seal(&SigningSecret::from_random([7; 32]), owner, [9; 24]);
    let (before, after) = (keyring(&["old"]), keyring(&["newest", "old"]));
    assert_eq!([before.newest_key_id(), after.newest_key_id()], ["old", "newest"]);
    assert_eq!([before.is_newest(&envelope), after.is_newest(&envelope)], [true, false]);
    assert_eq!(after.check_key(&envelope[..5]), Ok(()));
    assert_eq!(keyring(&["newest"]).check_key(&envelope), Err(OpenError::UnknownKey("old".into())));
    assert_eq!(after.check_key(&envelope[..4]), Err(OpenError::Damaged));
}

#[test]
fn a_text_is_kept_and_not_shown() {
    let text: SecretText = serde_json::from_value("hush".into()).unwrap();
    assert_eq!([text.expose(), SecretText::from("hush").expose()], ["hush"; 2]);
    assert_eq!([text.is_empty(), SecretText::from("").is_empty()], [false, true]);
    assert_eq!(format!("{text:?}"), "[secret]");
}

#[test]
fn a_damaged_envelope_never_opens_nor_panics() {
    let (ring, acc) = (keyring(&["k1"]), account("acc_1"));
    let owner = Owner { account_id: &acc, webhook_id: WebhookId(Uuid::from_u128(1)) };
    let envelope = ring.seal(&SigningSecret::from_random([7; 32]), owner, [9; 24]);
    for length in 0..envelope.len() {
        assert!(ring.open(&envelope[..length], owner).is_err());
    }
    for at in 0..envelope.len() {
        let mut changed = envelope.clone();
        changed[at] ^= 1;
        assert!(ring.open(&changed, owner).is_err(), "byte {at}");
    }
}

#[test]
fn nothing_of_a_secret_is_shown() {
    let secret = SigningSecret::from_random([7; 32]);
    assert_eq!(format!("{secret:?}"), "SigningSecret([secret])");
    assert_eq!(format!("{:?}", keyring(&["k1"])), r#"["k1"]"#);
}

#[test]
fn a_published_key_is_found_at_any_place_and_under_any_id() {
    let published = "cGVuci13ZWJob29rcy1kZXZlbG9wbWVudC1vbmx5ISE=";
    let own = format!("k1:{}", STANDARD.encode([1; 32]));
    let found = |text: &str| Keyring::parse(text).unwrap().published_key_id().map(str::to_owned);
    assert_eq!(found(&format!("2026-11:{published}")).as_deref(), Some("2026-11"));
    assert_eq!(found(&format!("{own}, old:{published}")).as_deref(), Some("old"));
    assert_eq!(found(&own), None);
}

#[test]
fn a_keyring_says_which_key_is_wrong_without_repeating_it() {
    let good = STANDARD.encode([1; 32]);
    let error = |text: &str| Keyring::parse(text).unwrap_err();
    assert_eq!(error(""), KeyringError::Empty);
    assert_eq!(error(&good), KeyringError::Form(1));
    assert_eq!(error(&format!("a:{good},b b:{good}")), KeyringError::Id(2));
    assert_eq!(error(&format!(":{good}")), KeyringError::Id(1));
    let (longest, too_long) = ("a".repeat(64), "a".repeat(65));
    assert_eq!(error(&format!("{longest}:{good},{too_long}:{good}")), KeyringError::Id(2));
    assert_eq!(error(&format!("a:{}", STANDARD.encode([1; 31]))), KeyringError::Key(1));
    assert_eq!(error(&format!("a:{good},a:{good}")), KeyringError::Repeated(2));
}
