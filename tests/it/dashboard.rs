//! The dashboard over HTTP: who sees what, who may do what, and that what they do is done.

use serde_json::{Value, json};

use crate::harness::http::{Answer, request};
use crate::harness::postgres::free_port;
use crate::harness::raw::query;
use crate::harness::{Carpool, Message, PATIENCE, Setup, eventually, http};

/// A Carpool with an admin, a stats user and somebody who is neither.
struct Stand {
    carpool: Carpool,
    port: u16,
}

/// Somebody who has logged in.
struct Login {
    port: u16,
    cookie: String,
    token: String,
}

impl Stand {
    fn new(lines: &str) -> Self {
        let port = free_port();
        let pooler =
            format!("http_port = {port}\nadmin_users = [\"postgres\", \"boss\"]\nstats_users = [\"viewer\"]\n{lines}");
        let setup = Setup { pooler, ..Setup::default() };
        let setup = setup.sections(
            "[users.boss]\npassword = \"b0ss-secret\"\n[users.viewer]\npassword = \"v1ewer-secret\"\n\
             [users.nobody]\npassword = \"n0body-secret\"\n",
        );
        Self { carpool: Carpool::start(&setup), port }
    }

    fn get(&self, path: &str) -> Answer {
        request(self.port, "GET", path, &[], "")
    }

    fn try_login(&self, user: &str, password: &str, headers: &[(&str, &str)]) -> Answer {
        let body = json!({ "user": user, "password": password }).to_string();
        let headers: Vec<_> =
            [("Content-Type", "application/json")].into_iter().chain(headers.iter().copied()).collect();
        request(self.port, "POST", "/api/login", &headers, &body)
    }

    fn login(&self, user: &str, password: &str) -> Login {
        let answer = self.try_login(user, password, &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        Login { port: self.port, cookie, token: answer.json()["token"].as_str().unwrap().to_owned() }
    }
}

impl Login {
    fn get(&self, path: &str) -> Answer {
        request(self.port, "GET", path, &[("Cookie", &self.cookie)], "")
    }

