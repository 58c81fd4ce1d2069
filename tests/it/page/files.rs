//! The page's own files are small and all served, with strict security headers, and none of them parses text as HTML or code.

use super::*;

#[tokio::test]
async fn the_page_and_its_files_come_with_strict_headers_and_are_small() {
    let site = Site::new().await;
    let mut process = site.launch(&["api"]).start();
    let address = process.logged("API address", "address").await;
    let html = http::get(&address, "/settings/webhooks").await;
    let policy = html.header("content-security-policy").unwrap();
    let (_, hash) = policy.split_once("'sha256-").expect("the script in the page is allowed by its hash");
    let (hash, _) = hash.split_once('\'').unwrap();
    assert_eq!(
        policy.replace(hash, ""),
        "default-src 'none'; script-src 'self' 'sha256-'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    assert_eq!(html.header("x-frame-options"), Some("DENY"));
    assert_eq!(html.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(html.header("cache-control"), Some("no-store"));
    let mut bytes = html.body.len();
    let served = files().into_iter().filter(|file| file != "index.html");
    for file in served.chain(["advice.js".to_owned(), "examples.js".to_owned()]) {
        let answer = http::get(&address, &format!("/settings/webhooks/{file}")).await;
        let kind = if file.ends_with(".css") { "text/css" } else { "text/javascript" };
        assert_eq!(answer.status, 200, "{file}");
        assert!(answer.header("content-type").unwrap().starts_with(kind), "{file}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{file}");
        assert!(answer.header("cross-origin-opener-policy").is_some() && answer.header("permissions-policy").is_some());
        let preloaded = html.text().contains(&format!("<link rel=modulepreload href=webhooks/{file}>"));
        assert_eq!(preloaded, file.ends_with(".js") && file != "page.js", "{file}");
        // The program makes these two from tables of its own, which are no code of the page.
        bytes += if ["advice.js", "examples.js"].contains(&file.as_str()) { 0 } else { answer.body.len() };
    }
    assert!(bytes < 106 * 1024, "the page has {bytes} bytes");
}

#[test]
fn nothing_in_the_page_parses_text_as_html_or_code() {
    for file in files() {
        let text = std::fs::read_to_string(folder().join(&file)).unwrap();
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "localStorage",
            "sessionStorage",
            "style=",
        ] {
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
}

/// Chrome 119, Firefox 120 and Safari 17.1 must show the page.
#[test]
fn nothing_in_the_page_is_too_new_for_browsers_of_three_years() {
    for file in files() {
        let text = std::fs::read_to_string(folder().join(&file)).unwrap();
        for word in [
            "light-dark(",
            ":has(",
            "@starting-style",
            "@scope",
            "field-sizing",
            "text-wrap",
            "popover",
            "details-content",
            "interpolate-size",
            "requestClose",
            "withResolvers",
            "AbortSignal.any(",
            ".groupBy(",
            ".fromAsync(",
            ".canParse(",
            ".checkVisibility(",
            "Intl.Segmenter",
            "Intl.DurationFormat",
            "navigation.",
        ] {
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
}

/// The colours on which embed.js tries a host's accent.
#[test]
fn an_accent_is_tried_on_the_surfaces_of_the_style_sheet() {
    let read = |file: &str| std::fs::read_to_string(folder().join(file)).unwrap();
    let style = read("page.css");
    let mut surfaces = style.split("--soft:").skip(1).map(|rest| rest.split_once(';').unwrap().0);
    let (light, dark) = (surfaces.next().unwrap(), surfaces.next().unwrap());
    assert!(read("embed.js").contains(&format!("{{ light: '{light}', dark: '{dark}' }}")), "{light} and {dark}");
}

fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/page")
}

fn files() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}
