//! Whole files, and the matcher against a plain reading of PostgreSQL's documentation.

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};

use proptest::prelude::*;

use super::*;

/// Files in memory.
pub(super) struct Files(BTreeMap<PathBuf, String>);

impl Files {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| (plain(Path::new(path)), (*text).to_owned())).collect())
    }
}

/// Without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    out
}

impl Sources for Files {
    fn read(&self, path: &Path) -> Result<String, String> {
        self.0.get(&plain(path)).cloned().ok_or_else(|| "no such file".into())
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.contains_key(&plain(path))
    }

    fn list(&self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        let directory = plain(directory);
        Ok(self.0.keys().filter(|path| path.parent() == Some(&directory)).cloned().collect())
    }
}

fn load(hba: &str, ident: &str) -> Result<(Hba, Vec<String>), Vec<String>> {
    let files = Files::new(&[("hba", hba), ("ident", ident)]);
    let mut findings = Findings::default();
    let (hba, _) = Hba::load(Path::new("hba"), Some(Path::new("ident")), &files, &mut findings).unwrap();
    let text = |(place, message): Fault| format!("{place}: {message}");
    let faults: Vec<_> = findings.faults.into_iter().map(text).collect();
    match faults.is_empty() {
        true => Ok((hba, findings.warnings.into_iter().map(text).collect())),
        false => Err(faults),
    }
}

fn facts<'c>(address: Option<&str>, user: &'c str, database: &'c str) -> Facts<'c> {
    let address = address.map(|a| a.parse().unwrap());
    Facts { address, tls: false, user, database, route_of: None, physical_replication: false }
}

/// The number of the line that decides, 0 for none.
fn decides(hba: &Hba, facts: &Facts<'_>, answers: &Answers) -> usize {
    match hba.judge(facts, answers) {
        Judgement::Line(line) => line.place.line,
        Judgement::NoLine => 0,
        Judgement::Ask(question) => panic!("{question:?}"),
    }
}

#[test]
fn lines_for_a_database_are_for_its_read_only_route() {
    let (hba, _) = load(
        "local app@ro bob trust\n\
         local app ann reject\n\
         local sameuser all trust\n\
         local /^d\\d$ all reject\n\
         local app@ro all md5\n",
        "",
    )
    .unwrap();
    let none = Answers::default();
    for (user, database, route_of, line) in [
        ("ann", "app", None, 2),
        ("ann", "app@ro", Some("app"), 2),
        ("bob", "app@ro", Some("app"), 1),
        ("bob", "app", None, 0),
        ("app", "app@ro", Some("app"), 3),
        ("x", "d1@ro", Some("d1"), 4),
        ("x", "app@ro", Some("app"), 5),
        // A database that is called so has rules of its own.
        ("ann", "app@ro", None, 5),
        ("x", "d1@ro", None, 0),
    ] {
        let facts = Facts { route_of, ..facts(None, user, database) };
        assert_eq!(decides(&hba, &facts, &none), line, "{facts:?}");
    }
}

#[test]
fn the_first_line_decides() {
    let (hba, _) = load(
        "local all all trust\n\
         host sameuser all 127.0.0.1/32 trust\n\
         host app ann,bob 10.0.0.0/8 reject\n\
         hostssl app all 10.0.0.0 255.0.0.0 md5\n\
         hostnossl app all 10.0.0.0/8 reject\n\
         host /^db\\d+$ /^app_ all scram-sha-256\n\
         host \"all\" \"all\" ::1/128 trust\n\
         host replication rep all md5\n",
        "",
    )
    .unwrap();
    let none = Answers::default();
    for (facts, line) in [
        (facts(None, "x", "y"), 1),
        (facts(Some("127.0.0.1"), "x", "x"), 2),
        (facts(Some("127.0.0.1"), "x", "y"), 0),
        (facts(Some("10.1.1.1"), "bob", "app"), 3),
        (Facts { tls: true, ..facts(Some("10.1.1.1"), "carl", "app") }, 4),
        (facts(Some("10.1.1.1"), "carl", "app"), 5),
        (facts(Some("10.1.1.1"), "Bob", "app"), 5),
        (facts(Some("9.1.1.1"), "app_x", "db12"), 6),
        (facts(Some("9.1.1.1"), "app_x", "db"), 0),
        (facts(Some("::1"), "all", "all"), 7),
        (facts(Some("::1"), "x", "all"), 0),
        (facts(Some("::1"), "rep", "replication"), 0),
        (Facts { physical_replication: true, ..facts(Some("::1"), "rep", "x") }, 8),
        (Facts { physical_replication: true, ..facts(None, "rep", "x") }, 0),
    ] {
        assert_eq!(decides(&hba, &facts, &none), line, "{facts:?}");
    }
}

