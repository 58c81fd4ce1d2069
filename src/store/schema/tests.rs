use super::*;

fn migrations() -> Vec<Migration> {
    let migration = |name| Migration::unapplied(name, "SELECT 1").unwrap();
    ["V1__first", "V2__second", "V3__third"].map(migration).to_vec()
}

/// As the first of these migrations were applied.
fn applied(count: usize) -> Vec<Applied> {
    let applied = |ours: &Migration| Applied {
        version: ours.version(),
        name: ours.name().into(),
        checksum: ours.checksum().to_string(),
    };
    migrations().iter().take(count).map(applied).collect()
}

fn candidate(name: &str, applied: Vec<Applied>) -> Candidate {
    let taken = if applied.is_empty() { Vec::new() } else { vec!["webhooks".to_owned()] };
    Candidate { name: name.into(), applied, taken, ..Candidate::default() }
}

fn other(version: i32) -> Applied {
    Applied { version, name: "other".into(), checksum: "1".into() }
}

fn judged(candidates: &[Candidate]) -> Result<Option<Home>, StoreError> {
    choose_home(&Found { candidates: candidates.to_vec(), ..Found::default() }, &migrations())
}

fn refused(candidates: &[Candidate]) -> String {
    crate::error_chain(&judged(candidates).unwrap_err())
}

#[test]
fn our_history_is_found_wherever_it_is_on_the_search_path_also_a_newer_one() {
    let newer = [applied(3), vec![other(4)]].concat();
    for (history, version) in [(applied(1), 1), (applied(3), 3), (newer, 4)] {
        let theirs = Candidate { taken: vec![], ..candidate("theirs", vec![other(1)]) };
        let hidden = Candidate { name: "hidden".into(), unreadable: true, ..Candidate::default() };
        let path = [Candidate::default(), theirs, hidden, candidate("ours", history)];
        let home = judged(&path).unwrap().unwrap();
        assert_eq!((home.name.as_str(), home.version), ("ours", Some(version)));
    }
}

#[test]
fn anothers_history_is_refused_whatever_its_versions_are() {
    let theirs = [vec![other(1)], vec![other(9)], vec![other(0), applied(1).remove(0)], vec![other(1), other(2)]];
    for history in theirs {
        let error = refused(&[candidate("public", history.clone())]);
        assert!(error.contains("migrations of another product (V"), "{history:?}: {error}");
        assert!(error.contains("CREATE SCHEMA"), "{error}");
    }
    let altered = [applied(2), vec![other(3)]].concat();
    assert!(refused(&[candidate("public", altered)]).contains("V3__other in the schema public is not"));
}

#[test]
fn a_table_in_our_way_is_refused_only_where_our_tables_would_be_made() {
    let taken = Candidate { name: "public".into(), taken: vec!["events".into()], ..Candidate::default() };
    assert!(refused(std::slice::from_ref(&taken)).contains("a table events of another product"));
    let home = judged(&[candidate("own", vec![]), taken]).unwrap().unwrap();
    assert_eq!((home.name.as_str(), home.version), ("own", None));
    assert_eq!(judged(&[]).unwrap(), None);
}

#[test]
fn a_table_that_statements_would_find_before_ours_is_refused() {
    for history in [vec![], vec![other(1)]] {
        let before = Candidate { taken: vec!["events".into()], ..candidate("shop", history) };
        let error = refused(&[candidate("own", vec![]), before, candidate("public", applied(3))]);
        assert!(error.contains("shop holds a table events of another product and comes before public"), "{error}");
    }
}

#[test]
fn a_history_that_may_not_be_read_is_anothers_unless_nothing_else_can_be_ours() {
    let hidden = Candidate { unreadable: true, ..candidate("public", vec![]) };
    let home = judged(&[Candidate::default(), hidden.clone()]).unwrap().unwrap();
    assert_eq!(home.version, None);
    assert!(refused(&[hidden]).contains("permission denied for table public.refinery_schema_history"));
}
