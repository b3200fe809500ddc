//! Clients that were on their way to a new process when it died: they come home to the old one, and go on.

use std::net::SocketAddr;

use super::*;

/// What a client asks while it is on its way: a statement that it has prepared, and settings of its session.
const MINE: &str = "select $1::int + 1, current_setting('app.tenant'), current_setting('timezone')";

fn ask(number: usize) -> [Vec<u8>; 3] {
    [bind("", "mine", &[&number.to_string()]), execute("", 0), sync()]
}

fn answer(number: usize) -> Vec<Option<String>> {
    vec![Some((number + 1).to_string()), Some(format!("tenant {number}")), Some("Asia/Tokyo".into())]
}

fn row(replies: &[Message]) -> Vec<Option<String>> {
    replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{replies:?}")).columns()
}

/// Bytes that have come to the socket at `of`, whose other end is at `from`, and that nobody has read.
fn unread(of: SocketAddr, from: SocketAddr) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |column: &str| u16::from_str_radix(column.rsplit_once(':').unwrap().1, 16).unwrap();
    let mut lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|columns| (port(columns[1]), port(columns[2])) == (of.port(), from.port()));
    let line = line.unwrap_or_else(|| panic!("no connection from {from} to {of}"));
    u64::from_str_radix(line[4].rsplit_once(':').unwrap().1, 16).unwrap()
}

/// Has a client ask when it has left: nobody reads that now.
fn ask_on_the_way(client: &mut Raw, number: usize) {
    let (own, carpool) = (client.stream().local_addr().unwrap(), client.stream().peer_addr().unwrap());
    client.send_all(&ask(number));
    let mut looks = 0;
    eventually("nobody reads what it asks", || {
        if unread(own, carpool) > 0 {
            // The old process was faster: the client leaves only now.
            assert_eq!(row(&client.until_ready()), answer(number));
            client.send_all(&ask(number));
        }
        looks = if unread(carpool, own) > 0 { looks + 1 } else { 0 };
        (looks == 3).then_some(())
    });
}

/// When a client came, if it is with the process that serves.
fn find(line: &Line, client: &Raw) -> Option<String> {
    let port = format!("|{}|", client.stream().local_addr().unwrap().port());
    let rows = line.carpool.console("show clients");
    let row = rows.lines().find(|row| row.contains(&port))?;
    Some(row.split('|').find(|column| column.starts_with("20") && column.contains('-')).unwrap().to_owned())
}

#[test]
fn who_was_on_the_way_comes_home() {
    const CLIENTS: usize = 6;
    let line = Line::start("", "pool_size = 3");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| line.carpool.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.query(&format!("set app.tenant = 'tenant {number}'"));
        client.query("set timezone = 'Asia/Tokyo'");
        client.send_all(&[parse("mine", MINE), sync()]);
        assert_eq!(code(&client.until_ready()), None);
    }
    let came: Vec<_> = clients.iter().map(|client| find(&line, client)).collect();
    for round in 0..2 {
        // Those in a transaction leave at its end, when the new process doesn't take anybody any more. The others go over.
        let (stayers, movers) = clients.split_at_mut(3);
        stayers.iter_mut().for_each(|client| assert_eq!(code(&client.query("begin")), None));
        let old = line.upgrade();
        let new = line.pid();
        for client in movers.iter() {
            eventually("it has gone over", || find(&line, client));
        }
        kill(new, "STOP");
        for (number, client) in stayers.iter_mut().enumerate() {
            assert_eq!(code(&client.query("commit")), None);
            ask_on_the_way(client, number);
        }
        let mut newcomer = Raw::connect(line.carpool.port);
        newcomer.send(&startup(V3_0, &[("user", "postgres"), ("database", &line.carpool.database)]));
        kill(new, "KILL");
        for (number, client) in stayers.iter_mut().enumerate() {
            assert_eq!(row(&client.until_ready()), answer(number), "round {round}");
            client.send_all(&[parse("mine", "select 1"), sync()]);
            assert_eq!(code(&client.until_ready()).as_deref(), Some("42P05"), "the name is taken");
        }
        assert!(newcomer.finish_login().is_none());
        assert_eq!(newcomer.value("select 'comes in'"), "comes in");
        eventually("the old process serves", || line.is_pid(old).then_some(()));
        for (number, client) in stayers.iter_mut().enumerate() {
            cancel_a_query(&line, client);
            assert_eq!(find(&line, client), came[number], "the same session");
        }
        // Those who had come over are lost with the new process.
        for (at, client) in movers.iter_mut().enumerate() {
            client.until_closed();
            *client = line.carpool.client();
            assert_eq!(client.value(&format!("select {at}")), at.to_string());
        }
    }
    // What came home can leave again.
    line.upgrade_fully();
    for (number, client) in clients[..3].iter_mut().enumerate() {
        client.send_all(&ask(number));
        assert_eq!(row(&client.until_ready()), answer(number));
        assert_eq!(find(&line, client), came[number]);
    }
}
