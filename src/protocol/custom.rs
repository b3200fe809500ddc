//! Parameters with a dot that functions set (`set_config('app.tenant', …)`): no view of PostgreSQL lists them, so what a
//! function does to one can only be asked for by its name. The names are read from the sources of the database's
//! functions, with the classes of these ([`functions`](super::functions)) and forgotten with them.

/// How many names are read from one database's functions.
const MOST: usize = 256;

/// A name with a dot, as a regular expression. Without backslashes: they read otherwise where
/// `standard_conforming_strings` is off.
const NAME: &str = "[a-z_][a-z0-9_$]*(?:[.][a-z_][a-z0-9_$]*)+";

/// Whether a function (`p`) sets a parameter whose name isn't a constant.
pub const SETS_UNNAMED: &str = "p.prosrc OPERATOR(pg_catalog.~*) 'set_config[[:space:]]*[(][[:space:]]*[^''[:space:]]'";

/// Asks for the names and their values. 11 is the schema `pg_catalog`, 12 and 13 the languages that have no source.
#[must_use]
pub fn question() -> String {
    let call = format!("set_config[[:space:]]*[(][[:space:]]*''+({NAME})''");
    let statement =
        format!("(?:^|[^a-z0-9_$.])set[[:space:]]+(?:session[[:space:]]+)?({NAME})[[:space:]]*(?:=|to[^a-z])");
    format!(
        "SELECT 'c',n,pg_catalog.current_setting(n,true) FROM (SELECT DISTINCT \
         pg_catalog.lower(COALESCE(m[1],m[2])) AS n FROM pg_catalog.pg_proc AS p, \
         LATERAL pg_catalog.regexp_matches(p.prosrc,'{call}|{statement}','gi') AS m \
         WHERE p.pronamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid \
         AND p.prolang OPERATOR(pg_catalog.<>) ALL (ARRAY[12,13]::pg_catalog.oid[]) LIMIT {MOST}) AS names"
    )
}
