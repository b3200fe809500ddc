//! The `ldap…` options of hba lines and of `auth_ldap_options`: PostgreSQL's names and rules.

use super::Secret;

/// Where users of a directory are checked, and how they are found there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ldap {
    /// The URLs of the servers (`ldap://HOST:PORT`), tried in this order.
    pub servers: Vec<String>,
    /// Whether TLS begins after the connect (`ldaptls=1`).
    pub starttls: bool,
    /// How a user's entry is found.
    pub mode: LdapMode,
}

/// How a user's entry is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LdapMode {
    /// Its name is the user's between these two.
    Bind {
        /// `ldapprefix`.
        prefix: String,
        /// `ldapsuffix`.
        suffix: String,
    },
    /// It is searched for.
    Search(LdapSearch),
}

/// How a user's entry is searched for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LdapSearch {
    /// `ldapbasedn`.
    pub base: String,
    /// `ldapbinddn`; empty: anonymous.
    pub bind_dn: String,
    /// `ldapbindpasswd`.
    pub bind_password: Secret,
    /// The filter, with `$username` where the user's name goes.
    pub filter: String,
    /// How far below the base.
    pub scope: LdapScope,
}

/// How far below its base a search looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LdapScope {
    /// The base itself.
    Base,
    /// Right below it.
    One,
    /// It and all below it.
    #[default]
    Subtree,
}

/// Options as they are read, one at a time.
#[derive(Default)]
pub(super) struct LdapOptions {
    servers: Vec<String>,
    port: Option<u16>,
    scheme: Option<String>,
    starttls: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    bind_dn: Option<String>,
    bind_password: Option<String>,
    attribute: Option<String>,
    filter: Option<String>,
    scope: LdapScope,
}

impl LdapOptions {
    /// Takes an option. Gives whether it is one of these.
    ///
    /// # Errors
    /// What is wrong with its value, which never shows: it may be a password.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let text = Some(value.to_owned());
        match name {
            "ldapurl" => self.url(value)?,
            "ldapserver" => self.servers = value.split_ascii_whitespace().map(str::to_owned).collect(),
            "ldapport" => self.port = Some(port(value)?),
            "ldapscheme" => self.scheme = Some(scheme(value)?),
            "ldaptls" => self.starttls = value == "1",
            "ldapprefix" => self.prefix = text,
            "ldapsuffix" => self.suffix = text,
            "ldapbasedn" => self.base = text,
            "ldapbinddn" => self.bind_dn = text,
            "ldapbindpasswd" => self.bind_password = text,
            "ldapsearchattribute" => self.attribute = text,
            "ldapsearchfilter" => self.filter = text,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `ldap://HOST[:PORT]/BASE[?ATTRIBUTE[?SCOPE[?FILTER]]]`.
    fn url(&mut self, url: &str) -> Result<(), String> {
        let (given, rest) = url.split_once("://").ok_or("ldapurl must be ldap://HOST/BASE?ATTRIBUTE?SCOPE?FILTER")?;
        self.scheme = Some(scheme(&given.to_ascii_lowercase())?);
        let (address, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, number) = match address.rsplit_once(':') {
            Some((host, number)) if !number.contains(']') => (host, Some(port(number)?)),
            _ => (address, None),
        };
        self.servers = (!host.is_empty()).then(|| decode(host)).transpose()?.into_iter().collect();
        self.port = number;
        let mut parts = rest.splitn(5, '?');
        let mut part = || parts.next().filter(|part| !part.is_empty()).map(decode).transpose();
        self.base = part()?;
        // Of several attributes the first is used.
        self.attribute = part()?.map(|list| list.split(',').next().unwrap_or_default().to_owned());
        self.scope = match part()?.as_deref() {
            None | Some("base") => LdapScope::Base,
            Some("one" | "onelevel") => LdapScope::One,
            Some("sub" | "subtree") => LdapScope::Subtree,
            Some(_) => return Err("the scope in ldapurl must be base, one or sub".into()),
        };
        self.filter = part()?;
        Ok(())
    }

    /// Puts the options together.
    ///
    /// # Errors
    /// What is missing, or doesn't go together.
    pub(super) fn finish(self) -> Result<Ldap, String> {
        const MIXED: &str = "ldapprefix and ldapsuffix can't be mixed with ldapbasedn, ldapbinddn, ldapbindpasswd, \
                             ldapsearchattribute, ldapsearchfilter or ldapurl's search";
        let searches = self.base.is_some()
            || self.bind_dn.is_some()
            || self.bind_password.is_some()
            || self.attribute.is_some()
            || self.filter.is_some();
        let binds = self.prefix.is_some() || self.suffix.is_some();
        if self.servers.is_empty() {
            return Err("ldap needs ldapserver (or a host in ldapurl); servers aren't looked up in the DNS".into());
        }
        let scheme = self.scheme.as_deref().unwrap_or("ldap");
        if self.starttls && scheme == "ldaps" {
            return Err("ldaptls=1 can't be combined with ldaps, which is TLS from the start".into());
        }
        let port = self.port.unwrap_or(if scheme == "ldaps" { 636 } else { 389 });
        let url = |server: &String| match server.rsplit_once(':') {
            Some((_, own)) if own.bytes().all(|b| b.is_ascii_digit()) && !server.ends_with("::") => {
                format!("{scheme}://{server}")
            }
            _ => format!("{scheme}://{server}:{port}"),
        };
        let mode = match (binds, searches) {
            (true, true) => return Err(MIXED.into()),
            (false, false) => return Err("ldap needs ldapbasedn, ldapprefix or ldapsuffix".into()),
            (true, false) => {
                LdapMode::Bind { prefix: self.prefix.unwrap_or_default(), suffix: self.suffix.unwrap_or_default() }
            }
            (false, true) => {
                let base = self.base.ok_or("ldap needs ldapbasedn, ldapprefix or ldapsuffix")?;
                let filter = match (self.attribute, self.filter) {
                    (Some(_), Some(_)) => {
                        return Err("ldapsearchattribute can't be used together with ldapsearchfilter".into());
                    }
                    (None, Some(filter)) if filter.starts_with('(') => filter,
                    (None, Some(filter)) => format!("({filter})"),
                    (attribute, None) => format!("({}=$username)", attribute.as_deref().unwrap_or("uid")),
                };
                let bind_password = Secret::new(&self.bind_password.unwrap_or_default());
                let bind_dn = self.bind_dn.unwrap_or_default();
                LdapMode::Search(LdapSearch { base, bind_dn, bind_password, filter, scope: self.scope })
            }
        };
        Ok(Ldap { servers: self.servers.iter().map(url).collect(), starttls: self.starttls, mode })
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| "the LDAP port must be a number from 1 to 65535".into())
}

fn scheme(text: &str) -> Result<String, String> {
    match text {
        "ldap" | "ldaps" => Ok(text.to_owned()),
        _ => Err("the LDAP scheme must be ldap or ldaps".into()),
    }
}

fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            #[expect(clippy::cast_possible_truncation, reason = "two digits make a byte")]
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err("ldapurl has a % without two hexadecimal digits".into()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "ldapurl isn't UTF-8 text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Ldap, String> {
        let mut read = LdapOptions::default();
        for (name, value) in options {
            assert!(read.take(name, value)?, "{name}");
        }
        read.finish()
    }

