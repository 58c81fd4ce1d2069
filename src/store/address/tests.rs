use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Address {
    Address::read(text).unwrap_or_else(|error| panic!("{text}: {error:#}"))
}

fn refusal(text: &str) -> String {
    match Address::read(text) {
        Ok(_) => panic!("{text} should be refused"),
        Err(error) => format!("{error:#}"),
    }
}

/// As errors show them.
fn hosts_of(text: &str) -> Vec<String> {
    read(text).hosts.iter().map(ToString::to_string).collect()
}

#[test]
fn hosts_are_found_in_every_spelling() {
    let cases: &[(&str, &[&str])] = &[
        ("postgres://u:p@h/d", &["h:5432"]),
        ("postgresql://u:p@h:5433/d", &["h:5433"]),
        ("postgresql://u@h", &["h:5432"]),
        ("postgresql://h?user=u", &["h:5432"]),
        ("postgresql://u:p@a:1,b:2,c/d", &["a:1", "b:2", "c:5432"]),
        ("postgresql://u:p@a,b:2/d?target_session_attrs=any", &["a:5432", "b:2"]),
        ("postgresql://u:p@a,b/d?port=1,2", &["a:1", "b:2"]),
        ("postgresql://u:p@a,b/d?port=7", &["a:7", "b:7"]),
        ("postgresql:///d?host=a,b&port=1,&user=u", &["a:1", "b:5432"]),
        ("postgresql://u:p@elsewhere:9/d?host=h", &["h:9"]),
        ("postgresql://u:p@[::1]:5433,[2001:db8::1]/d", &["[::1]:5433", "[2001:db8::1]:5432"]),
        ("postgresql://u:p@/d?host=/run/pg&port=5433", &["/run/pg/.s.PGSQL.5433"]),
        ("postgresql://u:p@:5433/d?host=/run/pg", &["/run/pg/.s.PGSQL.5433"]),
        ("postgresql://u:p@%2Frun%2Fpg:5433/d", &["/run/pg/.s.PGSQL.5433"]),
        ("postgresql:///d?host=/run/pg&user=u&password=p", &["/run/pg/.s.PGSQL.5432"]),
        ("postgresql://u@/d?host=/cloudsql/proj:reg:inst", &["/cloudsql/proj:reg:inst/.s.PGSQL.5432"]),
        ("postgresql://u@/d?host=/cloudsql/proj%3Areg%3Ainst", &["/cloudsql/proj:reg:inst/.s.PGSQL.5432"]),
        ("postgresql://u@%2Fcloudsql%2Fproj%3Areg%3Ainst/d", &["/cloudsql/proj:reg:inst/.s.PGSQL.5432"]),
        ("postgresql://u@/d?hostaddr=10.0.0.1", &["10.0.0.1:5432"]),
        ("host=h user=u dbname=d", &["h:5432"]),
        ("  host = 'h' port=5433\n user=u", &["h:5433"]),
        ("host=a,b port=1,2 user=u", &["a:1", "b:2"]),
        ("host=a,b port=1 user=u", &["a:1", "b:1"]),
        ("host=/run/pg user=u", &["/run/pg/.s.PGSQL.5432"]),
        ("host=::1 user=u", &["[::1]:5432"]),
        ("user=u hostaddr=::1,10.0.0.1", &["[::1]:5432", "10.0.0.1:5432"]),
    ];
    for (text, hosts) in cases {
        assert_eq!(hosts_of(text), *hosts, "{text}");
    }
    let [first, second] = &read("host=a,b hostaddr=10.0.0.1, user=u").hosts[..] else { panic!("two hosts") };
    assert_eq!((first.address, second.address), (Some([10, 0, 0, 1].into()), None));
}

