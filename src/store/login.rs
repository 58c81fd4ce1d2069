//! Finds the server and logs in. The URL may come from a file that changes while the process runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Error;

use super::address::Address;
use super::error::StoreError;
use super::hosts::{self, Connected, LastServed};
use super::tls::Tls;
use crate::config::{Database, UrlSource};
use crate::rotation;
use crate::secret::SecretText;

/// The part of the time for opening a session that finding the server may take. The rest is for the session's settings, and
/// for reporting why no host served before the caller gives up.
const FOR_FINDING: f64 = 0.95;

/// Clones share the address.
#[derive(Clone)]
pub(super) struct Login {
    state: Arc<Mutex<State>>,
    url_from: UrlSource,
    last_served: Arc<LastServed>,
    /// The longest that opening a session may take.
    bound: Duration,
}

struct State {
    url: SecretText,
    address: Arc<Address>,
    /// Why the last try found no server.
    failure: Option<String>,
}

impl Login {
    pub(super) fn new(settings: &Database) -> Result<Self, StoreError> {
        let (url, url_from) = (settings.url_from.newest_or(&settings.url), settings.url_from.clone());
        let unusable = |cause| StoreError::Address(url_from.name("DATABASE_URL"), cause);
        let address = Address::read(url.expose()).map_err(unusable)?.into();
        let state = Arc::new(Mutex::new(State { url, address, failure: None }));
        Ok(Self { state, url_from, last_served: Arc::default(), bound: settings.connect_timeout })
    }

    pub(super) fn tls(&self) -> Tls {
        self.state().address.tls.clone()
    }

    /// Replaces an error that says no more than that there is no session: the new one says which hosts were tried, and why
    /// none served.
    pub(super) fn explain(&self, error: StoreError) -> StoreError {
        match (error, self.state().failure.clone()) {
            (StoreError::Unavailable(_), Some(failure)) => StoreError::Unavailable(anyhow::Error::msg(failure)),
            (error, _) => error,
        }
    }

    /// Logs in. After a refusal, the URL is read again from its file, if it has one, and tried once more if it has changed.
    ///
    /// # Errors
    ///
    /// The last error of the driver. If no host has answered it says very little: see [`Login::explain`].
    pub(super) async fn connect(&self) -> Result<Connected, Error> {
        let deadline = Instant::now() + self.bound.mul_f64(FOR_FINDING);
        let mut address = self.state().address.clone();
        let mut read_again = false;
        loop {
            let failure = match hosts::connect(&address, &self.last_served, deadline).await {
                Ok(connected) => {
                    self.state().failure = None;
                    return Ok(connected);
                }
                Err(failure) => failure,
            };
            if failure.is_refusal()
                && !std::mem::replace(&mut read_again, true)
                && let Some(another) = self.read_again(&address).await
            {
                address = another;
                continue;
            }
            self.state().failure = Some(failure.to_string());
            return match failure.into_error() {
                Some(error) => Err(error),
                None => Err(hosts::unanswered().await),
            };
        }
    }

    /// The next session tries the hosts in their own order.
    pub(super) fn forget_last_served(&self) {
        self.last_served.forget();
    }

    /// The address to use instead of one whose login was refused, if there is a new one.
    async fn read_again(&self, refused: &Arc<Address>) -> Option<Arc<Address>> {
        let url = {
            let state = self.state();
            if !Arc::ptr_eq(&state.address, refused) {
                return Some(state.address.clone());
            }
            state.url.clone()
        };
        let (url, address) = rotation::read_again(&self.url_from, &url, Address::read).await?;
        let mut state = self.state();
        state.address = Arc::new(address);
        state.url = url;
        Some(state.address.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
