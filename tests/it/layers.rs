//! The order of `src/`: each module imports only from lower layers, and the lowest three are pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The layers, lowest first. Within layer 0 a module may use those that stand before it; elsewhere modules of
/// one layer don't know each other.
const LAYERS: [&[&str]; 11] = [
    &["error", "names", "tls", "config", "stats"],
    &["wire"],
    &["protocol", "auth"],
    &["net"],
    &["server"],
    &["cluster"],
    &["pool"],
    &["client"],
    &["admin"],
    &["pooler", "top", "ready", "replay", "advise"],
    // What tests drive all the rest with.
    &["simulation", "fuzzing"],
];

/// The roots see everything.
const ROOTS: [&str; 2] = ["main", "lib"];

/// Layers up to this one are pure.
const LAST_PURE: usize = 2;

/// Further pure files, above those layers.
const ALSO_PURE: [&str; 3] = ["pool/queue.rs", "cluster/hosts.rs", "client/secrets/book.rs"];

/// What pure code doesn't mention.
const IMPURE: [&str; 8] =
    ["tokio", "TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "Instant::now", "SystemTime::now"];

/// One source file without its comments, string contents and tests.
struct Source {
    /// Relative to `src`.
    path: PathBuf,
    /// Names of the modules that lead to it.
    modules: Vec<String>,
    code: String,
}

impl Source {
    fn top(&self) -> &str {
        &self.modules[0]
    }

    fn at(&self, offset: usize) -> String {
        let line = self.code[..offset].matches('\n').count() + 1;
        format!("src/{}:{line}", self.path.display())
    }
}

/// Every source file of the crate but for those that hold only tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut dirs, mut found) = (vec![root.clone()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && path.file_stem().is_some_and(|s| s != "tests") {
                let text = std::fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_owned();
                let mut modules: Vec<String> =
                    path.with_extension("").iter().map(|part| part.to_string_lossy().into()).collect();
                if modules.last().is_some_and(|m| m == "mod") {
                    modules.pop();
                }
                found.push(Source { path, modules, code: without_tests(&blanked(&text)) });
            }
        }
    }
    assert!(found.len() > 20, "only {} source files", found.len());
    found
}

/// The text with comments and the insides of strings blanked out, of the same length and with the same lines.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let blank = |out: &mut Vec<u8>, range: std::ops::Range<usize>| {
        out[range].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
    };
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let (skip, end) = if rest.starts_with(b"//") {
            (0, rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()))
        } else if rest.starts_with(b"/*") {
            (0, find(rest, b"*/").map_or(rest.len(), |i| i + 2))
        } else if rest.starts_with(b"r#\"") {
            (3, 3 + find(&rest[3..], b"\"#").unwrap_or(rest.len() - 3))
        } else if rest[0] == b'"' {
            (1, string_end(rest))
        } else if rest.starts_with(b"'\"'") || rest.starts_with(b"'\\") {
            (0, 3)
        } else {
            at += 1;
            continue;
        };
        let end = end.min(rest.len());
        blank(&mut out, at + skip.min(end)..at + end);
        at += (end + usize::from(skip > 0)).max(1);
    }
    String::from_utf8(out).unwrap()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Where the string that begins here has its closing quote.
fn string_end(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at
}

/// Blanks each `#[cfg(test)]` item that has a body.
fn without_tests(code: &str) -> String {
    let mut code = code.to_owned();
    while let Some(at) = code.find("#[cfg(test)]") {
        let open = code[at..].find(['{', ';']).map_or(code.len() - 1, |i| at + i);
        let mut end = open;
        if code.as_bytes()[open] == b'{' {
            let mut depth = 0;
            for (i, byte) in code.bytes().enumerate().skip(open) {
                depth += i32::from(byte == b'{') - i32::from(byte == b'}');
                end = i;
                if depth == 0 {
                    break;
                }
            }
        }
        let blank: String = code[at..=end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(at..=end, &blank);
    }
    code
}

/// The top modules that this file names in paths, with where. `crate::x`, `crate::{x::…, y}`, and chains of
/// `super` that lead to the root.
fn imports(source: &Source) -> Vec<(String, usize)> {
    let code = &source.code;
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if at > 0 && code.as_bytes()[at - 1] == b'$' {
            continue;
        }
        found.extend(heads(&code[at + "crate::".len()..]).into_iter().map(|name| (name, at)));
    }
    let chain = "super::".repeat(source.modules.len());
    for (at, _) in code.match_indices(&chain) {
        found.extend(heads(&code[at + chain.len()..]).into_iter().map(|name| (name, at)));
    }
    found
}

