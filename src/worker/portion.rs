//! Decides how many rows one statement gets. Pure: the caller says how the statement ended.

/// Statements in a row that must end in time before a larger one is tried.
const STEADY: u32 = 8;

/// As many rows as a statement can process in time: half as many after one ran out of time, twice as many after
/// [`STEADY`] that ended in time. At least 1, so that there is always progress.
#[derive(Debug)]
pub(super) struct Portion {
    most: usize,
    size: usize,
    in_time: u32,
}

impl Portion {
    /// Begins with the most rows that a statement ever gets.
    pub(super) fn of(most: usize) -> Self {
        Self { most: most.max(1), size: most.max(1), in_time: 0 }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// A statement ended in time.
    pub(super) fn ended(&mut self) {
        self.in_time += 1;
        if self.in_time >= STEADY {
            *self = Self { most: self.most, size: (self.size * 2).min(self.most), in_time: 0 };
        }
    }

    /// A statement with `tried` rows ran out of time. Several that were begun together with the same size count once.
    pub(super) fn ran_out_of_time(&mut self, tried: usize) {
        *self = Self { most: self.most, size: self.size.min(tried / 2).max(1), in_time: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_halved_down_to_one_and_grows_again_only_after_some_that_ended_in_time() {
        let mut portion = Portion::of(256);
        portion.ran_out_of_time(256);
        portion.ran_out_of_time(256);
        assert_eq!(portion.size(), 128);
        (0..10).for_each(|_| portion.ran_out_of_time(portion.size()));
        assert_eq!(portion.size(), 1);
        (0..STEADY - 1).for_each(|_| portion.ended());
        assert_eq!(portion.size(), 1);
        portion.ended();
        assert_eq!(portion.size(), 2);
        (0..STEADY * 20).for_each(|_| portion.ended());
        assert_eq!(portion.size(), 256);
    }
}
