//! The page's headers allow the page no more than it needs, and its files are sent again only if they have changed.

use crate::support::http::{ask, get};
use crate::support::*;

#[tokio::test]
async fn the_page_comes_with_a_strict_policy_and_is_not_cached() {
    let site = Site::new().await;
    let api = site.api().await;
    let page = get(&api.address, "/settings/webhooks").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self' 'sha256-"), "{policy}");
    assert!(policy.ends_with("base-uri 'none'; form-action 'self'; frame-ancestors 'none'"), "{policy}");
    for (name, value) in [
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(page.header(name), Some(value));
    }
    assert!(page.header("permissions-policy").is_some());
    assert!(page.text().contains(r#"<meta name="host-origins" content="">"#));
}

#[tokio::test]
async fn only_origins_of_the_settings_may_frame_it() {
    let site = Site::new().await.set("api.frame_ancestors", r#"["https://app.example", "https://b.example:8443"]"#);
    let api = site.api().await;
    let page = get(&api.address, "/settings/webhooks").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.ends_with("frame-ancestors https://app.example https://b.example:8443"), "{policy}");
    assert_eq!(page.header("x-frame-options"), None);
    assert_eq!(page.header("cross-origin-resource-policy"), Some("cross-origin"));
    assert_eq!(page.header("cross-origin-embedder-policy"), Some("require-corp"));
    let meta = r#"<meta name="host-origins" content="https://app.example https://b.example:8443">"#;
    assert!(page.text().contains(meta));
    for wrong in [r#"["*"]"#, r#"["https://a.example/path"]"#, r#"["app.example"]"#, r#"["https://a.example\" x"]"#] {
        let output = site.launch(&["api"]).set("api.frame_ancestors", wrong).start().wait().await;
        assert_eq!(output.code(), Some(2), "{wrong}");
    }
}

#[tokio::test]
async fn a_file_of_the_page_that_the_browser_has_is_not_sent_again() {
    let site = Site::new().await;
    let api = site.api().await;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/page");
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if name == "index.html" {
            continue;
        }
        let path = format!("/settings/webhooks/{name}");
        let answer = get(&api.address, &path).await;
        assert_eq!(answer.status, 200, "{name} is not among the files of src/api/page.rs");
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        let tag = answer.header("etag").unwrap().to_owned();
        // The tag itself, and as proxies change it.
        for seen in [tag.clone(), format!("\"other\", W/{tag}"), format!("{}-gzip\"", tag.trim_end_matches('"'))] {
            let again = ask(&api.address, "GET", &path, &[("If-None-Match", &seen)], b"").await;
            assert_eq!((again.status, again.body.len()), (304, 0));
        }
    }
}
