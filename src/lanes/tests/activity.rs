use super::*;
use crate::lanes::activity::{Activity, LaneActivity, PERIOD};

#[test]
fn a_lane_counts_until_the_end_of_the_period_after_its_last_work() {
    const MOMENT: Duration = Duration::from_nanos(1);
    let (mut activity, start) = (Activity::default(), Instant::now());
    let mut lanes = [(); 3].map(|()| LaneActivity::default());
    activity.begin_period(start);
    for lane in &mut lanes {
        activity.note(lane, true);
    }
    for lane in &mut lanes[1..] {
        activity.note(lane, false);
    }
    assert_eq!(lanes.each_ref().map(LaneActivity::has_work), [true, false, false]);
    let mut lanes_at = |time: Instant| {
        activity.begin_period(time);
        activity.lanes()
    };
    assert_eq!(lanes_at(start + PERIOD), 3);
    assert_eq!(lanes_at(start + 2 * PERIOD - MOMENT), 3);
    assert_eq!(lanes_at(start + 2 * PERIOD), 1);
}