#[test]
fn only_what_matters_is_asked() {
    let (hba, _) = load(
        "host samerole all 10.0.0.0/8 trust\n\
         host app +staff,ann samenet trust\n\
         host app all .corp.example reject\n\
         host all all samehost trust\n",
        "",
    )
    .unwrap();
    let mut answers = Answers::default();
    let mut asked = Vec::new();
    let facts = facts(Some("9.9.9.9"), "bob", "app");
    let line = loop {
        match hba.judge(&facts, &answers) {
            Judgement::Line(line) => break line.place.line,
            Judgement::NoLine => break 0,
            Judgement::Ask(question) => {
                match &question {
                    Question::Member(role) => drop(answers.members.insert(role.clone(), true)),
                    Question::Interfaces => {
                        let net = Net::of_prefix("9.9.9.1".parse().unwrap(), 25).unwrap();
                        answers.interfaces = Some(vec![net]);
                    }
                    Question::HostName => answers.host_name = Some(Some("a.CORP.example".into())),
                }
                asked.push(question);
            }
        }
    };
    assert_eq!((line, asked), (2, vec![Question::Member("staff".into()), Question::Interfaces]));
    answers.members.insert("staff".into(), false);
    answers.host_name = Some(Some("x.Corp.example".into()));
    assert_eq!(decides(&hba, &facts, &answers), 3);
    answers.host_name = Some(None);
    assert_eq!(decides(&hba, &facts, &answers), 0);
    answers.interfaces = Some(vec![Net::host("9.9.9.9".parse().unwrap())]);
    assert_eq!(decides(&hba, &facts, &answers), 4);
    assert_eq!(decides(&hba, &super::tests::facts(Some("9.9.9.9"), "ann", "app"), &answers), 2);
}

#[test]
fn all_that_is_wrong_is_reported() {
    let bad = [
        "nonsense",
        "host",
        "host a",
        "host a b",
        "host a b 1.2.3.4/8",
        "host a b 1.2.3.4 trust",
        "host a b 1.2.3.4/8 whatever",
        "host a b 1.2.3.4/8 gss",
        "host a b 1.2.3.4/8 peer",
        "host a b 1.2.3.4/8 ident",
        "host a b 1.2.3.4/8 cert",
        "host a b c,d trust",
        "local a b trust,md5",
        "local,host a b trust",
        "local a b trust x",
        "local a b trust x=y",
        "local a b trust map=m",
        "local a b peer map=none",
        "local a b md5 clientcert=verify-ca",
        "hostssl a b all md5 clientcert=1",
        "hostssl a b all cert clientcert=verify-ca",
        "hostssl a b all cert clientname=XX",
        "host a b all ldap",
        "host a b all ldap ldapserver=h ldapfoo=1",
        "host a b all md5 pamservice=x",
        "local a /( trust",
        "local /( a trust",
        "local a + trust",
        "local a \"b trust",
        "local a @none trust",
        "local a b trust jwks=1",
    ];
    let (good, _) = (load("local a b trust", "m a b").unwrap(), ());
    assert_eq!(good.0.lines().len(), 1);
    let faults = load(&bad.join("\n"), "m a b").unwrap_err();
    for (index, line) in bad.iter().enumerate() {
        let place = format!("hba:{}: ", index + 1);
        assert!(faults.iter().any(|fault| fault.starts_with(&place)), "{line}: {faults:?}");
    }
    // Two options of one line.
    assert_eq!(load("local a b trust x=y z", "").unwrap_err().len(), 2);
    assert_eq!(load("local a b trust", "broken").unwrap_err(), ["ident:1: expected MAP SYSTEM-USER DATABASE-USER"]);
}

