//! The closed list of what `error` of an attempt may say, for the API's description.

use utoipa::ToSchema;

/// What went wrong with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ErrorName {
    /// The host leads to an address that may not be called.
    BlockedAddress,
    /// The URL is not accepted any more.
    InvalidUrl,
    /// The host name gave no address.
    Dns,
    /// No connection was made.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The answer did not come in time.
    Timeout,
    /// The answer was not valid HTTP.
    Protocol,
    /// The answer had another status than 200 to 299.
    HttpStatus,
    /// This service failed.
    Internal,
}

impl ErrorName {
    /// In the order of the variants.
    pub(crate) const ALL: [Self; 9] = [
        Self::BlockedAddress,
        Self::InvalidUrl,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Protocol,
        Self::HttpStatus,
        Self::Internal,
    ];

    /// The name in the database, in the API and in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BlockedAddress => "blocked_address",
            Self::InvalidUrl => "invalid_url",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::HttpStatus => "http_status",
            Self::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use utoipa::PartialSchema;

    use crate::delivery::{Answer, AttemptError, ErrorDetail, Outcome};

    #[test]
    fn the_description_has_all_errors_of_attempts_and_no_others() {
        let described = serde_json::to_value(super::ErrorName::schema()).unwrap();
        let described: BTreeSet<&str> =
            described["enum"].as_array().unwrap().iter().filter_map(|n| n.as_str()).collect();
        let phases = ErrorDetail::ALL.map(AttemptError::from);
        let others =
            [AttemptError::BlockedAddress, AttemptError::InvalidUrl, AttemptError::Connect, AttemptError::Internal];
        let failed = phases.into_iter().chain(others).chain([AttemptError::CutOff]).map(Outcome::Failed);
        let refused = Outcome::Answered(Answer { status: 500, ..Answer::default() });
        let known: BTreeSet<&str> = failed.chain([refused]).filter_map(|outcome| outcome.error()).collect();
        assert_eq!(described, known);
        assert_eq!(described, super::ErrorName::ALL.map(super::ErrorName::as_str).into());
    }
}
