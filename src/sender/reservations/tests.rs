use super::*;

use proptest::prelude::*;

const IDLE: Duration = Duration::from_secs(10);

fn places(total: usize, per_host: usize) -> (Reservations, Instant) {
    let now = Instant::now();
    (Reservations::new(ReservationLimits { total, per_host, longest_idle: 2 * IDLE }, now), now)
}

#[test]
fn hosts_that_come_once_leave_half_of_the_places_to_those_that_come_again() {
    let (mut places, now) = places(10, 4);
    let admitted = (0..100).filter(|host| places.enter(*host, now)).count();
    assert_eq!(admitted, 5);
    let again = (90..100).filter(|host| places.enter(*host, now)).count();
    assert_eq!(again, 5);
    assert!(!places.enter(1000, now));
    assert!((0..5).all(|host| {
        places.leave(host, now);
        places.enter(host, now)
    }));
}

#[test]
fn places_are_free_again_once_no_connection_can_be_idle_any_more() {
    let (mut places, now) = places(2, 4);
    assert!(places.enter(1, now) && places.enter(1, now));
    assert!(!places.enter(2, now) && !places.enter(2, now));
    places.leave(1, now);
    places.leave(1, now);
    // Those of the first window may still be open at the beginning of the second.
    assert!(!places.enter(2, now + 2 * IDLE) && !places.enter(2, now + 3 * IDLE));
    assert!(places.enter(2, now + 4 * IDLE) && places.enter(2, now + 4 * IDLE));
    // Nobody came for long, but both requests were in flight until now.
    let later = now + 40 * IDLE;
    places.leave(2, later);
    assert!(!places.enter(3, later) && !places.enter(3, later));
    let later = later + 4 * IDLE;
    let admitted = (0..5).filter(|_| places.enter(3, later)).count();
    assert_eq!(admitted, 1, "one request of the second host is still in flight");
}

#[test]
fn without_a_pool_nobody_uses_it() {
    let (mut none_per_host, now) = places(10, 0);
    assert!(!none_per_host.enter(1, now));
    let (mut none, now) = places(0, 10);
    assert!(!none.enter(1, now));
}

/// What the HTTP client does with the connections of one host: closes none before it must.
#[derive(Default)]
struct Pool {
    in_use: usize,
    idle_since: Vec<Instant>,
}

impl Pool {
    fn begin(&mut self, now: Instant) {
        // What was idle for too long is closed when it is come upon, the one used last first.
        while self.idle_since.pop().is_some_and(|since| now - since > IDLE) {}
        self.in_use += 1;
    }

    fn end(&mut self, per_host: usize, now: Instant) {
        self.in_use -= 1;
        if self.idle_since.len() < per_host {
            self.idle_since.push(now);
        }
    }

    fn open(&mut self, now: Instant) -> usize {
        self.idle_since.retain(|since| now - *since <= 2 * IDLE);
        self.in_use + self.idle_since.len()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin(u64),
    End(u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8u64).prop_map(Step::Begin),
        4 => (0..8u64).prop_map(Step::End),
        1 => (0..45u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_never_has_more_connections_open_than_there_are_places(
        steps in prop::collection::vec(step(), 0..300),
        total in 1..12usize,
        per_host in 1..5usize,
    ) {
        let (mut places, mut now) = places(total, per_host);
        let mut pools: HashMap<u64, Pool> = HashMap::new();
        for step in steps {
            match step {
                Step::Begin(host) if places.enter(host, now) => pools.entry(host).or_default().begin(now),
                Step::Begin(_) => {}
                Step::End(host) => {
                    if let Some(pool) = pools.get_mut(&host).filter(|pool| pool.in_use > 0) {
                        pool.end(per_host, now);
                        places.leave(host, now);
                    }
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
            }
            // Requests beyond `per_host` are bounded by whoever makes them.
            let kept: usize = pools.values_mut().map(|pool| pool.open(now).min(per_host)).sum();
            prop_assert!(kept <= total, "{kept} open, {total} places");
        }
    }
}
