//! `sender.max_per_second`.

use super::*;

#[test]
fn a_ceiling_for_all_webhooks_is_1_to_10000_requests_a_second_and_0_is_none() {
    let given = |value: &str| load(Some(&format!("[sender]\nmax_per_second = {value}")), &[]);
    assert_eq!(load(None, &[]).unwrap().sender.max_per_second, None);
    for (value, ceiling) in [("0", None), ("1", Some(1)), ("10000", Some(10_000))] {
        assert_eq!(given(value).unwrap().sender.max_per_second.map(|most| most.get()), ceiling);
    }
    for value in ["-1", "10001", "1.5"] {
        let error = given(value).unwrap_err().to_string();
        assert!(error.starts_with("sender.max_per_second (in penr.toml) "), "{error}");
    }
}
