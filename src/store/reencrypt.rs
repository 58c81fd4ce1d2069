//! Encrypts stored secrets again with the newest key.

use uuid::Uuid;

use super::{Store, StoreError, account, column};
use crate::ids::WebhookId;
use crate::secret::{Keyring, Owner};

/// What [`Store::reencrypt_page`] did with one page of webhooks.
#[derive(Debug, Default)]
pub(crate) struct Reencrypted {
    /// The number of webhooks that were read.
    pub seen: u64,
    /// The number of envelopes that were encrypted with the newest key.
    pub moved: u64,
    /// The number of envelopes that changed or were deleted between reading and writing: another pass finds them.
    pub raced: u64,
    /// Webhooks with a secret that no key decrypts.
    pub unreadable: Vec<WebhookId>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<WebhookId>,
}

impl Store {
    /// The number of all webhooks.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn count_webhooks(&self) -> Result<u64, StoreError> {
        let rows = self.query("SELECT count(*) AS count FROM webhooks", &[]).await?;
        Ok(rows.first().map_or(0, |row| u64::try_from(column::<i64>(row, "count")).unwrap_or_default()))
    }

    /// Encrypts the secrets of one page of webhooks with the newest key: those after `after`, in the order of their ids. It
    /// may be repeated, interrupted, and run beside everything else: an envelope that changed meanwhile is left as it is.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: repeat the page.
    pub(crate) async fn reencrypt_page(
        &self,
        keyring: &Keyring,
        after: Option<WebhookId>,
        page: i64,
    ) -> Result<Reencrypted, StoreError> {
        let after = after.map_or(Uuid::nil(), |id| id.0);
        let rows = self.query(PAGE, &[&after, &page]).await?;
        let mut done = Reencrypted::default();
        for row in &rows {
            let id = WebhookId(column(row, "id"));
            let account_id = account(row);
            let owner = Owner { account_id: &account_id, webhook_id: id };
            for (column_name, update) in [("secret", MOVE_SECRET), ("previous_secret", MOVE_PREVIOUS_SECRET)] {
                let Some(old) = column::<Option<&[u8]>>(row, column_name) else { continue };
                if keyring.is_newest(old) {
                    continue;
                }
                match keyring.open(old, owner) {
                    Ok(secret) => {
                        let new = keyring.seal(&secret, owner, rand::random());
                        match self.execute(update, &[&id.0, &old, &new]).await? {
                            0 => done.raced += 1,
                            _ => done.moved += 1,
                        }
                    }
                    Err(_) => done.unreadable.push(id),
                }
            }
            done.seen += 1;
            done.next = Some(id);
        }
        Ok(done)
    }
}

const PAGE: &str = "SELECT id, account_id, secret, previous_secret FROM webhooks WHERE id > $1 ORDER BY id LIMIT $2";
const MOVE_SECRET: &str = "UPDATE webhooks SET secret = $3 WHERE id = $1 AND secret = $2";
const MOVE_PREVIOUS_SECRET: &str = "UPDATE webhooks SET previous_secret = $3 WHERE id = $1 AND previous_secret = $2";