    fn post(&self, path: &str) -> Answer {
        request(self.port, "POST", path, &[("Cookie", &self.cookie), ("X-Carpool-Token", &self.token)], "")
    }
}

/// The SQLSTATE of the error among these.
fn code(messages: &[Message]) -> String {
    messages.iter().find(|message| message.tag == b'E').and_then(|error| error.field('C')).unwrap()
}

fn rows(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["rows"].as_array().unwrap().clone()
}

#[test]
fn who_sees_what() {
    for (lines, status, read) in
        [("", 200, 401), ("http_anonymous = \"status\"", 200, 401), ("http_anonymous = \"read\"", 200, 200)]
    {
        let stand = Stand::new(lines);
        let _client = stand.carpool.client();
        for path in ["/healthz", "/readyz", "/metrics", "/", "/dashboard/app.js", "/api/session"] {
            assert_eq!(stand.get(path).status, 200, "{path}");
        }
        for path in ["/api/pools", "/api/history", "/api/audit"] {
            assert_eq!(stand.get(path).status, status, "{lines} {path}");
        }
        for path in ["/api/clients", "/api/servers", "/api/config"] {
            assert_eq!(stand.get(path).status, read, "{lines} {path}");
        }
        let (viewer, boss) = (stand.login("viewer", "v1ewer-secret"), stand.login("boss", "b0ss-secret"));
        for login in [&viewer, &boss] {
            for path in
                ["/api/pools", "/api/history?span=hour", "/api/audit", "/api/clients", "/api/servers", "/api/config"]
            {
                assert_eq!(login.get(path).status, 200, "{path}");
            }
        }
        assert_eq!(viewer.get("/api/session").json()["level"], "read");
        assert_eq!(boss.get("/api/session").json()["level"], "admin");
        // What is to change something is for admins alone.
        let id = rows(&boss.get("/api/clients"))[0]["id"].to_string();
        for path in [format!("/api/clients/{id}/kill"), format!("/api/pools/{}/pause", stand.carpool.database)] {
            assert_eq!(request(stand.port, "POST", &path, &[], "").status, 401, "{path}");
            assert_eq!(viewer.post(&path).status, 403, "{path}");
        }
    }
}

#[test]
fn nothing_is_shown_from_elsewhere_where_nothing_is_to_be() {
    let stand = Stand::new("http_anonymous = \"none\"");
    // As a proxy on this host passes it on.
    let passed_on = [("X-Forwarded-For", "10.0.0.1")];
    for (path, status) in [("/api/pools", 401), ("/api/clients", 401), ("/metrics", 200), ("/readyz", 200), ("/", 200)]
    {
        assert_eq!(request(stand.port, "GET", path, &passed_on, "").status, status, "{path}");
    }
    assert_eq!(stand.get("/api/pools").status, 200, "for `carpool` itself on this host");
}

#[test]
fn names_that_lead_here_from_elsewhere_are_refused() {
    let stand = Stand::new("http_anonymous = \"read\"\nhttp_hosts = [\"pool.example.com\"]");
    for (host, status) in
        [("evil.example:80", 421), ("pool.example.com", 200), ("10.1.2.3:9187", 200), ("carpool:9187", 200)]
    {
        for path in ["/", "/api/pools", "/api/clients"] {
            assert_eq!(request(stand.port, "GET", path, &[("Host", host)], "").status, status, "{host} {path}");
        }
        assert_eq!(request(stand.port, "GET", "/metrics", &[("Host", host)], "").status, 200);
    }
}

#[test]
fn logins_that_fail_all_look_alike() {
    let stand = Stand::new("auth_type = \"scram-sha-256\"");
    let wrong = stand.try_login("boss", "wrong", &[]);
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    for (user, password) in
        [("unknown", "b0ss-secret"), ("nobody", "n0body-secret"), ("postgres", ""), ("", ""), ("boss", "")]
    {
        let answer = stand.try_login(user, password, &[]);
        assert_eq!((answer.status, &answer.body), (401, &wrong.body), "{user}");
    }
    stand.carpool.logs("login of user \"unknown\" failed: unknown user");
    stand.carpool.logs("login of user \"boss\" failed: wrong password");
    // One more than ten from an address in a minute aren't even looked at.
    let statuses: Vec<_> = (0..8).map(|_| stand.try_login("boss", "wrong", &[]).status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 429, 429, 429, 429]);
    let late = stand.try_login("boss", "b0ss-secret", &[]);
    assert!(late.status == 429 && late.header("retry-after").is_some(), "{}", late.body);
}

#[test]
fn right_passwords_are_not_counted() {
    let stand = Stand::new("");
    for _ in 0..15 {
        stand.login("boss", "b0ss-secret");
    }
}

#[test]
fn every_kind_of_secret_logs_in() {
    let port = free_port();
    let md5 = format!("md5{}", md5_hex("hidden", "md5er"));
    let setup =
        Setup::pooler(&format!("http_port = {port}\nstats_users = [\"md5er\", \"plain_user\"]\nauth_type = \"md5\""))
            .sections(&format!("[users.md5er]\npassword = \"{md5}\"\n"));
    let stand = Stand { carpool: Carpool::start(&setup), port };
    stand.login("md5er", "hidden");
    stand.login("plain_user", "plain_user");
    assert_eq!(stand.try_login("md5er", &md5, &[]).status, 401, "the hash is no password");
}

