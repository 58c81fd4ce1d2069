//! What the owner of a saved URL should know about it. Pure.

use url::Url;

const PLAIN_HEADERS: &str = "the URL uses http, so everyone on the way can read the values of the headers; use https";
const PLAIN_HTTP: &str = "the URL uses http, so everyone on the way can read the events; use https";

/// Sentences for the owner of a saved URL; none for most URLs.
pub(crate) fn url_warnings(saved: &str, has_headers: bool) -> Vec<String> {
    let is_plain = saved.starts_with("http://");
    let plain = is_plain.then(|| PLAIN_HTTP.to_owned());
    let plain_headers = (is_plain && has_headers).then(|| PLAIN_HEADERS.to_owned());
    let chat = Url::parse(saved).ok().and_then(|url| chat_tool(&url)).map(|tool| {
        format!(
            "this is an address of {tool}, which takes messages in a format of its own and cannot read these events; \
             send them to a server of yours that translates them"
        )
    });
    [plain, plain_headers, chat].into_iter().flatten().collect()
}

/// The tool whose incoming webhook this is. Such a tool refuses our events, or accepts them and shows nothing.
fn chat_tool(url: &Url) -> Option<&'static str> {
    let host = url.host_str()?;
    let below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let path = url.path();
    match host {
        "hooks.slack.com" | "hooks.slack-gov.com" => Some("Slack"),
        "chat.googleapis.com" => Some("Google Chat"),
        _ if (below("discord.com") || below("discordapp.com")) && path.starts_with("/api/") => Some("Discord"),
        _ if below("webhook.office.com") || host == "outlook.office.com" => Some("Microsoft Teams"),
        // Where Teams has its webhooks made since 2024.
        _ if below("logic.azure.com") || below("api.powerplatform.com") => {
            Some("Microsoft Teams, Power Automate or Logic Apps")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned_of(url: &str) -> String {
        url_warnings(url, false).concat()
    }

    #[test]
    fn the_owner_of_a_chat_tools_address_is_warned() {
        for (url, tool) in [
            ("https://hooks.slack.com/services/T0/B0/x", "of Slack,"),
            ("https://discord.com/api/webhooks/1/x", "of Discord,"),
            ("https://ptb.discordapp.com/api/v10/webhooks/1/x", "of Discord,"),
            ("https://acme.webhook.office.com/webhookb2/x", "of Microsoft Teams,"),
            (
                "https://prod-7.westeurope.logic.azure.com:443/workflows/x/triggers/manual/paths/invoke?sig=x",
                "Logic Apps,",
            ),
            ("https://default1.4f.environment.api.powerplatform.com/powerautomate/x", "Power Automate"),
            ("https://chat.googleapis.com/v1/spaces/x/messages?key=x", "of Google Chat,"),
        ] {
            assert!(warned_of(url).contains(tool), "{url}: {}", warned_of(url));
        }
    }

    #[test]
    fn other_addresses_are_not_taken_for_a_chat_tools() {
        for url in [
            "https://hooks.slack.com.example.net/services/x",
            "https://notdiscord.com/api/webhooks/1/x",
            "https://discord.com/blog",
            "https://example.com/hooks.slack.com/",
            "https://example.com/",
        ] {
            assert_eq!(warned_of(url), "", "{url}");
        }
    }

    #[test]
    fn plain_http_is_warned_of_first() {
        assert_eq!(url_warnings("http://example.com/", false), [PLAIN_HTTP]);
        assert_eq!(url_warnings("http://discord.com/api/webhooks/1/x", false).len(), 2);
    }

    #[test]
    fn headers_that_go_over_plain_http_are_warned_of() {
        assert_eq!(url_warnings("http://example.com/", true), [PLAIN_HTTP, PLAIN_HEADERS]);
        assert!(url_warnings("https://example.com/", true).is_empty());
    }
}
