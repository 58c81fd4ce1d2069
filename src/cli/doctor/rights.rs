//! Whether our role has the rights for its work, and for dropping partitions that are past their retention.

use super::{Check, Deadline};
use crate::config::Retention;
use crate::store::{Rights, Store};

/// One partition of each table expires every day. More than a few mean that they are not dropped.
const FEW: usize = 3;

pub(super) async fn checks(store: &Store, retention: &Retention, deadline: Deadline) -> Vec<Check> {
    let (rights, expired) =
        tokio::join!(deadline.answer(store.rights()), deadline.answer(store.expired_partitions(retention)));
    let dropping = match (&rights, &expired) {
        (Ok(rights), Ok(expired)) => dropping(rights.owner, *expired),
        (Err(error), _) | (_, Err(error)) => {
            Check::fails("retention", error.clone(), "make the tables readable for this role")
        }
    };
    let allowed = match &rights {
        Ok(rights) => allowed(rights),
        Err(error) => Check::fails("rights", error.clone(), "make the tables readable for this role"),
    };
    let path = rights.as_ref().ok().map(search_path);
    [Some(allowed), path, Some(dropping)].into_iter().flatten().collect()
}

fn allowed(rights: &Rights) -> Check {
    let Rights { role, missing, faults, owner, .. } = rights;
    if !missing.is_empty() {
        let detail = format!("{role} lacks {}", missing.join("; "));
        let advice = format!("run `penr-webhooks migrate --grant-to {role}` as the owner of the tables");
        return Check::fails("rights", detail, advice);
    }
    if !faults.is_empty() {
        let advice = "run these statements as a superuser: without them partitions are not made, or not dropped";
        return Check::fails("rights", faults.join("; "), advice);
    }
    let whose = if *owner { "owns the tables" } else { "has what it needs, and owns nothing" };
    Check::ok("rights", format!("{role} {whose}"))
}

fn search_path(rights: &Rights) -> Check {
    match &rights.revokes[..] {
        [] => Check::ok("search_path", "nobody else can make functions there that our sessions would run"),
        revokes => {
            let detail = format!(
                "others can make functions there that run with the rights of our sessions: {}",
                revokes.join("; ")
            );
            Check::warns("search_path", detail, "run these statements as the owner of the schemas or a superuser")
        }
    }
}

fn dropping(owner: bool, expired: usize) -> Check {
    let job = "`penr-webhooks migrate --retention`, once a day as the owner of the tables";
    let detail = match owner {
        true => format!("{expired} days of a table are past their retention; a worker with this role drops them"),
        false => {
            format!("{expired} days of a table are past their retention; this role may not drop them: {job}, does")
        }
    };
    match expired > FEW {
        true => Check::warns("retention", detail, format!("have {job} run, and look at what it says")),
        false => Check::ok("retention", detail),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn rights() -> Rights {
        Rights { role: "app".into(), missing: Vec::new(), faults: Vec::new(), revokes: Vec::new(), owner: false }
    }

    #[test]
    fn a_missing_right_fails_with_the_command_that_gives_it() {
        assert_eq!(allowed(&rights()).status, Status::Ok);
        let check = allowed(&Rights { missing: vec!["INSERT on attempts".into(), "EXECUTE on f".into()], ..rights() });
        assert_eq!(
            (check.status, check.detail.as_str()),
            (Status::Fails, "app lacks INSERT on attempts; EXECUTE on f")
        );
        assert!(check.advice.unwrap().contains("migrate --grant-to app`"));
        let check = allowed(&Rights { faults: vec!["the function f belongs to x".into()], ..rights() });
        assert_eq!(check.status, Status::Fails);
    }

    #[test]
    fn partitions_that_pile_up_are_warned_about_and_the_job_is_named_in_any_case() {
        assert_eq!([dropping(true, 3).status, dropping(false, 3).status], [Status::Ok; 2]);
        assert_eq!([dropping(true, 4).status, dropping(false, 4).status], [Status::Warns; 2]);
        assert!(dropping(false, 0).detail.contains("migrate --retention"));
    }
}