fn md5_hex(password: &str, user: &str) -> String {
    use md5::Digest as _;
    md5::Md5::digest(format!("{password}{user}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn other_sites_pages_change_nothing() {
    let stand = Stand::new("");
    let boss = stand.login("boss", "b0ss-secret");
    let client = stand.carpool.client();
    let id = rows(&boss.get("/api/clients"))[0]["id"].to_string();
    let kill = format!("/api/clients/{id}/kill");
    let (cookie, token) = (("Cookie", boss.cookie.as_str()), ("X-Carpool-Token", boss.token.as_str()));
    for headers in [
        vec![cookie],
        vec![cookie, ("X-Carpool-Token", "wrong")],
        vec![cookie, token, ("Origin", "http://evil.example")],
        vec![cookie, token, ("Origin", "null")],
        vec![cookie, token, ("Sec-Fetch-Site", "cross-site")],
        vec![cookie, token, ("Sec-Fetch-Site", "same-site")],
    ] {
        assert_eq!(request(stand.port, "POST", &kill, &headers, "").status, 403, "{headers:?}");
    }
    assert_eq!(request(stand.port, "GET", &kill, &[cookie, token], "").status, 404, "nothing changes by GET");
    for forged in ["", "x", &boss.cookie[..20], &boss.cookie.to_uppercase()] {
        assert_eq!(request(stand.port, "POST", &kill, &[("Cookie", forged), token], "").status, 401, "{forged}");
    }
    for header in [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
        assert_eq!(stand.try_login("boss", "b0ss-secret", &[header]).status, 403, "{header:?}");
    }
    let form = [("Content-Type", "text/plain")];
    let body = r#"{"user": "boss", "password": "b0ss-secret"}"#;
    assert_eq!(request(stand.port, "POST", "/api/login", &form, body).status, 403);
    assert_eq!(rows(&boss.get("/api/clients")).len(), 1, "it is still there");
    drop(client);
}

#[test]
fn cookies_are_out_of_reach_and_sessions_end() {
    let stand = Stand::new("");
    let answer = stand.try_login("boss", "b0ss-secret", &[]);
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict; Path=/") && !cookie.contains("Secure"), "{cookie}");
    let answer = stand.try_login("boss", "b0ss-secret", &[("X-Forwarded-Proto", "https")]);
    assert!(answer.header("set-cookie").unwrap().ends_with("; Secure"));
    // A logout is for good.
    let boss = stand.login("boss", "b0ss-secret");
    assert_eq!(request(stand.port, "POST", "/api/logout", &[("Cookie", &boss.cookie)], "").status, 403);
    assert_eq!(boss.post("/api/logout").status, 200);
    assert_eq!(boss.get("/api/clients").status, 401);
    // So is a reload after which the user is no admin, or has another password.
    let (boss, viewer) = (stand.login("boss", "b0ss-secret"), stand.login("viewer", "v1ewer-secret"));
    let text = std::fs::read_to_string(&stand.carpool.config).unwrap();
    let text = text.replace("\"postgres\", \"boss\"", "\"postgres\"").replace("v1ewer-secret", "v1ewer-other");
    std::fs::write(&stand.carpool.config, text).unwrap();
    assert_eq!(http(stand.port, "POST", "/api/reload").0, 200);
    assert_eq!(boss.get("/api/session").json()["user"], Value::Null);
    assert_eq!(viewer.get("/api/clients").status, 401);
    stand.login("viewer", "v1ewer-other");
}

#[test]
fn clients_are_sorted_searched_and_paged() {
    let stand = Stand::new("");
    let boss = stand.login("boss", "b0ss-secret");
    let connect = |name: &str| {
        let mut client = stand.carpool.client();
        client.query(&format!("set application_name = '{name}'"));
        client
    };
    let _clients: Vec<_> = (0..25).map(|i| connect(&format!("app-{:02}", (i * 7) % 25))).collect();
    let names = |query: &str| {
        let answer = boss.get(&format!("/api/clients?{query}"));
        rows(&answer).iter().map(|row| row["application"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("sort=application&limit=3"), ["app-00", "app-01", "app-02"]);
    assert_eq!(names("sort=application&dir=desc&limit=2&offset=1"), ["app-23", "app-22"]);
    assert_eq!(names("search=APP-07"), ["app-07"]);
    let page = boss.get("/api/clients?search=app&limit=2").json();
    assert_eq!((&page["total"], &page["matched"]), (&json!(25), &json!(25)));
    // The one server, and who has it.
    let mut holder = connect("holder");
    holder.query("begin");
    let server = rows(&boss.get("/api/servers?search=holder"))[0].clone();
    let client = rows(&boss.get("/api/clients?search=holder"))[0].clone();
    assert_eq!((&server["state"], &client["state"]), (&json!("active"), &json!("idle in transaction")));
    assert_eq!((&server["client_id"], &server["pid"]), (&client["id"], &client["server_pid"]));
}

#[test]
fn clients_are_cancelled_and_killed() {
    let stand = Stand::new("");
    let boss = stand.login("boss", "b0ss-secret");
    let mut client = stand.carpool.client();
    client.query("set application_name = 'victim'");
    let id = rows(&boss.get("/api/clients?search=victim"))[0]["id"].to_string();
    assert_eq!(boss.post(&format!("/api/clients/{id}/cancel")).status, 409, "nothing to cancel");
    client.send(&query("select pg_sleep(60)"));
    eventually("it runs", || (rows(&boss.get("/api/clients?search=victim"))[0]["state"] == "active").then_some(()));
    assert_eq!(boss.post(&format!("/api/clients/{id}/cancel")).status, 200);
    assert_eq!(code(&client.until_ready()), "57014");
    assert_eq!(boss.post(&format!("/api/clients/{id}/kill")).status, 200);
    assert_eq!(code(&client.until_closed()), "57P01");
    eventually("it is gone", || rows(&boss.get("/api/clients?search=victim")).is_empty().then_some(()));
    for path in [format!("/api/clients/{id}/kill"), "/api/clients/0/kill".into(), "/api/clients/x/kill".into()] {
        assert_eq!(boss.post(&path).status, 404, "{path}");
    }
    stand.carpool.logs("command issued by the dashboard, user boss");
}

#[test]
fn pools_are_paused_and_resumed() {
    let stand = Stand::new("");
    let boss = stand.login("boss", "b0ss-secret");
    let pool = |operation: &str| boss.post(&format!("/api/pools/{}/{operation}", stand.carpool.database));
    let paused = || stand.get("/api/pools").json()["databases"][0]["paused"].clone();
    assert_eq!(pool("pause").status, 200);
    assert_eq!(paused(), true);
    assert_eq!(pool("resume").status, 200);
    assert_eq!(paused(), false);
    let again = pool("resume");
    assert_eq!(again.status, 409);
    assert!(again.json()["error"].as_str().unwrap().contains("is not paused"), "{}", again.body);
    for operation in ["reconnect", "disable", "enable"] {
        assert_eq!(pool(operation).status, 200, "{operation}");
    }
    assert_eq!(boss.post("/api/pools/pgbouncer/pause").status, 409, "the console is no pool");
    assert_eq!(boss.post("/api/pools/x/explode").status, 404);
    // Who keeps it from being paused is named, and the pause undone.
    let mut holder = stand.carpool.client();
    holder.query("begin");
    let begun = std::time::Instant::now();
    let refused = pool("pause");
    assert!(refused.status == 409 && begun.elapsed() < PATIENCE, "{}", refused.body);
    assert!(refused.body.contains("came free within") && refused.body.contains("C-"), "{}", refused.body);
    assert_eq!(paused(), false);
}

#[test]
fn the_configuration_is_shown_without_secrets_and_a_reload_before_it_is_done() {
    let stand = Stand::new("query_timeout = 7");
    let boss = stand.login("boss", "b0ss-secret");
    let config = boss.get("/api/config");
    assert!(!config.body.contains("-secret"), "{}", config.body);
    let config = config.json();
    let setting =
        |name: &str| config["settings"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap().clone();
    assert_eq!(
        (&setting("query_timeout")["value"], &setting("query_timeout")["reloadable"]),
        (&json!("7"), &json!(true))
    );
    assert_eq!(setting("http_port")["reloadable"], false);
    assert!(setting("query_timeout")["meaning"].as_str().unwrap().len() > 10);
    let boss_section = config["sections"].as_array().unwrap().iter().find(|s| s["name"] == "users.boss").unwrap();
    assert_eq!(boss_section["settings"][0]["value"], "(hidden)");
    let text = std::fs::read_to_string(&stand.carpool.config).unwrap();
    std::fs::write(&stand.carpool.config, text.replace("query_timeout = 7", "query_timeout = 8")).unwrap();
    let change = json!({ "changes": [{ "key": "pooler.query_timeout", "what": "7 -> 8" }] });
    assert_eq!(boss.post("/api/reload?check").json(), change);
    assert_eq!(boss.post("/api/reload?check").json(), change, "nothing has been done yet");
    assert_eq!(boss.post("/api/reload").json(), change);
    assert_eq!(boss.post("/api/reload?check").json(), json!({ "changes": [] }));
    std::fs::write(&stand.carpool.config, "[pooler]\nquery_timeout = 'x'").unwrap();
    let refused = boss.post("/api/reload?check");
    assert!(refused.status == 422 && refused.body.contains("pooler.query_timeout"), "{}", refused.body);
    let viewer = stand.login("viewer", "v1ewer-secret");
    assert_eq!(
        request(stand.port, "POST", "/api/reload", &[("X-Forwarded-For", "::1"), ("Cookie", &viewer.cookie)], "")
            .status,
        403
    );
}

#[test]
fn only_those_on_this_host_reload() {
    let stand = Stand::new("");
    for from in [("X-Forwarded-For", "127.0.0.1"), ("Origin", "http://evil.example"), ("Host", "10.0.0.1")] {
        for path in ["/api/reload", "/api/reload?check"] {
            assert_eq!(request(stand.port, "POST", path, &[from], "").status, 403, "{from:?} {path}");
        }
    }
    assert!(!stand.carpool.log().contains("POST /api/reload"));
    assert_eq!(http(stand.port, "POST", "/api/reload?check"), (200, "nothing changes\n".into()));
    assert_eq!(http(stand.port, "POST", "/api/reload"), (200, "nothing changes\n".into()));
    assert_eq!(http(stand.port, "GET", "/api/reload").0, 405);
}

#[test]
fn the_last_minutes_are_remembered() {
    let stand = Stand::new("");
    let mut client = stand.carpool.client();
    let courses = eventually("transactions show", || {
        client.query("select 1");
        let history = stand.get("/api/history").json();
        let rates = history["pools"][0]["transactions"].as_array()?.clone();
        rates.iter().any(|rate| rate.as_f64().is_some_and(|rate| rate > 0.0)).then_some(history)
    });
    let (times, pool) = (courses["times"].as_array().unwrap(), &courses["pools"][0]);
    for series in [
        "used",
        "idle",
        "waiting",
        "pinned",
        "queries",
        "wait_p50_us",
        "wait_p99_us",
        "transaction_p50_us",
        "transaction_p99_us",
    ] {
        assert_eq!(pool[series].as_array().unwrap().len(), times.len(), "{series}");
    }
    let last = times.last().unwrap();
    let newer = stand.get(&format!("/api/history?since={last}")).json();
    assert!(newer["times"].as_array().unwrap().iter().all(|time| time.as_u64() > last.as_u64()));
}

#[test]
fn the_page_is_whole_and_may_do_little() {
    let stand = Stand::new("");
    let page = stand.get("/");
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'") && !policy.contains("unsafe")
    );
    let tag = page.header("etag").unwrap();
    assert_eq!(request(stand.port, "GET", "/", &[("If-None-Match", tag)], "").status, 304);
    let parts = page.body.split('"').filter(|part| part.starts_with("/dashboard/"));
    let parts: Vec<_> = parts.collect();
    assert!(parts.len() >= 2, "{parts:?}");
    for part in parts {
        assert_eq!(stand.get(part).status, 200, "{part}");
    }
}
