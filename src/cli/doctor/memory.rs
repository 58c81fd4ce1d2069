//! Whether the events that a worker holds fit into the memory limit of its container or service.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use super::Check;
use crate::config::Settings;

const MIB: u64 = 1024 * 1024;
const KIB: u64 = 1024;

/// Bytes of an idle worker with all its connections.
const IDLE: u64 = 48 * MIB;

/// Bytes that an event in a worker takes beside its body: for its delivery, its request, its result.
const PER_EVENT: u64 = 8 * KIB;

/// How many times an event's body is in memory: as it was read, as it is sent, as it is written to the database, with freed
/// memory that the allocator keeps. Measured with bodies of 1, 16 and 200 KiB.
const COPIES: u64 = 8;

/// Warns if events of a quarter of `event.max_event_bytes`, on average, do not fit. Nobody sends only the largest ones.
const COMMON: u64 = 4;

/// Fails if events of a sixteenth of it, on average, do not fit.
const SMALL: u64 = 16;

pub(super) fn memory(settings: &Settings) -> Check {
    let text = |path: &Path| read_to_string(path).ok();
    let own = text(Path::new("/proc/self/cgroup")).zip(text(Path::new("/proc/self/mountinfo")));
    let limit = own.and_then(|(groups, mounts)| lowest_limit(&groups, &mounts, text));
    let largest = settings.events.max_event_bytes as u64;
    judge(limit, u64::from(settings.worker.prefetch), largest)
}

fn judge(limit: Option<u64>, prefetch: u64, largest: u64) -> Check {
    let Some(limit) = limit else { return Check::ok("memory", "no limit of a control group can be seen from here") };
    let average = average_that_fits(limit, prefetch);
    let shown = format!(
        "limited to {} MiB: fits worker.prefetch = {prefetch} events of {} KiB on average, up to {} KiB are accepted",
        limit / MIB,
        average / KIB,
        largest / KIB
    );
    let wanted = largest / COMMON;
    if average >= wanted {
        return Check::ok("memory", shown);
    }
    let enough = needed(prefetch, wanted).div_ceil(MIB);
    let fewer = limit.saturating_sub(IDLE) / (PER_EVENT + COPIES * wanted);
    let lower = match fewer {
        0 => String::new(),
        fewer => format!(", or lower worker.prefetch to {fewer} and worker.max_in_flight to {}", fewer.div_ceil(2)),
    };
    let advice =
        format!("a worker may be killed: raise the limit to {enough} MiB{lower}, or lower event.max_event_bytes");
    match average < largest / SMALL {
        true => Check::fails("memory", shown, advice),
        false => Check::warns("memory", shown, advice),
    }
}

/// Bytes that a worker needs for `prefetch` events with bodies of `average` bytes.
fn needed(prefetch: u64, average: u64) -> u64 {
    IDLE.saturating_add(prefetch.saturating_mul(PER_EVENT.saturating_add(COPIES.saturating_mul(average))))
}

/// The average body, in bytes, with which a worker needs just `limit` bytes.
fn average_that_fits(limit: u64, prefetch: u64) -> u64 {
    let per_event = limit.saturating_sub(IDLE) / prefetch.max(1);
    per_event.saturating_sub(PER_EVENT) / COPIES
}

/// The two versions of control groups: their type of file system, and the file with the limit.
const VERSIONS: [(&str, &str); 2] = [("cgroup2", "memory.max"), ("cgroup", "memory.limit_in_bytes")];

/// From here on a number means no limit: version 1 then writes its largest number.
const NO_LIMIT: u64 = 1 << 60;

/// The lowest limit, in bytes, of the process's own group and of the visible groups above it, which apply to it, too.
fn lowest_limit(groups: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let of_version = |(kind, file): (&str, &str)| {
        let own = own_group(groups, kind)?;
        let (root, mounted_at) = mounts.lines().find_map(|line| mount(line, kind))?;
        let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
        let below = if below.is_relative() && !own.contains("/..") { below } else { Path::new("") };
        let own: PathBuf = Path::new(mounted_at).join(below);
        let up = own.ancestors().take_while(|group| group.starts_with(mounted_at));
        up.filter_map(|group| read(&group.join(file))?.trim().parse().ok()).filter(|limit| *limit < NO_LIMIT).min()
    };
    VERSIONS.into_iter().filter_map(of_version).min()
}

/// The path of the process's own group. Lines of `/proc/self/cgroup` are `number:controllers:path`; version 2 has number 0
/// and no controllers.
fn own_group<'a>(groups: &'a str, kind: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match kind {
            "cgroup2" => number == "0" && controllers.is_empty(),
            _ => controllers.split(',').any(|controller| controller == "memory"),
        };
        is_it.then_some(path)
    })
}