/// The first names of the paths that begin here: one, or those of a braced list.
fn heads(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(list) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut names, mut begin) = (1, Vec::new(), 0);
    for (i, c) in list.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if (c == ',' && depth == 1) || depth == 0 {
            names.push(name(list[begin..i].trim_start()));
            begin = i + 1;
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|n| !n.is_empty());
    names
}

fn layer(module: &str) -> Option<(usize, usize)> {
    LAYERS.iter().enumerate().find_map(|(l, names)| Some((l, names.iter().position(|n| *n == module)?)))
}

fn allowed(from: &str, to: &str) -> bool {
    let (Some((from_layer, from_place)), Some((to_layer, to_place))) = (layer(from), layer(to)) else {
        return false;
    };
    from == to || to_layer < from_layer || (from_layer == 0 && to_layer == 0 && to_place < from_place)
}

#[test]
fn modules_import_only_lower_layers() {
    let sources = sources();
    let mut wrong = String::new();
    let mut edges: BTreeMap<(String, String), usize> = BTreeMap::new();
    for source in sources.iter().filter(|s| !ROOTS.contains(&s.top())) {
        if layer(source.top()).is_none() {
            writeln!(wrong, "src/{}: {} is in no layer", source.path.display(), source.top()).unwrap();
        }
        for (to, offset) in imports(source) {
            *edges.entry((source.top().to_owned(), to.clone())).or_default() += 1;
            if !allowed(source.top(), &to) {
                writeln!(wrong, "{}: {} imports {to}", source.at(offset), source.top()).unwrap();
            }
        }
    }
    assert!(edges.len() > 20, "the scan sees hardly any import: {edges:?}");
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn the_lowest_layers_are_pure() {
    let mut wrong = String::new();
    let pure = |source: &Source| {
        layer(source.top()).is_some_and(|(l, _)| l <= LAST_PURE) || ALSO_PURE.iter().any(|p| source.path.ends_with(p))
    };
    let sources: Vec<_> = sources().into_iter().filter(pure).collect();
    assert!(sources.len() > 10, "only {} pure files", sources.len());
    for source in &sources {
        for word in IMPURE {
            for (offset, _) in source.code.match_indices(word) {
                writeln!(wrong, "{}: {word}", source.at(offset)).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// What the simulation runs: time, chance and tasks come from `net::world` there.
const SIMULATED: [&str; 5] = ["server", "cluster", "pool", "client", "pooler"];

/// What would come from elsewhere, and what is used in its place.
const OUTSIDE: [(&str, &str); 8] = [
    ("Instant::now", "world::now"),
    ("SystemTime::now", "world::time_of_day"),
    (".elapsed()", "world::now"),
    ("tokio::spawn", "world::spawn"),
    ("task::spawn(", "world::spawn"),
    ("rand::rng", "world::rng"),
    ("rand::random", "world::rng"),
    ("thread_rng", "world::rng"),
];

/// Files of which no part runs in a simulation: their tasks are another runtime's.
const NOT_SIMULATED: [&str; 1] = ["client/access/ldap.rs"];

fn nondeterminism(sources: &[Source]) -> String {
    let mut wrong = String::new();
    let simulated = |source: &&Source| {
        SIMULATED.contains(&source.top()) && !NOT_SIMULATED.iter().any(|path| source.path.ends_with(path))
    };
    for source in sources.iter().filter(simulated) {
        for (word, instead) in OUTSIDE {
            for (offset, _) in source.code.match_indices(word) {
                writeln!(
                    wrong,
                    "{}: {word}: use net::{instead}, so that a simulation runs the same each time",
                    source.at(offset)
                )
                .unwrap();
            }
        }
    }
    wrong
}

#[test]
fn what_is_simulated_takes_nothing_from_outside() {
    let sources = sources();
    for path in NOT_SIMULATED {
        assert!(sources.iter().any(|source| source.path.ends_with(path)), "{path} isn't there any more");
    }
    let wrong = nondeterminism(&sources);
    assert!(wrong.is_empty(), "\n{wrong}");
    let text = "fn f() { let a = Instant::now(); }\n#[cfg(test)]\nmod tests { fn g() { Instant::now(); } }\n";
    let source = |path: &str| Source {
        path: path.into(),
        modules: Path::new(path).with_extension("").iter().map(|part| part.to_string_lossy().into()).collect(),
        code: without_tests(&blanked(text)),
    };
    let wrong = nondeterminism(&[source("pool/queue.rs"), source("net/world.rs"), source("client/access/ldap.rs")]);
    assert_eq!((wrong.lines().count(), wrong.starts_with("src/pool/queue.rs:1: ")), (1, true), "{wrong}");
}

#[test]
fn the_scan_sees_what_it_should() {
    let file = |path: &str, text: &str| {
        let modules = Path::new(path).with_extension("").iter().map(|p| p.to_string_lossy().into()).collect();
        Source { path: path.into(), modules, code: without_tests(&blanked(text)) }
    };
    let names = |source: &Source| imports(source).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let text = "use crate::{\n    names::{A, B},\n    error,\n};\n// crate::pool\nlet x = \"crate::pool {\";\n\
                fn f(x: crate::net::Peer) { g('\"', super::super::client::x()) }\n\
                #[cfg(test)]\nmod tests { use crate::pooler; fn f() {} }\nuse crate::wire;\n";
    assert_eq!(names(&file("server/connect.rs", text)), ["names", "error", "net", "wire", "client"]);
    assert_eq!(names(&file("server.rs", "use super::pool::x;")), ["pool"]);
    assert!(allowed("config", "names") && !allowed("names", "config"));
    assert!(allowed("client", "pool") && !allowed("pool", "client"));
    assert!(!allowed("auth", "protocol") && !allowed("pool", "unknown"));
}

/// Where secrets of clients are compared, and the words that stand for them.
const COMPARED_IN: [&str; 4] = ["auth/md5.rs", "auth/client.rs", "auth/scram/mod.rs", "client/registry.rs"];
const SECRETS: [&str; 7] = ["expose()", "proof", "stored_key", "server_key", "password", ".secret", "signature"];

#[test]
fn secrets_are_compared_in_constant_time() {
    let sources = sources();
    for path in COMPARED_IN {
        let source = sources.iter().find(|source| source.path == Path::new(path)).unwrap();
        assert!(source.code.contains("ct_eq"), "src/{path} has no comparison in constant time");
    }
    let where_logins_are_checked =
        |source: &&Source| source.top() == "auth" || source.path.ends_with("client/registry.rs");
    for source in sources.iter().filter(where_logins_are_checked) {
        for (number, line) in source.code.lines().enumerate() {
            for part in line.split("&&").flat_map(|part| part.split("||")) {
                let compares = part.contains("==") || part.contains("!=");
                // Lengths and kinds are no secrets.
                let is_secret = !part.contains(".len()") && !part.contains(".kind()");
                if let (true, Some(word)) = (compares && is_secret, SECRETS.iter().find(|word| part.contains(*word))) {
                    let place = format!("src/{}:{}", source.path.display(), number + 1);
                    panic!("{place}: {word} is compared in variable time:{line}");
                }
            }
        }
    }
}
