//! The API serves the description that is committed as openapi.json, and a change of it only adds.
//!
//! The baseline is what clients are built from, as it was when openapi.json was last refreshed. A refresh moves it forward,
//! unless the change takes something away: that is refused.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::additions::{contract, taken_away};
use crate::support::http::get;
use crate::support::*;

#[tokio::test]
async fn the_description_is_the_committed_one_and_takes_nothing_away() {
    let site = Site::new().await;
    let api = site.api().await;
    let served = get(&api.address, "/v1/openapi.json").await;
    assert_eq!(served.status, 200);
    let served = served.json();
    let (description, baseline) = (file("openapi.json"), file("tests/it/api/openapi-baseline.json"));
    let refresh = std::env::var("PENR_REFRESH").unwrap_or_default();
    let lost = taken_away(&serde_json::from_str(&text_of(&baseline)).unwrap_or_default(), &served);
    // Clients that were built before would break.
    assert!(
        lost.is_empty() || refresh == "corrections",
        "the API's description takes away what clients may rely on: {lost:#?}\n\
         a wanted correction: PENR_REFRESH=corrections make test ARGS='--test it described', and a line in CHANGELOG.md"
    );
    if !refresh.is_empty() {
        std::fs::write(&description, pretty(&served)).unwrap();
        std::fs::write(&baseline, pretty(&contract(&served))).unwrap();
    }
    let stale = "is stale: refresh it with PENR_REFRESH=1 make test ARGS='--test it described'";
    assert!(text_of(&description) == pretty(&served), "openapi.json {stale}");
    assert!(text_of(&baseline) == pretty(&contract(&served)), "openapi-baseline.json {stale}");
    assert_eq!(served["openapi"], "3.1.0");
    for described in ["/v1/webhooks", "/v1/webhooks/{id}/test", "/v1/webhooks/{id}/deliveries/{delivery_id}/resend"] {
        assert!(served["paths"][described].is_object(), "{described}");
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn pretty(document: &Value) -> String {
    serde_json::to_string_pretty(document).unwrap() + "\n"
}
