//! The names of headers that a customer may not set. Pure.

/// Names that are refused. They steer the transport or the meaning of a request, say who calls or from where, belong to a trace, or
/// open the metadata of a cloud.
const REFUSED: [&str; 116] = [
    "ali-cdn-real-ip",
    "b3",
    "baggage",
    "cdn-loop",
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
    "elastic-apm-traceparent",
    "expect",
    "fastly-client-ip",
    "fly-client-ip",
    "front-end-https",
    "host",
    "http2-settings",
    "incap-client-ip",
    "keep-alive",
    "max-forwards",
    "metadata",
    "newrelic",
    "origin",
    "range",
    "referer",
    "remote-addr",
    "remote-email",
    "remote-host",
    "remote-ident",
    "remote-name",
    "request-range",
    "sentry-trace",
    "surrogate-capability",
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
    "x-anonymous-consumer",
    "x-azure-clientip",
    "x-azure-ref",
    "x-azure-requestchain",
    "x-azure-socketip",
    "x-client-ip",
    "x-cloud-trace-context",
    "x-cluster-client-ip",
    "x-credential-identifier",
    "x-credential-username",
    "x-datadog-origin",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-tags",
    "x-datadog-trace-id",
    "x-forward-for",
    "x-forward-proto",
    "x-goog-metadata-request",
    "x-host",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-http-path-override",
    "x-http-verb",
    "x-identity-header",
    "x-method-override",
    "x-nf-client-connection-ip",
    "x-original-args",
    "x-original-authority",
    "x-original-client-ip",
    "x-original-for",
    "x-original-host",
    "x-original-ip",
    "x-original-method",
    "x-original-path",
    "x-original-port",
    "x-original-prefix",
    "x-original-proto",
    "x-original-query",
    "x-original-remote-addr",
    "x-original-scheme",
    "x-original-uri",
    "x-original-url",
    "x-originating-ip",
    "x-ot-span-context",
    "x-override-url",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-email",
    "x-remote-host",
    "x-remote-ip",
    "x-remote-name",
    "x-remote-port",
    "x-remote-roles",
    "x-remote-uid",
    "x-rewrite-url",
    "x-scheme",
    "x-sendfile-type",
    "x-sucuri-clientip",
    "x-true-client-ip",
    "x-url-scheme",
    "x-vault-request",
    "x-waws-unencoded-url",
];

/// Beginnings of names that are refused, for the same reasons. A name that ends before the `-` of one is refused, too: `Proxy` becomes
/// the variable `HTTP_PROXY` of CGI (CVE-2016-5385).
const REFUSED_BEGINNINGS: [&str; 50] = [
    "accept",
    "cf-cert-",
    "cf-client-cert-",
    "client-cert",
    "cloudfront-",
    "content-",
    "forwarded",
    "if-",
    "impersonate-",
    "l5d-",
    "metadata-",
    "proxy-",
    "remote-group",
    "remote-user",
    "sec-",
    "ssl-client-",
    "tailscale-",
    "webhook-",
    "x-accel-",
    "x-aliyun-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-appengine-",
    "x-arr-",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-aws-",
    "x-b3-",
    "x-client-cert",
    "x-consumer-",
    "x-envoy-",
    "x-forwarded",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-google-",
    "x-http-method",
    "x-instance-id",
    "x-metadata-",
    "x-middleware-subrequest",
    "x-ms-client-principal",
    "x-original-forwarded-",
    "x-remote-extra",
    "x-remote-group",
    "x-remote-user",
    "x-ssl-",
    "x-vercel-forwarded-",
    "x-vercel-ip-",
    "x-webauth-",
    "x-webhook-",
];

/// Whether a customer may not set this header. Servers that hand headers on as variables, as CGI does (RFC 3875, section 4.1.18),
/// make one name of those that differ only in such characters: `X_Forwarded_For` is refused like `X-Forwarded-For`.
pub(super) fn is_refused(name: &str) -> bool {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let begins = |beginning: &&str| plain.starts_with(*beginning) || beginning.strip_suffix('-') == Some(&plain);
    REFUSED.contains(&plain.as_str()) || REFUSED_BEGINNINGS.iter().any(begins)
}