#[test]
fn every_option() {
    let (hba, warnings) = load(
        "hostssl a b all cert map=m clientname=DN\n\
         hostssl a b all md5 clientcert=verify-ca\n\
         hostssl a b all scram-sha-256 clientcert=verify-full,clientname=CN\n\
         host a b all pam pamservice=carpool\n\
         local a b ident map=m\n\
         hostgssenc a b all trust\n\
         hostnogssenc a b ::ffff:1.2.3.4/128 trust\n\
         host a b 127.0.0.1/32 ldap ldapserver=h ldapprefix=\"cn=\" ldapsuffix=\", dc=x\"\n",
        "m a b",
    )
    .unwrap();
    let of = |n: usize| &hba.lines()[n - 1];
    assert_eq!((of(1).map.as_deref(), of(1).certificate), (Some("m"), ClientCertificate::VerifyFull));
    assert_eq!(of(1).certificate_name, CertificateName::DistinguishedName);
    assert_eq!((&of(2).method, of(2).certificate), (&Method::Md5, ClientCertificate::VerifyCa));
    assert_eq!(
        (of(3).certificate, of(3).certificate_name),
        (ClientCertificate::VerifyFull, CertificateName::CommonName)
    );
    assert_eq!((&of(4).method, &of(5).method), (&Method::Pam("carpool".into()), &Method::Peer));
    let Method::Ldap(ldap) = &of(8).method else { panic!("{:?}", of(8)) };
    assert_eq!(ldap.servers, ["ldap://h:389"]);
    let lines: Vec<_> = warnings.iter().map(|warning| &warning[..5]).collect();
    assert_eq!(lines, ["hba:4", "hba:6", "hba:7"], "{warnings:?}");
}

/// What a generated line says, kept apart from its text.
#[derive(Clone, Debug)]
struct Model {
    kind: &'static str,
    databases: Vec<&'static str>,
    users: Vec<&'static str>,
    /// Network and prefix length.
    net: (u32, u32),
}

const DATABASES: [&str; 6] = ["all", "sameuser", "replication", "a", "b", "\"all\""];
const USERS: [&str; 4] = ["all", "a", "c", "\"all\""];
const NAMES: [&str; 5] = ["a", "b", "c", "all", "replication"];

fn model() -> impl Strategy<Value = Model> {
    let kinds = prop::sample::select(vec!["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"]);
    let databases = prop::collection::vec(prop::sample::select(DATABASES.to_vec()), 1..3);
    let users = prop::collection::vec(prop::sample::select(USERS.to_vec()), 1..3);
    // Few networks, so that many match.
    let net = (0..4_u32, 30..=32_u32);
    (kinds, databases, users, net).prop_map(|(kind, databases, users, net)| Model { kind, databases, users, net })
}

impl Model {
    fn text(&self) -> String {
        let (address, bits) = self.net;
        let address = if self.kind == "local" { String::new() } else { format!("0.0.0.{address}/{bits}") };
        format!("{} {} {} {address} trust", self.kind, self.databases.join(","), self.users.join(","))
    }

    /// By the book.
    fn is_for(&self, facts: &Facts<'_>) -> bool {
        let (address, bits) = self.net;
        let kind = match (self.kind, facts.address) {
            ("local", address) => address.is_none(),
            (_, None) | ("hostgssenc", _) => false,
            ("hostssl", _) => facts.tls,
            ("hostnossl", _) => !facts.tls,
            _ => true,
        };
        let net = match facts.address {
            Some(IpAddr::V4(client)) => client.to_bits() >> (32 - bits) == address >> (32 - bits),
            Some(IpAddr::V6(_)) => false,
            None => true,
        };
        let database = self.databases.iter().any(|word| match (*word, facts.physical_replication) {
            ("replication", replication) => replication,
            (_, true) => false,
            ("all", _) => true,
            ("sameuser", _) => facts.user == facts.database,
            (name, _) => name.trim_matches('"') == facts.database,
        });
        let user = self.users.iter().any(|word| *word == "all" || word.trim_matches('"') == facts.user);
        kind && net && database && user
    }
}

proptest! {
    #[test]
    fn as_the_documentation_says(
        lines in prop::collection::vec(model(), 0..6),
        user in prop::sample::select(NAMES.to_vec()),
        database in prop::sample::select(NAMES.to_vec()),
        address in prop::option::of(0..4_u32),
        (tls, physical_replication) in (any::<bool>(), any::<bool>()),
    ) {
        // Bits as /32 shift by nothing; /0 isn't generated.
        let text: String = lines.iter().map(|line| line.text() + "\n").collect();
        let hba = Hba::parse(&text).unwrap();
        let address = address.map(|address| IpAddr::V4(address.into()));
        let facts = Facts { address, tls: tls && address.is_some(), user, database, route_of: None, physical_replication };
        let expected = lines.iter().position(|line| line.is_for(&facts)).map_or(0, |index| index + 1);
        prop_assert_eq!(decides(&hba, &facts, &Answers::default()), expected, "{}", text);
    }

    #[test]
    fn never_panics(text in "(\\PC|[\n\t,\"@/+#\\\\]|host|local|all|trust|ldap|include| ){0,60}") {
        let _ = Hba::parse(&text);
    }
}
