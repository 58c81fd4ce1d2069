//! Serves the page Settings > Webhooks: static files, compiled into the program, that load nothing from other origins.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::{Api, etag, verify_examples};
use crate::advice;

pub(super) const PATH: &str = "/settings/webhooks";
const PAGE: &str = include_str!("page/index.html");
/// A line of the page. The origins that may give the page its token are filled in when the program starts.
const HOST_ORIGINS: &str = r#"<meta name="host-origins" content="">"#;
/// The script that the page itself names.
const START: &str = "page.js";
/// Another line, written once for each other script when the program starts: all are fetched at once, not one after the other
/// as they import each other.
const PRELOAD: &str = "<link rel=modulepreload href=webhooks/>\n";

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const EMBEDDER_POLICY: HeaderName = HeaderName::from_static("cross-origin-embedder-policy");

macro_rules! files {
    ($($name:literal)*) => { [$(($name, include_str!(concat!("page/", $name)))),*] };
}

/// The page's files beside `index.html`, and beside `advice.js` and `examples.js`, which are made when the program starts.
const FILES: [(&str, &str); 25] = files![
    "page.css" "page.js" "embed.js" "token.js" "http.js" "dom.js" "words.js" "list.js" "form.js" "fields.js" "signing.js" "webhook.js" "logs.js"
    "chart.js" "test.js" "settings.js" "switch.js" "checker.js" "address.js"
    "filters.js" "pages.js" "deliveries.js" "delivery.js" "curl.js" "recover.js"
];

/// All files beside `index.html`.
fn files() -> impl Iterator<Item = (&'static str, Bytes)> {
    let files = FILES.into_iter().map(|(name, text)| (name, without_notes(text)));
    let made = [("advice.js", advice::page_module()), ("examples.js", verify_examples::page_module())];
    files.chain(made).map(|(name, text)| (name, Bytes::from(text)))
}

pub(super) fn routes(frame_ancestors: &[String]) -> Router<Arc<Api>> {
    let files: Vec<_> = files().collect();
    let page = Page::new(frame_ancestors, files.iter().map(|(name, _)| *name));
    let mut routes = Router::new().route(PATH, get(async move || page.clone()));
    for (name, text) in files {
        let file = File::new(name, text);
        routes = routes.route(&format!("{PATH}/{name}"), get(async move |headers: HeaderMap| file.answer(&headers)));
    }
    routes
}

/// The text of a file without indentation and without the lines that hold only a comment: browsers need neither. No text in
/// these files goes over several lines, and no comment ends before the end of a line.
fn without_notes(text: &str) -> String {
    let mut in_comment = false;
    let mut served = String::with_capacity(text.len());
    for line in text.lines().map(str::trim_start) {
        if in_comment || line.starts_with("/*") {
            in_comment = !line.ends_with("*/");
        } else if !line.is_empty() && !line.starts_with("//") {
            served.push_str(line);
            served.push('\n');
        }
    }
    served
}

/// Allows only files of this origin, the one script that stands in the page, and only frames of the origins in
/// `api.frame_ancestors`.
fn content_security_policy(frame_ancestors: &[String], html: &str) -> String {
    let ancestors = if frame_ancestors.is_empty() { "'none'".to_owned() } else { frame_ancestors.join(" ") };
    let hash = BASE64_STANDARD.encode(Sha256::digest(script_in(html)));
    format!(
        "default-src 'none'; script-src 'self' 'sha256-{hash}'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors {ancestors}"
    )
}

fn script_in(html: &str) -> &str {
    let (_, rest) = html.split_once("<script>").expect("index.html has a script");
    rest.split_once("</script>").expect("it ends").0
}

#[derive(Clone)]
struct Page {
    html: Bytes,
    headers: HeaderMap,
}

impl Page {
    /// The page, which fetches the scripts among `files`.
    fn new(frame_ancestors: &[String], files: impl Iterator<Item = &'static str>) -> Self {
        // The settings accept only origins here, which have no character that is special in HTML.
        let origins = HOST_ORIGINS.replace("\"\"", &format!("\"{}\"", frame_ancestors.join(" ")));
        let scripts = files.filter(|name| name.ends_with(".js") && *name != START);
        let preloads: String = scripts.map(|name| PRELOAD.replace("webhooks/", &format!("webhooks/{name}"))).collect();
        let html = without_notes(PAGE).replace(HOST_ORIGINS, &origins).replace(PRELOAD, &preloads);
        let mut headers = common("text/html; charset=utf-8");
        let policy = content_security_policy(frame_ancestors, &html);
        let policy = HeaderValue::from_str(&policy).expect("origins are plain ASCII");
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        // The back button must not show an account's data again.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if frame_ancestors.is_empty() {
            headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        } else {
            // A host that isolates itself (COEP) may only frame pages that say both of these.
            headers.insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
            headers.insert(EMBEDDER_POLICY, HeaderValue::from_static("require-corp"));
        }
        Self { html: Bytes::from(html), headers }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        (self.headers, self.html).into_response()
    }
}

#[derive(Clone)]
struct File {
    body: Bytes,
    version: String,
    headers: HeaderMap,
}

impl File {
    fn new(name: &str, body: Bytes) -> Self {
        let kind = match name.rsplit_once('.') {
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        };
        let mut headers = common(kind);
        let version = hex::encode(&Sha256::digest(&body)[..16]);
        headers.insert(header::ETAG, HeaderValue::from_str(&etag::tag(&version)).expect("hex is ASCII"));
        // Browsers keep the file, and ask each time whether it is still current.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Self { body, version, headers }
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let known = etag::versions(asked, &header::IF_NONE_MATCH).any(|version| version == self.version);
        match known {
            true => (StatusCode::NOT_MODIFIED, self.headers.clone()).into_response(),
            false => (self.headers.clone(), self.body.clone()).into_response(),
        }
    }
}

/// The headers that all files have.
fn common(content_type: &'static str) -> HeaderMap {
    let permissions = HeaderName::from_static("permissions-policy");
    let opener = HeaderName::from_static("cross-origin-opener-policy");
    HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (opener, HeaderValue::from_static("same-origin")),
        (RESOURCE_POLICY, HeaderValue::from_static("same-origin")),
        (permissions, HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=(), usb=()")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_no_comments_and_no_indentation() {
        let text = "/** One. */\n/*\n * Two.\n */\nf({\n\t// Three.\n\n\ta: 1, // Four.\n});\n";
        assert_eq!(without_notes(text), "f({\na: 1, // Four.\n});\n");
    }

    /// Otherwise `without_notes` would take lines out of a text.
    #[test]
    fn no_text_in_a_script_goes_over_several_lines() {
        for (name, text) in FILES {
            let odd = text.lines().find(|line| line.matches('`').count() % 2 == 1);
            assert_eq!(odd, None, "{name}");
        }
    }
}
