//! Cursors say where the next page of a list begins. Each is signed: only the list that gave it out accepts it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use uuid::Uuid;

use super::problem::Problem;
use crate::ids::AccountId;
use crate::secret::SecretText;
use crate::store::Position;

const POSITION_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// Makes and reads the cursors of one account's list.
pub(super) struct Cursors<'a> {
    /// The first secret signs, all of them verify.
    pub(super) secrets: &'a [SecretText],
    pub(super) account: &'a AccountId,
    /// The name of the list, without its filters.
    pub(super) list: &'a str,
}

impl Cursors<'_> {
    pub(super) fn write(&self, position: Position) -> String {
        let mut bytes = position.time.as_microsecond().to_be_bytes().to_vec();
        bytes.extend_from_slice(position.id.as_bytes());
        let tag = self.mac(&self.secrets[0], &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&tag[..TAG_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cursor that a caller sent back.
    ///
    /// # Errors
    ///
    /// 400 if this list did not give it out.
    pub(super) fn read(&self, text: &str) -> Result<Position, Problem> {
        self.position(text).ok_or_else(|| Problem::malformed("cursor", "is not a next_cursor of this list"))
    }

    fn position(&self, text: &str) -> Option<Position> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == POSITION_BYTES + TAG_BYTES)?;
        let (position, tag) = bytes.split_at(POSITION_BYTES);
        let ours = |secret| self.mac(secret, position).verify_truncated_left(tag).is_ok();
        if !self.secrets.iter().any(ours) {
            return None;
        }
        let (time, id) = position.split_first_chunk::<8>()?;
        let time = Timestamp::from_microsecond(i64::from_be_bytes(*time)).ok()?;
        Some(Position { time, id: Uuid::from_slice(id).ok()? })
    }

    fn mac(&self, secret: &SecretText, position: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes());
        // No part contains a newline, so two different inputs never make one text. Tokens sign other texts with this secret.
        mac.expect("HMAC takes a key of any length")
            .chain_update(format!("cursor\n{}\n{}\n", self.account, self.list))
            .chain_update(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_by_the_list_that_wrote_it_and_by_no_other() {
        let secrets = [SecretText::from("a secret of at least 32 bytes, really")];
        let (ours, theirs) = (AccountId::parse("acc_1").unwrap(), AccountId::parse("acc_2").unwrap());
        let cursors = |account, list| Cursors { secrets: &secrets, account, list };
        let position =
            Position { time: Timestamp::from_microsecond(1_795_428_000_000_001).unwrap(), id: Uuid::from_u128(7) };
        let text = cursors(&ours, "webhooks").write(position);
        assert_eq!(cursors(&ours, "webhooks").position(&text), Some(position));
        assert_eq!(cursors(&theirs, "webhooks").position(&text), None);
        assert_eq!(cursors(&ours, "other").position(&text), None);
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(cursors(&ours, "webhooks").position(&String::from_utf8(changed).unwrap()), None);
        }
        for wrong in ["", "AAAA", "!", "../../x"] {
            assert_eq!(cursors(&ours, "webhooks").position(wrong), None);
        }
    }
}
