//! The database and user fields of hba lines, and the users of identity maps.

use super::pattern::Pattern;
use super::tokens::{Field, Token};
use super::{Answers, Facts, Question, Told};

/// One word of a database field.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum DatabaseWord {
    /// `all`, which leaves physical replication out.
    All,
    /// `sameuser`: the database that is called as the user.
    SameUser,
    /// `samerole`: the database that is called as a role which the user is a member of.
    SameRole,
    /// `replication`: physical replication, which has no database.
    Replication,
    /// A name.
    Name(String),
    /// What a name has in it.
    Pattern(Pattern),
}

/// One word of a user field.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum UserWord {
    /// `all`.
    All,
    /// `+role`: its members.
    Members(String),
    /// A name.
    Name(String),
    /// What a name has in it.
    Pattern(Pattern),
}

impl DatabaseWord {
    pub(super) fn field(field: &Field) -> Result<Vec<Self>, String> {
        field.iter().map(Self::read).collect()
    }

    fn read(token: &Token) -> Result<Self, String> {
        Ok(match token.text.as_str() {
            "all" if !token.quoted => Self::All,
            "sameuser" if !token.quoted => Self::SameUser,
            "samerole" | "samegroup" if !token.quoted => Self::SameRole,
            "replication" if !token.quoted => Self::Replication,
            text => match text.strip_prefix('/') {
                Some(pattern) => Self::Pattern(Pattern::parse(pattern)?),
                None => Self::Name(text.to_owned()),
            },
        })
    }

    pub(super) fn judge(&self, facts: &Facts<'_>, answers: &Answers) -> Told {
        if facts.physical_replication {
            return Told::from(*self == Self::Replication);
        }
        let is = |name: &str| name == facts.database || facts.route_of == Some(name);
        match self {
            Self::All => Told::Yes,
            Self::SameUser => Told::from(is(facts.user)),
            Self::SameRole => member(facts.route_of.unwrap_or(facts.database), answers),
            Self::Replication => Told::No,
            Self::Name(name) => Told::from(is(name)),
            Self::Pattern(pattern) => Told::from(
                pattern.is_match(facts.database) || facts.route_of.is_some_and(|base| pattern.is_match(base)),
            ),
        }
    }

    pub(super) fn asks_for_membership(&self) -> bool {
        matches!(self, Self::SameRole)
    }
}

impl UserWord {
    pub(super) fn field(field: &Field) -> Result<Vec<Self>, String> {
        field.iter().map(Self::read).collect()
    }

    pub(super) fn read(token: &Token) -> Result<Self, String> {
        let (text, special) = (token.text.as_str(), !token.quoted);
        if let (Some(role), true) = (text.strip_prefix('+'), special) {
            return if role.is_empty() {
                Err("+ without a role's name".into())
            } else {
                Ok(Self::Members(role.into()))
            };
        }
        Ok(match text.strip_prefix('/') {
            Some(pattern) => Self::Pattern(Pattern::parse(pattern)?),
            None if special && text == "all" => Self::All,
            None => Self::Name(text.to_owned()),
        })
    }

    pub(super) fn judge(&self, user: &str, answers: &Answers) -> Told {
        match self {
            Self::All => Told::Yes,
            Self::Members(role) => member(role, answers),
            Self::Name(name) => Told::from(name == user),
            Self::Pattern(pattern) => Told::from(pattern.is_match(user)),
        }
    }

    pub(super) fn asks_for_membership(&self) -> bool {
        matches!(self, Self::Members(_))
    }
}

/// Whether the user of the connection is a member of a role.
fn member(role: &str, answers: &Answers) -> Told {
    match answers.members.get(role) {
        Some(is_member) => Told::from(*is_member),
        None => Told::Ask(Question::Member(role.to_owned())),
    }
}
