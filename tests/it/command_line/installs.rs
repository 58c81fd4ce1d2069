//! `make install`: the program, its man pages and its completions.

use std::process::Command;

#[test]
fn make_install_puts_man_pages_and_completions_beside_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let stage = folder.path().to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_penr-webhooks");
    let mut make = Command::new("make");
    make.current_dir(env!("CARGO_MANIFEST_DIR")).args(["install", "PREFIX=/usr", &format!("BINARY={program}")]);
    // Without any setting: a package is built where there are none.
    let output = make.arg(format!("DESTDIR={stage}")).env_remove("DATABASE_URL").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |path: &str| std::fs::read_to_string(folder.path().join("usr").join(path)).expect(path);
    assert!(folder.path().join("usr/bin/penr-webhooks").exists());
    assert!(read("share/man/man1/penr-webhooks-webhooks-list.1").contains("all\\-accounts"));
    assert!(read("share/man/man1/penr-webhooks.1").contains("dead\\-letters"));
    for completions in [
        "share/bash-completion/completions/penr-webhooks",
        "share/zsh/site-functions/_penr-webhooks",
        "share/fish/vendor_completions.d/penr-webhooks.fish",
    ] {
        assert!(read(completions).contains("all-accounts"), "{completions}");
    }
    let bash = format!("{stage}/usr/share/bash-completion/completions/penr-webhooks");
    let checked = Command::new("bash").args(["-n", &bash]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
