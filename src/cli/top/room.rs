//! Divides the rows, or the columns, of the screen among those that share them. Pure.

/// How much of the room one of them needs, and how much it can use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) least: u16,
    pub(super) most: u16,
}

/// What all of them need.
pub(super) fn least(wishes: &[Wish]) -> u16 {
    wishes.iter().fold(0, |sum, wish| sum.saturating_add(wish.least))
}

/// Gives each what it needs. What is left goes to those that can use more, in equal parts; an odd one goes to the first.
pub(super) fn share(room: u16, wishes: &[Wish]) -> Vec<u16> {
    let mut shares: Vec<u16> = wishes.iter().map(|wish| wish.least).collect();
    let mut left = room.saturating_sub(least(wishes));
    while left > 0 {
        let before = left;
        for (share, wish) in shares.iter_mut().zip(wishes) {
            if left > 0 && *share < wish.most {
                (*share, left) = (*share + 1, left - 1);
            }
        }
        if left == before {
            break;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(room: u16, wishes: &[(u16, u16)]) -> Vec<u16> {
        share(room, &wishes.iter().map(|&(least, most)| Wish { least, most }).collect::<Vec<_>>())
    }

    #[test]
    fn what_nobody_needs_is_shared_among_those_that_can_use_it() {
        assert_eq!(shared(10, &[(3, 3), (3, 9), (2, 9)]), [3, 4, 3]);
        assert_eq!(shared(9, &[(3, 3), (3, 9), (2, 9)]), [3, 4, 2]);
        assert_eq!(shared(100, &[(3, 3), (3, 9)]), [3, 9]);
        assert_eq!(shared(2, &[(3, 3)]), [3]);
        assert_eq!(shared(2, &[]), [0; 0]);
    }
}
