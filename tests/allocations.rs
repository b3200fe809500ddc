//! Once it is warm, no transaction allocates: Carpool's sessions run in this process, under an allocator that counts, between
//! a client and a server that themselves allocate nothing.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use carpool::net::timer;
use carpool::pooler::log::{self, Wanted};
use carpool::pooler::{self, Origin, Overrides, Source};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WARM_UP: usize = 1000;
const TRANSACTIONS: usize = 10_000;

/// A socket, and what has come of it that isn't taken yet.
struct Wire {
    stream: TcpStream,
    buf: [u8; 4096],
    filled: usize,
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, buf: [0; 4096], filled: 0 }
    }

    /// Takes a message of which `head` bytes stand in front of its length: its first byte. `None` at the end.
    fn next(&mut self, head: usize) -> Option<u8> {
        loop {
            if let Some(length) = self.buf[..self.filled].get(head..head + 4) {
                let end = head + u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if end <= self.filled {
                    let first = self.buf[0];
                    self.buf.copy_within(end..self.filled, 0);
                    self.filled -= end;
                    return Some(first);
                }
            }
            let n = self.stream.read(&mut self.buf[self.filled..]).unwrap_or(0);
            if n == 0 {
                return None;
            }
            self.filled += n;
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn until_ready(&mut self) {
        while self.next(1).unwrap() != b'Z' {}
    }
}

const READY: &[u8] = b"Z\0\0\0\x05I";
const ROW: &[u8] = b"D\0\0\0\x0b\0\x01\0\0\0\x011C\0\0\0\x0dSELECT 1\0";
const DESCRIPTION: &[u8] = b"T\0\0\0\x1c\0\x01one\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";

/// Answers like a PostgreSQL with one row for everything. A batch of replies goes out at once, as PostgreSQL's do.
fn serve(stream: TcpStream) {
    let mut wire = Wire::new(stream);
    wire.next(0).unwrap();
    wire.send(b"R\0\0\0\x08\0\0\0\0S\0\0\0\x19client_encoding\0UTF8\0K\0\0\0\x0c\0\0\0\x07\0\0\0\x07Z\0\0\0\x05I");
    let (mut replies, mut len) = ([0; 512], 0);
    while let Some(tag) = wire.next(1) {
        let parts: &[&[u8]] = match tag {
            b'Q' => &[DESCRIPTION, ROW, READY],
            b'P' => &[b"1\0\0\0\x04"],
            b'B' => &[b"2\0\0\0\x04"],
            b'D' => &[DESCRIPTION],
            b'E' => &[ROW],
            b'S' => &[READY],
            _ => return,
        };
        for part in parts {
            replies[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        if matches!(tag, b'Q' | b'S') {
            wire.send(&replies[..len]);
            len = 0;
        }
    }
}

fn start_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().for_each(|stream| drop(thread::spawn(|| serve(stream.unwrap())))));
    port
}

/// Runs Carpool in a thread of its own, to the end of the process.
fn start_carpool(server: u16) -> u16 {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = std::env::temp_dir().join(format!("carpool-allocations-{}.toml", std::process::id()));
    let text = format!(
        "[pooler]\nlisten_port = {port}\nunix_socket_dir = ''\nauth_type = 'trust'\nlog_connections = false\n\
         [databases.d]\nhost = '127.0.0.1'\nport = {server}\npool_size = 1\n[users.u]\n"
    );
    std::fs::write(&file, text).unwrap();
    let source = Source { origin: Origin::File(file.clone()), overrides: Overrides::default() };
    let loaded = source.load().unwrap();
    std::fs::remove_file(file).unwrap();
    thread::spawn(move || {
        let wanted = Wanted { quiet: true, verbose: 0, in_background: false };
        let log = log::start(&loaded.config.pooler, wanted);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            timer::start().unwrap();
            pooler::run(loaded, source, log).await.unwrap();
        });
    });
    port
}

fn log_in(port: u16) -> Wire {
    let deadline = Instant::now() + Duration::from_secs(30);
    let stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::yield_now();
    };
    let mut wire = Wire::new(stream);
    wire.send(b"\0\0\0\x1b\0\x03\0\0user\0u\0database\0d\0\0");
    wire.until_ready();
    wire
}

/// Allocations while the client sends `request` so often.
fn allocations(client: &mut Wire, request: &[u8]) -> usize {
    let mut turns = |count| {
        for _ in 0..count {
            client.send(request);
            client.until_ready();
        }
    };
    turns(WARM_UP);
    let region = Region::new(ALLOCATOR);
    turns(TRANSACTIONS);
    let change = region.change();
    change.allocations + change.reallocations
}

#[test]
fn no_transaction_allocates() {
    let mut client = log_in(start_carpool(start_server()));
    let simple = allocations(&mut client, b"Q\0\0\0\x0dSELECT 1\0");
    let unnamed =
        b"P\0\0\0\x10\0SELECT 1\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
    let extended = allocations(&mut client, unnamed);
    client.send(b"P\0\0\0\x11s\0SELECT 1\0\0\0S\0\0\0\x04");
    client.until_ready();
    let prepared =
        allocations(&mut client, b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04");
    println!("allocations in {TRANSACTIONS} transactions: simple {simple}, extended {extended}, prepared {prepared}");
    // What is left is the recurring work's, which depends on how long they take.
    for count in [simple, extended, prepared] {
        assert!(count < TRANSACTIONS / 2, "{count} allocations in {TRANSACTIONS} transactions");
    }
}
