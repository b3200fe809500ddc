//! Passwords that PAM knows. Services stand in a directory that only root can write to, so as anybody else there is
//! nothing to test.

use super::{Rules, told, with_password};

/// A service's file, removed at the end.
struct Service(String);

impl Service {
    fn new(name: &str, lines: &str) -> Option<Self> {
        let path = format!("/etc/pam.d/{name}");
        std::fs::write(&path, lines).ok().map(|()| Self(path))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_service_decides() {
    let name = format!("carpool-test-{}", std::process::id());
    // The password comes on standard input, ended by a NUL.
    let check =
        "auth required pam_exec.so quiet expose_authtok /usr/bin/grep -qz ^right$\naccount required pam_permit.so\n";
    let (Some(_service), Some(_denied)) =
        (Service::new(&name, check), Service::new(&format!("{name}-deny"), "auth required pam_deny.so\n"))
    else {
        eprintln!("skipped: /etc/pam.d can't be written");
        return;
    };
    let hba = format!("host all app all pam pamservice={name}\nhost all all all pam pamservice={name}-deny\n");
    let rules = Rules::start(&hba, "", "", "");
    let database = rules.carpool.database.clone();
    let login = |user: &str, password: &str| with_password(&rules.carpool, user, &database, password);
    assert!(login("app", "right").is_none(), "{}", rules.carpool.log());
    for (user, password) in [("app", "wrong"), ("postgres", "right")] {
        let text = format!("PAM authentication failed for user \"{user}\"");
        assert_eq!(told(&login(user, password).unwrap()), ("28000".to_owned(), text));
    }
    assert!(!rules.carpool.log().contains("right"));
}