#[test]
fn what_the_driver_knows_reaches_it_as_it_was_written() {
    let login = |text: &str| {
        let config = read(text).config;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        [config.get_user().map(str::to_owned), config.get_password().map(text), config.get_dbname().map(str::to_owned)]
            .map(Option::unwrap_or_default)
    };
    for (text, parts) in [
        ("postgres://u:p%40s%2Fs@h/d%40", ["u", "p@s/s", "d@"]),
        ("postgres://me@x.org:p@s:s@h/d", ["me@x.org", "p@s:s", "d"]),
        ("postgres://u:%41%ä +&=[]%5d@h/d", ["u", "A%ä +&=[]]", "d"]),
        ("postgres://u:p@h/d?user=sa@proj.iam", ["sa@proj.iam", "p", "d"]),
        ("postgresql:///d?host=h&user=u&password=p@s", ["u", "p@s", "d"]),
        (r"host=h user=u password='p \'s\\' dbname=d", ["u", r"p 's\", "d"]),
        (r"host=h user=u password=p\ s dbname=d", ["u", "p s", "d"]),
        ("host=h user=u dbname=d password=", ["u", "", "d"]),
        ("host=h password='' user=u dbname=d", ["u", "", "d"]),
    ] {
        assert_eq!(login(text), parts, "{text}");
    }
    let options = "sslmode=verify-full&options=-c%20search_path%3Da%2C%5C%20b+c&sslmode=require";
    let config = read(&format!("postgres://u:p@h/d?{options}")).config;
    assert_eq!(config.get_options(), Some(r"-c search_path=a,\ b+c"));
    let config = read("host=h sslmode=verify-full options='-c search_path=a,b' application_name=mine").config;
    assert_eq!((config.get_options(), config.get_application_name()), (Some("-c search_path=a,b"), Some("mine")));
}

#[test]
fn times_and_probes_are_theirs_or_ours() {
    let config = read("postgres://u:p@h/d").config;
    assert_eq!(config.get_application_name(), Some(APPLICATION));
    assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_secs(10)));
    assert_eq!((config.get_keepalives_idle(), config.get_keepalives_retries()), (Duration::from_secs(10), Some(3)));
    let theirs = "connect_timeout=3&tcp_user_timeout=2500&keepalives_idle=7200&keepalives_count=9&keepalives=0";
    let address = read(&format!("postgres://u:p@h/d?{theirs}&fallback_application_name=x"));
    assert_eq!(address.patience(), Some(Duration::from_secs(3)));
    assert_eq!(address.config.get_tcp_user_timeout(), Some(&Duration::from_millis(2500)));
    assert_eq!(address.config.get_keepalives_idle(), Duration::from_secs(7200));
    assert_eq!((address.config.get_keepalives_retries(), address.config.get_keepalives()), (Some(9), false));
    assert_eq!(address.config.get_application_name(), Some("x"));
}

#[test]
fn one_of_several_hosts_must_take_writes() {
    let attributes = |text: &str| read(text).config.get_target_session_attrs();
    for (text, expected) in [
        ("postgres://u@a/d", TargetSessionAttrs::Any),
        ("postgres://u@a,b/d", TargetSessionAttrs::ReadWrite),
        ("postgres://u@a,b/d?target_session_attrs=any", TargetSessionAttrs::Any),
        ("postgres://u@a/d?target_session_attrs=read-write", TargetSessionAttrs::ReadWrite),
        ("host=a user=u target_session_attrs=primary", TargetSessionAttrs::ReadWrite),
    ] {
        assert_eq!(attributes(text), expected, "{text}");
    }
    for which in ["standby", "prefer-standby", "read-only"] {
        let error = refusal(&format!("postgres://u@a,b/d?target_session_attrs={which}"));
        assert!(error.starts_with(&format!("target_session_attrs={which} is not supported")), "{error}");
    }
}

#[test]
fn a_socket_is_not_encrypted_and_a_host_as_the_mode_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&file, rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap().pem()).unwrap();
    let file = file.to_str().unwrap();
    let mode = |query: &str| {
        let address = read(&format!("postgres://u@h,%2Frun%2Fpg/d?{query}"));
        let modes = address.hosts.iter().map(|target| address.config_for(target, None).get_ssl_mode());
        (modes.collect::<Vec<_>>(), address.sslmode)
    };
    for (query, on_host, named) in [
        ("", SslMode::Prefer, "prefer"),
        ("sslmode=allow", SslMode::Prefer, "prefer"),
        ("sslmode=disable&sslrootcert=/none", SslMode::Disable, "disable"),
        ("sslmode=require", SslMode::Require, "require"),
        ("sslmode=verify-full", SslMode::Require, "verify-full"),
        ("sslrootcert=system", SslMode::Require, "verify-full"),
        (&format!("sslmode=require&sslrootcert={file}"), SslMode::Require, "require"),
        (&format!("sslmode=verify-ca&sslrootcert={file}"), SslMode::Require, "verify-ca"),
        (&format!("sslmode=verify-full&sslrootcert={file}"), SslMode::Require, "verify-full"),
        ("sslmode=require&sslnegotiation=direct", SslMode::Require, "require"),
    ] {
        assert_eq!(mode(query), (vec![on_host, SslMode::Disable], named), "{query}");
    }
}