/// The group that a line of `/proc/self/mountinfo` mounts, and where: fields 4 and 5. Behind the dash are the type, the
/// source and the options of the file system; version 1 names its controllers among the options.
fn mount<'a>(line: &'a str, kind: &str) -> Option<(&'a str, &'a str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, mounted_at) = (fields.next()?, fields.next()?);
    let mut file_system = file_system.split(' ');
    let (its_kind, options) = (file_system.next()?, file_system.nth(1)?);
    let has_memory = kind == "cgroup2" || options.split(',').any(|option| option == "memory");
    (its_kind == kind && has_memory).then_some((root, mounted_at))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::Status;
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate";
    const V1: &str = "31 23 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";

    fn lowest(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        let files: HashMap<&Path, &str> = files.iter().map(|(path, text)| (Path::new(path), *text)).collect();
        lowest_limit(groups, mounts, |path| files.get(path).map(|text| (*text).to_owned()))
    }

    #[test]
    fn the_lowest_limit_of_the_own_group_and_those_above_counts() {
        let files = [
            ("/sys/fs/cgroup/system.slice/penr.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "300\n"),
            ("/sys/fs/cgroup/memory.max", "400\n"),
            ("/sys/fs/memory.max", "1\n"),
        ];
        assert_eq!(lowest("0::/system.slice/penr.service", V2, &files), Some(300));
        assert_eq!(lowest("0::/", V2, &files), Some(400));
        assert_eq!(lowest("0::/../outside", V2, &files), Some(400));
        assert_eq!(lowest("0::/elsewhere", V2, &files[..2]), None);
        assert_eq!(lowest("", V2, &files), None);
    }

    #[test]
    fn a_container_sees_its_own_group_of_version_1_as_the_root() {
        let file = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        let groups = "4:cpu:/docker/abc\n3:hugetlb,memory:/docker/abc\n0::/docker/abc";
        assert_eq!(lowest(groups, V1, &[(file, "67108864\n")]), Some(64 * MIB));
        assert_eq!(lowest(groups, V1, &[(file, "9223372036854771712\n")]), None);
        assert_eq!(lowest("1:cpu:/docker/abc", V1, &[(file, "67108864\n")]), None);
        let below = "/sys/fs/cgroup/memory/below/memory.limit_in_bytes";
        let files = [(file, "67108864"), (below, "1048576")];
        assert_eq!(lowest("3:memory:/docker/abc/below", V1, &files), Some(MIB));
    }

    fn status(limit: u64, prefetch: u64) -> Status {
        judge(Some(limit * MIB), prefetch, 256 * KIB).status
    }

    #[test]
    fn what_is_killed_within_seconds_fails_and_what_common_events_fit_into_is_well() {
        assert_eq!(judge(None, 1000, 256 * KIB).status, Status::Ok);
        assert_eq!([64, 128, 256, 1024].map(|limit| status(limit, 1000)), {
            [Status::Fails, Status::Fails, Status::Warns, Status::Ok]
        });
        assert_eq!([64, 128].map(|limit| status(limit, 100)), [Status::Warns, Status::Ok]);
    }

    #[test]
    fn the_advice_names_what_to_raise_or_lower() {
        let advice = judge(Some(256 * MIB), 1000, 256 * KIB).advice.unwrap();
        assert!(advice.contains("556 MiB") && advice.contains("worker.prefetch to 409"), "{advice}");
        assert!(advice.contains("worker.max_in_flight to 205"), "{advice}");
        let nothing = judge(Some(32 * MIB), 1000, 256 * KIB).advice.unwrap();
        assert!(!nothing.contains("worker.prefetch"), "{nothing}");
    }

    proptest! {
        /// After an operator follows the advice, the check is ok.
        #[test]
        fn what_is_advised_is_enough(limit in 50..4096_u64, prefetch in 1..10_000_u64, largest in 1..1024_u64) {
            let wanted = largest * KIB / COMMON;
            let enough = needed(prefetch, wanted).div_ceil(MIB) * MIB;
            prop_assert_eq!(judge(Some(enough), prefetch, largest * KIB).status, Status::Ok);
            let fewer = (limit * MIB - IDLE) / (PER_EVENT + COPIES * wanted);
            if fewer > 0 {
                prop_assert_eq!(judge(Some(limit * MIB), fewer, largest * KIB).status, Status::Ok);
            }
        }
    }
}
