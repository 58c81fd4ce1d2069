//! The API serves the description that is committed as openapi.json.

use crate::support::http::get;
use crate::support::*;

#[tokio::test]
async fn the_description_is_the_committed_one() {
    let site = Site::new().await;
    let api = site.api().await;
    let served = get(&api.address, "/v1/openapi.json").await;
    assert_eq!(served.status, 200);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let text = serde_json::to_string_pretty(&served.json()).unwrap() + "\n";
    if std::env::var_os("PENR_REFRESH").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "openapi.json is stale: refresh it with PENR_REFRESH=1 make test ARGS='--test it described'"
    );
    assert_eq!(served.json()["openapi"], "3.1.0");
    for described in ["/v1/webhooks", "/v1/webhooks/{id}/test", "/v1/webhooks/{id}/deliveries/{delivery_id}/resend"] {
        assert!(served.json()["paths"][described].is_object(), "{described}");
    }
}