#[test]
fn what_cannot_be_used_is_named_with_a_right_example() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let of_nothing = format!("postgres://u@h/d?sslmode=verify-full&sslrootcert={}", empty.path().display());
    for (text, says) in [
        ("", "postgresql://user:password@host/name or host="),
        ("s3cret", "postgresql://user:password@host/name or host="),
        ("user:s3cret@host/db", "postgresql://user:password@host/name or host="),
        ("mysql://u:s3cret@h/d", "must begin with postgresql://"),
        ("Postgres://u:s3cret@h/d", "must begin with postgresql://"),
        ("postgres://u:s3cret/x@h/d", "must be written %2F %3F %23"),
        ("postgres://u:s3cret?x@h/d", "must be written %2F %3F %23"),
        ("postgres://u:s3cret#x@h/d", "must be written %2F %3F %23"),
        ("postgres://u:1234#s3cret@h/d", "must be written %2F %3F %23"),
        ("postgres://u:1234/s3cret@h/d", "must be written %2F %3F %23"),
        ("postgres://u:s3cret@h:port/d", "a port is a number, as in host:5432"),
        ("postgres://u:s3cret@h:70000/d", "a port is a number, as in host:5432"),
        ("postgres://u:s3cret@h:0/d", "from 1 to 65535"),
        ("postgres://u:s3cret@::1/d", "stands in brackets"),
        ("postgres://u:s3cret", "a port is a number"),
        ("postgres:///d?user=u", "names no host"),
        ("postgres://u:s3cret@/d", "names no host"),
        ("user=u dbname=d", "names no host"),
        ("postgres://a,,b/d", "has no name"),
        ("host=@abstract user=u", "abstract namespace"),
        ("postgres://u@a,b,c/d?port=1,2", "one port for all hosts, or one for each"),
        ("host=a,b hostaddr=10.0.0.1 user=u", "one address for each host"),
        ("host=h;user=u;password=s3cret;dbname=d", "a host's name may have letters"),
        ("host=h,password=s3cret user=u", "a host's name may have letters"),
        ("host=hpassword='s3cret' user=u", "a host's name may have letters"),
        ("postgres://h;password=s3cret/d", "a host's name may have letters"),
        ("postgres://u:p@/d?host=h%20password%3Ds3cret", "a host's name may have letters"),
        ("host=/run/pg;user=u;password=s3cret", "a socket's folder with"),
        ("postgres://u@h/d?sslmode=verify-full&sslrootcert=/ca.pem;password=s3cret", "sslrootcert with"),
        ("sslmode=require host=h sslrootcert='/ca.pem password=s3cret'", "sslrootcert with"),
        ("host=/run/pg hostaddr=10.0.0.1 user=u", "hostaddr belongs to a host's name"),
        ("postgres://u@[fe80::1%25eth0]/d", "zone"),
        ("host=fe80::1%eth0 user=u", "zone"),
        ("postgres://u:s3cret@h:5432#prod", "must be written %2F %3F %23"),
        ("postgres://h#s3cret", "must be written %2F %3F %23"),
        ("host=a hostaddr=a user=u", "hostaddr must be an IP address, as in hostaddr=10.0.0.1"),
        ("host=a port=s3cret user=u", "as in port=5432"),
        ("postgres://u@h/d?sslmode=s3cret", "sslmode must be disable, prefer, require, verify-ca or verify-full"),
        ("postgres://u@h/d?sslmode=verify-ca", "needs sslrootcert=/folder/ca.pem"),
        ("postgres://u@h/d?sslrootcert=/x", "add sslmode=verify-full"),
        ("postgres://u@h/d?sslmode=require&sslrootcert=system", "needs sslmode=verify-full"),
        ("postgres://u@h/d?sslmode=require&sslrootcert=/none/ca.pem", "/none/ca.pem, which cannot be read"),
        (&of_nothing, "holds no certificate"),
        ("postgres://u@h/d?sslnegotiation=direct", "sslnegotiation=direct needs sslmode=require"),
        (
            "postgres://u@h/d?connect_timeout=soon",
            "its connect_timeout cannot be used; write it as in connect_timeout=5",
        ),
        ("postgres://u@h/d?keepalives_count=s3cret", "as in keepalives_count=3"),
        ("host=h user=u channel_binding=s3cret", "as in channel_binding=require"),
        ("postgres://u@h/d?target_session_attrs=s3cret", "must be read-write, primary or any"),
        ("postgres://u@h/d?sslcert=/x&sslkey=/y", "sslcert is not supported: there are no client certificates"),
        ("postgres://u@h/d?gssencmode=disable", "gssencmode is not supported"),
        ("host=h service=mine", "service is not supported"),
        ("passfile=/x host=h", "passfile is not supported"),
        ("postgres://u:s3cret@h/d?sslmod=require", "no parameter is called sslmod; sslmode is"),
        ("postgres://u:s3cret@h/d?schema=public", "no parameter is called schema"),
        ("host=h password=s3cret conect_timeout=3", "no parameter is called conect_timeout; connect_timeout is"),
        ("host=h password=a s3cret=b", "its parameter 3 is unknown; if your password has a space or &"),
        ("postgres://h/d?password=a&s3cret=b", "its parameter 2 is unknown"),
        ("postgres://u:12/d?s3cret=b@h/d", "its parameter 1 is unknown"),
        ("postgres://h;password=?s3cret=/d", "its parameter 1 is unknown"),
        ("host=h,passwordx s3cret=b", "its parameter 2 is unknown"),
        ("postgres://u:12/d?s3cret=b", "its parameter 1 is unknown"),
        ("postgres://u@h/d?sslmode", "must be pairs"),
        ("host=h user", "stands in single quotes"),
        ("host=h user=u password=s3cret pass", "stands in single quotes"),
        ("postgres://h;password=p@s3cret/d", "must be written %3D"),
        ("host=h:5432 user=u", "as in host=h port=5432"),
        ("host=h password='s3cret", "closing quote"),
        ("postgres://u%ff:p@h/d", "not UTF-8"),
    ] {
        let error = refusal(text);
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains("s3cret") && !error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn pairs_where_a_login_belongs_are_refused_before_the_rest_of_a_password_is_taken_for_a_host() {
    for login in ["h;pass:word=p", ":h;password=p", "h:;password=p"] {
        let error = refusal(&format!("postgres://{login}@s3cret/d"));
        assert!(error.contains("must be written %3D") && !error.contains("s3cret"), "{login}: {error}");
    }
}

#[test]
fn every_key_is_found_and_is_similar_to_itself_alone() {
    for key in ["user", "sslrootcert", "gssencmode", "oauth_client_secret"] {
        assert!(keys::find(key).is_some(), "{key}");
    }
    assert_eq!(keys::similar("ssl_root_cert"), Some("sslrootcert"));
    assert_eq!(keys::similar("SSLMode"), Some("sslmode"));
    assert_eq!(keys::similar("hunter2"), None);
}

/// Stands in every password below.
const MARK: &str = "Zq7Zq7Zq7";

fn addresses() -> impl Strategy<Value = String> {
    // Around the mark everything that may divide an address.
    let password = ("[a-z0-9@:/?#&=%'\\\\,; +]{0,6}", "[a-z0-9@:/?#&=%'\\\\,; +]{0,6}");
    let password = password.prop_map(|(before, after)| format!("{before}{MARK}{after}"));
    let hosts = prop::sample::select(vec!["h", "h:5432", "a:1,b:2", "[::1]:5432", "%2Frun%2Fpg", ""]);
    let query = prop::sample::select(vec![
        "",
        "?sslmode=require",
        "?sslmode=x",
        "?host=/run/pg&port=x",
        "?options=-c%20a%3Db@c",
        "?foo=1",
        "?sslcert=x",
    ]);
    let form = prop::sample::select(vec![0, 1, 2, 3, 4, 5, 6, 7, 8]);
    (password, hosts, query, form).prop_map(|(password, hosts, query, form)| match form {
        0 => format!("postgresql://user:{password}@{hosts}/name{query}"),
        1 => format!("postgres:///name?host=h&user=u&password={password}&connect_timeout=x"),
        2 => format!("host=h user=u password={password} dbname=name sslmode=x"),
        3 => format!("host=h password='{password}' user=u port=x"),
        // What divides pairs elsewhere, or nothing.
        4 => format!("host=h;user=u;password={password};dbname=name"),
        5 => format!("host=h,password={password} user=u"),
        6 => format!("host=/run/pgpassword='{password}' user=u"),
        7 => format!("postgres://h;password={password}/name"),
        _ => format!("postgres://h/name?sslmode=verify-ca&sslrootcert=/ca.pem;password={password}"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_error_and_no_host_shows_a_part_of_a_password(text in addresses(), at: prop::sample::Index, with in "[a-z@:/?#&=' ]?", cut: bool) {
        let mut mutated = text.clone();
        let places: Vec<_> = text.char_indices().filter(|(at, _)| !text[..*at].ends_with("Zq7")).collect();
        let (place, letter) = places[at.index(places.len())];
        if !MARK.contains(letter) {
            mutated.replace_range(place..place + if cut { letter.len_utf8() } else { 0 }, &with);
        }
        // Without its last @, postgres://user:1,password has two hosts, and so has host=h,password=… without its last =.
        let may_be_host = letter == '@' || letter == '=';
        for (text, may_be_host) in [(text, false), (mutated, may_be_host)] {
            let shown = match Address::read(&text) {
                Err(error) => format!("{error:#} {error:?}"),
                Ok(_) if may_be_host => continue,
                Ok(address) => address.hosts.iter().map(|host| format!("{host} {host:?}")).collect(),
            };
            prop_assert!(!shown.contains("Zq7"), "{text}: {shown}");
        }
    }
}
