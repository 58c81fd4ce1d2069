//! Encrypts stored secrets and headers again with the newest key.

use uuid::Uuid;

use super::{Store, StoreError, account, column};
use crate::ids::WebhookId;
use crate::secret::{HeadersOwner, Keyring, OpenError, Owner};
use crate::webhook::origin_of;

/// What [`Store::reencrypt_page`] did with one page of webhooks.
#[derive(Debug, Default)]
pub(crate) struct Reencrypted {
    /// The number of webhooks that were read.
    pub seen: u64,
    /// The number of envelopes that were encrypted with the newest key.
    pub moved: u64,
    /// The number of envelopes that changed or were deleted between reading and writing: another pass finds them.
    pub raced: u64,
    /// Webhooks with a secret or headers that no key decrypts.
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

    /// Encrypts the secrets and the headers of one page of webhooks with the newest key: those after `after`, in the order of
    /// their ids. It may be repeated, interrupted, and run beside everything else: an envelope that changed meanwhile is left as it is.
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
        let headers = self.headers_and_pace().await?.envelope();
        let sql = format!(
            "SELECT id, account_id, secret, previous_secret, url, {headers} FROM webhooks WHERE id > $1 ORDER BY id LIMIT $2"
        );
        let rows = self.query(&sql, &[&after, &page]).await?;
        let mut done = Reencrypted::default();
        for row in &rows {
            let id = WebhookId(column(row, "id"));
            let account_id = account(row);
            let owner = Owner { account_id: &account_id, webhook_id: id };
            for (column_name, again, update) in ENVELOPES {
                let Some(old) = column::<Option<&[u8]>>(row, column_name) else { continue };
                if keyring.is_newest(old) {
                    continue;
                }
                match again(keyring, old, owner, column(row, "url")) {
                    Ok(new) => match self.execute(update, &[&id.0, &old, &new]).await? {
                        0 => done.raced += 1,
                        _ => done.moved += 1,
                    },
                    Err(_) if done.unreadable.last() == Some(&id) => {}
                    Err(_) => done.unreadable.push(id),
                }
            }
            done.seen += 1;
            done.next = Some(id);
        }
        Ok(done)
    }
}

/// Opens an envelope, and encrypts what it holds with the newest key. The text is the webhook's URL.
type Again = fn(&Keyring, &[u8], Owner<'_>, &str) -> Result<Vec<u8>, OpenError>;

/// The columns with envelopes; how each is made again, and written if it is still the same. None of them is part of a webhook's
/// version.
const ENVELOPES: [(&str, Again, &str); 3] = [
    ("secret", secret_again, "UPDATE webhooks SET secret = $3 WHERE id = $1 AND secret = $2"),
    (
        "previous_secret",
        secret_again,
        "UPDATE webhooks SET previous_secret = $3 WHERE id = $1 AND previous_secret = $2",
    ),
    ("headers", headers_again, "UPDATE webhooks SET headers = $3 WHERE id = $1 AND headers = $2"),
];

fn secret_again(keyring: &Keyring, envelope: &[u8], owner: Owner<'_>, _url: &str) -> Result<Vec<u8>, OpenError> {
    Ok(keyring.seal(&keyring.open(envelope, owner)?, owner, rand::random()))
}

/// The text within stays as it is, whatever this release thinks of it.
fn headers_again(keyring: &Keyring, envelope: &[u8], owner: Owner<'_>, url: &str) -> Result<Vec<u8>, OpenError> {
    let origin = origin_of(url).ok_or(OpenError::Damaged)?;
    let owner = HeadersOwner { owner, origin: &origin };
    Ok(keyring.seal_headers(&keyring.open_headers(envelope, owner)?, owner, rand::random()))
}
