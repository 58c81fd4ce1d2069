//! Authenticates requests. A route that takes a [`Caller`] needs a token, counts in its account's rate, and takes the query
//! parameters that its description names and no others. A token that may only read is refused by every method but GET.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath};
use axum::http::request::Parts;
use axum::http::{Method, header};
use jiff::Timestamp;

use super::Api;
use super::audit::{self, Audit};
use super::limits::weight;
use super::problem::Problem;
use super::query::{DeliveryPath, Query, WebhookPath};
use crate::ids::AccountId;
use crate::store::Scope;
use crate::token::{Access, Grant};

/// The account that a request's token names, what the token permits, and the request's query.
pub(super) struct Caller {
    pub(super) account: AccountId,
    pub(super) query: Query,
    pub(super) audit: Audit,
    access: Access,
}

impl Caller {
    pub(super) fn scope(&self) -> Scope<'_> {
        Scope::Account(&self.account)
    }

    /// What this caller may do.
    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// For routes that show a secret, which a token that may only read must not see.
    ///
    /// # Errors
    ///
    /// 403 with such a token.
    pub(super) fn may_see_secrets(&self) -> Result<(), Problem> {
        match self.access {
            Access::Full => Ok(()),
            Access::ReadOnly => Err(Problem::read_only_token()),
        }
    }
}

/// Carries the account from the route to the access log.
#[derive(Debug, Clone)]
pub(super) struct AccountSeen(pub(super) Arc<std::sync::OnceLock<AccountId>>);

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let Grant { account, access, actor } = api.tokens.verify(bearer(parts)?, Timestamp::now().as_second())?;
        if let Some(seen) = parts.extensions.get::<AccountSeen>() {
            let _ = seen.0.set(account.clone());
        }
        let matched = parts.extensions.get::<MatchedPath>().cloned();
        let route = matched.as_ref().map_or("", MatchedPath::as_str);
        let audit = parts.extensions.get::<Audit>().cloned().expect("`observe` is around every route");
        if let Some(action) = audit::action(&parts.method, route) {
            let webhook = WebhookPath::from_request_parts(parts, api).await.ok().map(|WebhookPath(id)| id);
            let delivery = DeliveryPath::from_request_parts(parts, api).await.ok().map(|DeliveryPath(_, id)| id);
            audit.begins(audit::Begun { action, account: account.clone(), actor, webhook, delivery });
        }
        let query = Query::read(parts.uri.query().unwrap_or_default(), api.parameters.of(&parts.method, route));
        // Counts before the database is asked: a caller who hangs up uses as much of the rate as one who waits.
        api.limits.request(&account, query.as_ref().map_or(NonZeroU32::MIN, |query| weight(route, query)))?;
        let changes = ![Method::GET, Method::HEAD].contains(&parts.method);
        if changes && access == Access::ReadOnly {
            return Err(Problem::read_only_token());
        }
        Ok(Self { account, query: query?, audit, access })
    }
}

/// The token of the only Authorization header (RFC 6750, section 2.1). Tokens in queries and cookies are not accepted.
fn bearer(parts: &Parts) -> Result<&str, Problem> {
    let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return Err(Problem::no_token()) };
    let text = value.to_str().map_err(|_| Problem::no_token())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(Problem::no_token)?;
    let token = token.trim_start_matches(' ');
    match scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty() {
        true => Ok(token),
        false => Err(Problem::no_token()),
    }
}
