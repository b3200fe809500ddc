//! What a pooler's cost is measured against, on one thread with epoll:
//!
//! - `floor backend PORT` speaks enough of PostgreSQL's protocol to answer every query with one row, at once. Clients and
//!   poolers log in with trust.
//! - `floor forward PORT TO` connects each client to the server at `TO` and copies bytes in both directions, one read and one
//!   write per readiness: what a proxy can't do without.
//!
//! Both listen on 127.0.0.1 until they are killed.

mod backend;
mod forward;

use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::process::ExitCode;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// Read at once, bytes.
const CHUNK: usize = 32 * 1024;
const LISTENER: Token = Token(usize::MAX - 1);

/// What is done with connections.
trait Service {
    /// A client has come.
    fn accept(&mut self, poll: &Poll, stream: TcpStream) -> io::Result<()>;
    /// Something can be read from, or written to, the connection of this token.
    fn ready(&mut self, poll: &Poll, token: Token, chunk: &mut [u8]);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["backend", port] => address(port).and_then(|at| serve(at, &mut backend::Backend::default())),
        ["forward", port, to] => address(port).and_then(|at| serve(at, &mut forward::Forward::new(address(to)?))),
        _ => {
            eprintln!("usage: floor backend PORT | floor forward PORT TO");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn address(port: &str) -> io::Result<SocketAddr> {
    let port = port.parse().map_err(|_| io::Error::new(ErrorKind::InvalidInput, format!("no port: {port}")))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn serve(at: SocketAddr, service: &mut dyn Service) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(at)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut chunk = vec![0; CHUNK];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() != LISTENER {
                service.ready(&poll, event.token(), &mut chunk);
                continue;
            }
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nodelay(true)?;
                service.accept(&poll, stream)?;
            }
        }
    }
}

/// How a read or a write ended.
enum Moved {
    Bytes(usize),
    Later,
    Over,
}

fn moved(result: io::Result<usize>) -> Moved {
    match result {
        Ok(0) => Moved::Over,
        Ok(n) => Moved::Bytes(n),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Moved::Later,
        Err(_) => Moved::Over,
    }
}

fn read(stream: &mut TcpStream, chunk: &mut [u8]) -> Moved {
    moved(stream.read(chunk))
}