    fn search(options: &[(&str, &str)]) -> (Vec<String>, LdapSearch) {
        match parse(options).unwrap() {
            Ldap { servers, mode: LdapMode::Search(search), .. } => (servers, search),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_modes() {
        let ldap = parse(&[("ldapserver", "a b:390"), ("ldapprefix", "cn="), ("ldapsuffix", ",dc=x")]).unwrap();
        assert_eq!(ldap.servers, ["ldap://a:389", "ldap://b:390"]);
        assert_eq!(ldap.mode, LdapMode::Bind { prefix: "cn=".into(), suffix: ",dc=x".into() });
        let (servers, found) = search(&[("ldapserver", "h"), ("ldapscheme", "ldaps"), ("ldapbasedn", "dc=x")]);
        assert_eq!(servers, ["ldaps://h:636"]);
        assert_eq!((found.filter.as_str(), found.scope), ("(uid=$username)", LdapScope::Subtree));
        let (_, found) = search(&[("ldapserver", "h"), ("ldapbasedn", "dc=x"), ("ldapsearchattribute", "mail")]);
        assert_eq!(found.filter, "(mail=$username)");
    }

    #[test]
    fn urls() {
        let (servers, found) = search(&[("ldapurl", "ldap://h:10389/dc=a%20b,dc=c?uid,cn?sub")]);
        assert_eq!(servers, ["ldap://h:10389"]);
        let all = (found.base.as_str(), found.filter.as_str(), found.scope);
        assert_eq!(all, ("dc=a b,dc=c", "(uid=$username)", LdapScope::Subtree));
        let (servers, found) = search(&[("ldapurl", "LDAPS://[::1]/dc=x???(&(a=1)(uid=$username))")]);
        assert_eq!((servers, found.scope), (vec!["ldaps://[::1]:636".to_owned()], LdapScope::Base));
        assert_eq!(found.filter, "(&(a=1)(uid=$username))");
        for bad in ["h/dc=x", "http://h/x", "ldap://h:0/x", "ldap://h/x??far", "ldap://h/%zz", "ldap://h/%ff"] {
            let error = parse(&[("ldapurl", bad)]).unwrap_err();
            assert!(!error.contains(bad), "{error}");
        }
    }

    #[test]
    fn what_does_not_go_together() {
        let server = ("ldapserver", "h");
        for (options, part) in [
            (&[("ldapprefix", "x")][..], "needs ldapserver"),
            (&[server], "needs ldapbasedn"),
            (&[server, ("ldapbinddn", "x")], "needs ldapbasedn"),
            (&[server, ("ldapprefix", "x"), ("ldapbasedn", "y")], "can't be mixed"),
            (
                &[server, ("ldapbasedn", "x"), ("ldapsearchattribute", "a"), ("ldapsearchfilter", "b")],
                "can't be used together",
            ),
            (&[server, ("ldapbasedn", "x"), ("ldaptls", "1"), ("ldapscheme", "ldaps")], "can't be combined"),
            (&[server, ("ldapscheme", "x")], "scheme"),
        ] {
            let error = parse(options).unwrap_err();
            assert!(error.contains(part), "{options:?}: {error}");
        }
    }

    #[test]
    fn the_password_never_shows() {
        let ldap = parse(&[("ldapserver", "h"), ("ldapbasedn", "x"), ("ldapbindpasswd", "geheim")]).unwrap();
        assert!(!format!("{ldap:?}").contains("geheim"));
    }
}
