//! Embeds the SQL files of `migrations/`, which `migrate` applies in the order of their versions.
//!
//! A migration that was released is never edited: databases that have it would differ from new ones, and `migrate` refuses
//! a history with another checksum.

use refinery::{Migration, Runner};

mod embedded {
    refinery::embed_migrations!("src/store/migrations");
}

/// Applies the migrations that a database lacks, each in a transaction of its own.
pub(super) fn runner() -> Runner {
    embedded::migrations::runner()
}

/// All migrations of this program.
pub(super) fn all() -> Vec<Migration> {
    runner().get_migrations().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version and the checksum of each released migration. Add a migration here when it is released.
    const RELEASED: [(i32, u64); 16] = [
        (1, 7325152237251624401),
        (2, 8385304903333994969),
        (3, 17836971776923424035),
        (4, 17151565438852382344),
        (5, 104552999383046302),
        (6, 10930623013176781754),
        (7, 4041238951376938690),
        (8, 1216419429989471050),
        (9, 10892637067749785815),
        (10, 8402021764994549487),
        (11, 9872342976341893969),
        (12, 5227642167699268289),
        (13, 17955919312314237370),
        (14, 14801991149665727627),
        (15, 4583731307451308341),
        (16, 1659850252136641289),
    ];

    #[test]
    fn released_migrations_are_never_edited() {
        let ours: Vec<(i32, u64)> = all().iter().map(|ours| (ours.version(), ours.checksum())).collect();
        for released in RELEASED {
            assert!(
                ours.contains(&released),
                "V{} was edited: add a new migration instead; there are {ours:?}",
                released.0
            );
        }
        assert!(ours.len() <= RELEASED.len() + 1, "add all migrations but the newest to RELEASED: {ours:?}");
    }
}