/// Whether a customer may not send this value under this name. Oracle's cloud shows its metadata to whoever sends this one (IMDSv2).
pub(super) fn opens_metadata(name: &str, value: &str) -> bool {
    let words = value.split_ascii_whitespace().map(str::to_ascii_lowercase);
    name.eq_ignore_ascii_case("authorization") && words.eq(["bearer", "oracle"])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `*` stands for any ending, also none, and a class is refused without the `-` before it.
    const REFUSED_CLASSES: [&str; 92] = [
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
        // Who calls, by the word of a proxy that checked a certificate or a login.
        "Cf-Cert-*",
        "Cf-Client-Cert-*",
        "Client-Cert*",
        "Remote-Email",
        "Remote-Groups",
        "Remote-Name",
        "Remote-User",
        "SSL-Client-*",
        "Tailscale-*",
        "X-ARR-*",
        "X-Amzn-Mtls-*",
        "X-Anonymous-Consumer",
        "X-Authenticated-*",
        "X-Authentik-*",
        "X-Client-Cert*",
        "X-Consumer-*",
        "X-Credential-Identifier",
        "X-Credential-Username",
        "X-Remote-Extra-*",
        "X-Remote-Group*",
        "X-Remote-Uid",
        "X-Remote-User*",
        "X-SSL-*",
        "X-WebAuth-*",
        // From where.
        "Forwarded-For",
        "X-Azure-ClientIP",
        "X-Azure-SocketIP",
        "X-Forward-For",
        "X-Original-For",
        "X-Original-Forwarded-*",
        "X-ProxyUser-Ip",
        "X-Remote-Addr",
        "X-Scheme",
        // What steers.
        "CDN-Loop",
        "L5d-Dst-Override",
        "Surrogate-Capability",
        "X-Accel-*",
        "X-HTTP-Verb",
        "X-Middleware-Subrequest*",
        "X-Original-Host",
        "X-Original-Method",
        "X-Original-URI",
        "X-Original-URL",
        "X-Sendfile-Type",
        // Traces.
        "Elastic-Apm-Traceparent",
        "Newrelic",
        "X-Datadog-Parent-Id",
        "X-Datadog-Trace-Id",
        "X-Ot-Span-Context",
        // Metadata of a cloud.
        "X-Goog-Metadata-Request",
        "X-Instance-ID",
        "X-Instance-ID-Signature",
    ];

    #[test]
    fn names_of_the_refused_classes_are_refused_however_they_are_spelt() {
        for class in REFUSED_CLASSES {
            let endings: &[&str] = if class.ends_with('*') { &["", "x", "Type", "0", "-", "For-Real"] } else { &[""] };
            let named = endings.iter().map(|ending| class.trim_end_matches('*').to_owned() + ending);
            let bare = class.strip_suffix("-*").map(str::to_owned);
            for name in named.chain(bare) {
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
            "Remote-Key",
            // The endpoint of Azure that reads it wants a value that only its own machine knows.
            "Secret",
            "Tenant",
            "Token",
            "Webhooks",
            "X-Api-Key",
            "X-Auth-Key",
            "X-Auth-Token",
            "X-Authorization",
            "X-Azure-FDID",
            "X-Client-Id",
            "X-Client-Secret",
            "X-Datadog-Api-Key",
            "X-Goog-Api-Key",
            "X-Goog-Channel-Token",
            "X-Hook-Secret",
            "X-Make-Apikey",
            "X-N8n-Api-Key",
            "X-Original-Token",
            "X-Remote-Key",
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
    fn the_value_that_opens_the_metadata_of_oracle_is_known_however_it_is_spelt() {
        for value in ["Bearer Oracle", "bearer  oracle", "BEARER\tORACLE"] {
            assert!(opens_metadata("authorization", value) && opens_metadata("Authorization", value), "{value}");
            assert!(!opens_metadata("X-Authorization", value));
        }
        for value in ["Bearer Oracle2", "Bearer Oracle x", "Oracle", "BearerOracle"] {
            assert!(!opens_metadata("Authorization", value), "{value}");
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
