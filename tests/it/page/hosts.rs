//! Pages of a product that frame ours: the host page of docs/embedding.md, with the server behind it, and a proxy.

use super::*;

/// Where the host page of the document expects our page.
const DOCUMENTED: &str = "https://hooks.example.com/settings/webhooks";

/// The host page, and nginx before our API, which compresses and serves it below a path.
pub(super) struct Host {
    server: Receiver,
    proxy: Nginx,
}

impl Host {
    /// Our page's own address, as the frame has it.
    pub(super) fn framed(&self) -> String {
        format!("http://{}/hooks/settings/webhooks", self.proxy.addr())
    }

    /// The host page's own address.
    pub(super) fn url(&self) -> String {
        self.server.url_at("/settings")
    }

    /// Opens a view of our page as a link to the host page does: `/webhooks/ID/logs`. The browser is in the frame afterwards.
    pub(super) async fn open(&self, browser: &Browser, route: &str) {
        browser.goto(&format!("{}#{route}", self.url())).await;
        self.enter(browser).await;
    }

    pub(super) async fn enter(&self, browser: &Browser) {
        browser.enter_frame().await;
        browser.until("document.querySelector('h1') !== null").await;
    }
}

impl Stage {
    /// Our page in the host page of docs/embedding.md, through nginx with gzip, below a path.
    pub(super) async fn framed() -> Self {
        Self::framed_on(Site::new().await).await
    }

    pub(super) async fn framed_on(site: Site) -> Self {
        Self::framed_by("", site).await
    }

    /// As `framed_on`, by a host page that is sent with these headers.
    pub(super) async fn framed_by(headers: &str, site: Site) -> Self {
        let server = Receiver::start().await;
        // A second host that does not frame the page now is told nothing.
        let hosts = format!(r#"["https://app.example.com", "http://{}"]"#, server.address());
        let mut stage = Self::on(site.set("api.frame_ancestors", &hosts)).await;
        let host = Host { proxy: Nginx::that_compresses_below("/hooks", &stage.address).await, server };
        let page = documented().replace(DOCUMENTED, &host.framed());
        let page = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n{headers}\r\n{page}",
            page.len()
        );
        let secret = stage.site.settings().get("api.jwt_secret").to_owned();
        host.server.answer(move |request| match request.path.as_str() {
            "/webhooks-token" => Reply::body(200, tokens::token_for(&secret, 3600)),
            _ => Reply::raw(page.clone()),
        });
        stage.host = Some(host);
        stage
    }

    pub(super) fn host(&self) -> &Host {
        self.host.as_ref().expect("the stage was made by `framed`")
    }
}

/// The host page as it stands in the document.
fn documented() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/embedding.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("```html\n").expect("the document has a host page");
    let page = rest.split("```").next().unwrap_or_default();
    assert!(page.lines().count() <= 42, "the host page is no longer short");
    assert!(page.contains(DOCUMENTED));
    page.to_owned()
}
