//! Entity tags (RFC 9110, section 8.8.3): how a caller names the version of something that it has seen.
//!
//! A tag is our version in quotes. Proxies that compress an answer change its tag: nginx, HAProxy, Cloudflare and Varnish
//! make it weak (`W/"…"`), Apache and Caddy add the coding (`"…-gzip"`), as do Jetty (`"…--gzip"`) and LiteSpeed
//! (`"…;gz"`), and most do not change it back in a request. So only the version within the tag is compared.
//!
//! For `If-Match`, section 13.1.1 asks for the strong comparison instead, by which a weak tag matches nothing. Then nobody
//! behind such a proxy could save a change. The strong comparison protects callers who need the same bytes, such as those
//! who continue a download; ours only ask whether a webhook is still as they have seen it.

use axum::http::{HeaderMap, HeaderName, header};

/// Proxies add to a tag a separator and one of these.
const CODINGS: [&str; 9] = ["x-gzip", "gzip", "gunzip", "gz", "br", "zstd", "deflate", "bzip2", "compress"];
const SEPARATORS: [char; 6] = ['-', ';', ':', '.', '+', '_'];

/// The tag of a version, which has only letters and digits.
pub(super) fn tag(version: &str) -> String {
    format!("\"{version}\"")
}

/// The versions that `If-Match` allows; `None` if it allows any. Text that is no tag names no version.
pub(super) fn if_match(headers: &HeaderMap) -> Option<Vec<String>> {
    let mut given = headers.get_all(header::IF_MATCH).iter();
    match (given.next(), given.next()) {
        (None, _) => None,
        (Some(any), None) if any == "*" => None,
        _ => Some(versions(headers, &header::IF_MATCH).map(str::to_owned).collect()),
    }
}

/// The versions in a header that lists tags.
pub(super) fn versions<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|tag| version(tag.trim()))
}

fn version(tag: &str) -> Option<&str> {
    let quoted = tag.strip_prefix("W/").unwrap_or(tag);
    let mut version = quoted.strip_prefix('"')?.strip_suffix('"')?;
    // Each of several proxies may have added its own.
    while let Some(before) = without_coding(version) {
        version = before;
    }
    Some(version)
}

fn without_coding(text: &str) -> Option<&str> {
    CODINGS.iter().find_map(|coding| {
        let before = text.strip_suffix(coding)?;
        before.ends_with(SEPARATORS).then(|| before.trim_end_matches(SEPARATORS))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn meant_for(values: &[&str]) -> Option<Vec<String>> {
        let values = values.iter().map(|value| (header::IF_MATCH, HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(name, value);
        }
        if_match(&headers)
    }

    #[test]
    fn whatever_a_proxy_makes_of_a_tag_it_names_the_same_version() {
        for changed in [
            r#""0a1b""#,
            r#"W/"0a1b""#,
            r#""0a1b-gzip""#,
            r#""0a1b-br""#,
            r#""0a1b-zstd""#,
            r#""0a1b-deflate""#,
            r#""0a1b-x-gzip""#,
            r#""0a1b--gzip""#,
            r#""0a1b;gzip""#,
            r#""0a1b;gz""#,
            r#""0a1b;br""#,
            r#""0a1b:gzip""#,
            r#"W/"0a1b-gzip""#,
            r#""0a1b-gzip-gunzip""#,
            r#"W/"0a1b--gzip--br""#,
        ] {
            assert_eq!(meant_for(&[changed]), Some(vec!["0a1b".to_owned()]), "{changed}");
        }
    }

    #[test]
    fn what_is_not_that_version_names_another_or_none() {
        for other in [
            r#""0a1c""#,
            r#""0a1b0""#,
            r#""0a1b-other""#,
            r#""0a1b-""#,
            r#""0a1bgzip""#,
            r#""-gzip""#,
            r#""gzip""#,
            r#""""#,
            "0a1b",
            r#"w/"0a1b""#,
            r#"W/ "0a1b""#,
            r#"W/W/"0a1b""#,
            r#"'0a1b'"#,
            r#""0a1b"#,
            r#""0a1b"-gzip"#,
            "\"",
            "",
            ",",
        ] {
            let versions = meant_for(&[other]).expect("a header was given");
            assert!(!versions.contains(&"0a1b".to_owned()), "{other}");
        }
    }

    #[test]
    fn every_tag_of_every_header_counts_and_a_star_alone_means_any() {
        assert_eq!(meant_for(&[]), None);
        assert_eq!(meant_for(&["*"]), None);
        assert_eq!(meant_for(&["*", "*"]), Some(Vec::new()));
        let several = meant_for(&[r#""a" , W/"b-gzip",nonsense"#, r#""c""#]);
        assert_eq!(several, Some(["a", "b", "c"].map(str::to_owned).to_vec()));
    }

    proptest! {
        #[test]
        fn a_version_is_found_in_its_own_tag_behind_any_proxies(
            version in "[0-9a-f]{1,64}",
            weak in any::<bool>(),
            added in prop::collection::vec((prop::sample::select(&SEPARATORS[..]), prop::sample::select(&CODINGS[..])), 0..4),
        ) {
            let added: String = added.iter().map(|(separator, coding)| format!("{separator}{coding}")).collect();
            let changed = format!("{}{}", if weak { "W/" } else { "" }, tag(&format!("{version}{added}")));
            prop_assert_eq!(meant_for(&[&changed]), Some(vec![version]));
        }

        #[test]
        fn no_header_is_too_strange(value in "[ -~]{0,40}") {
            let known = meant_for(&[&value]).unwrap_or_default().contains(&"0a1b".to_owned());
            prop_assert!(!known || value.contains("0a1b"));
        }
    }
}
