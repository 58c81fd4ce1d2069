//! The names of headers that a customer may not set. Pure.

/// Names that are refused. They steer the transport or the meaning of a request, say who calls or from where, belong to a trace, or
/// open the metadata of a cloud.
const REFUSED: [&str; 66] = [
    "ali-cdn-real-ip",
    "b3",
    "baggage",
    "cdn-real-ip",
    "cdn-src-ip",
    "cf-access-authenticated-user-email",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-ipcountry",
    "cf-pseudo-ipv4",
    "cf-visitor",
    "client-ip",
    "connection",
    "cookie",
    "cookie2",
    "do-connecting-ip",
    "early-data",
    "expect",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "front-end-https",
    "host",
    "http2-settings",
    "incap-client-ip",
    "keep-alive",
    "max-forwards",
    "metadata",
    "origin",
    "range",
    "referer",
    "remote-addr",
    "remote-user",
    "request-range",
    "sentry-trace",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "uber-trace-id",
    "upgrade",
    "user-agent",
    "via",
    "wl-proxy-client-ip",
    "x-amzn-trace-id",
    "x-client-ip",
    "x-cloud-trace-context",
    "x-cluster-client-ip",
    "x-host",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-http-path-override",
    "x-identity-header",
    "x-method-override",
    "x-nf-client-connection-ip",
    "x-originating-ip",
    "x-override-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-sucuri-clientip",
    "x-true-client-ip",
    "x-url-scheme",
    "x-vault-request",
    "x-waws-unencoded-url",
];

/// Beginnings of names that are refused, for the same reasons.
const REFUSED_BEGINNINGS: [&str; 31] = [
    "accept",
    "cloudfront-",
    "content-",
    "if-",
    "impersonate-",
    "metadata-",
    "proxy-",
    "sec-",
    "webhook-",
    "x-aliyun-",
    "x-amzn-oidc-",
    "x-appengine-",
    "x-auth-request-",
    "x-aws-",
    "x-azure-",
    "x-b3-",
    "x-datadog-",
    "x-envoy-",
    "x-forwarded",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-google-",
    "x-http-method",
    "x-metadata-",
    "x-ms-client-principal",
    "x-original-",
    "x-remote-",
    "x-ssl-client-",
    "x-vercel-forwarded-",
    "x-vercel-ip-",
    "x-webhook-",
];

/// Whether a customer may not set this header. Servers that hand headers on as variables, as CGI does (RFC 3875, section 4.1.18),
/// make one name of those that differ only in such characters: `X_Forwarded_For` is refused like `X-Forwarded-For`.
pub(super) fn is_refused(name: &str) -> bool {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    REFUSED.contains(&plain.as_str()) || REFUSED_BEGINNINGS.iter().any(|beginning| plain.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As issue 21 has them. `*` stands for any ending, also none.
    const REFUSED_CLASSES: [&str; 42] = [
        "Host",
        "Content-*",
        "Transfer-Encoding",
        "TE",
        "Trailer",
        "Upgrade",
        "Connection",
        "Keep-Alive",
        "Expect",
        "Proxy-*",
        "Via",
        "Forwarded",
        "X-Forwarded-*",
        "X-Real-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-*",
        "X-Rewrite-URL",
        "Range",
        "If-*",
        "Accept*",
        "User-Agent",
        "Cookie",
        "Origin",
        "Referer",
        "Sec-*",
        "Traceparent",
        "Tracestate",
        "Baggage",
        "Webhook-*",
        "X-Webhook-*",
        "Metadata",
        "Metadata-Flavor",
        "X-Google-*",
        "X-Aws-*",
        "X-Aws-Ec2-Metadata-Token",
        "Impersonate-*",
        "X-Envoy-*",
        "X-Remote-*",
    ];

    #[test]
    fn names_of_the_refused_classes_are_refused_however_they_are_spelt() {
        for class in REFUSED_CLASSES {
            let endings: &[&str] = if class.ends_with('*') { &["", "x", "Type", "0", "-", "For-Real"] } else { &[""] };
            for name in endings.iter().map(|ending| class.trim_end_matches('*').to_owned() + ending) {
                let (dotted, lined) = (name.replace('-', "."), name.replace('-', "_"));
                for spelt in [name.to_uppercase(), name.to_lowercase(), dotted, lined, name] {
                    assert!(is_refused(&spelt), "{spelt}");
                }
            }
        }
    }

    #[test]
    fn names_that_receivers_ask_for_are_accepted() {
        for name in [
            "Api-Key",
            "Authorization",
            "CF-Access-Client-Id",
            "CF-Access-Client-Secret",
            "Cache-Control",
            "Hosted-By",
            "Idempotency-Key",
            "Ocp-Apim-Subscription-Key",
            "PRIVATE-TOKEN",
            "Ranger",
            "Tenant",
            "Token",
            "Webhooks",
            "X-Api-Key",
            "X-Auth-Key",
            "X-Auth-Token",
            "X-Authorization",
            "X-Goog-Api-Key",
            "X-Goog-Channel-Token",
            "X-Hook-Secret",
            "X-Make-Apikey",
            "X-N8n-Api-Key",
            "X-Secret",
            "X-Tenant-Id",
            "X-Token",
            "X-Vault-Token",
            "X-Vercel-Protection-Bypass",
        ] {
            assert!(!is_refused(name), "{name}");
        }
    }

    #[test]
    fn the_lists_are_in_order_and_no_name_stands_in_both() {
        assert!(REFUSED.is_sorted_by(|one, next| one < next));
        assert!(REFUSED_BEGINNINGS.is_sorted_by(|one, next| one < next));
        for name in REFUSED {
            assert!(!REFUSED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)), "{name}");
        }
    }
}
