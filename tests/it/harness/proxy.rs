//! A proxy that cuts up what a server sends, so that messages arrive in every possible number of pieces.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Listens until the test process ends.
pub struct Proxy {
    pub port: u16,
    questions: Arc<AtomicUsize>,
}

/// Bulk goes on whole behind this many bytes of one read: cutting it up takes long and shows nothing new.
const CUT_UP: usize = 512;

impl Proxy {
    /// In front of a server on 127.0.0.1; what it sends goes on in pieces of 1 to `largest` bytes.
    pub fn start(server: u16, largest: usize) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let questions = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&questions);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for stream in [&client, &upstream] {
                    stream.set_nodelay(true).unwrap();
                }
                let (to_server, to_client) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
                let (counter, uncounted) = (Arc::clone(&counter), AtomicUsize::new(0));
                std::thread::spawn(move || pass(client, to_server, usize::MAX, &counter));
                std::thread::spawn(move || pass(upstream, to_client, largest, &uncounted));
            }
        });
        Self { port, questions }
    }

    /// How many of Carpool's own questions about the session have gone to servers.
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, largest: usize, questions: &AtomicUsize) {
    let mut buf = vec![0; 65536];
    let mut size = 1;
    while let Ok(n @ 1..) = from.read(&mut buf) {
        let simple = buf[..n].windows(18).filter(|w| w[0] == b'Q' && w[5..] == *b"/* carpool */").count();
        let prepared = buf[..n].windows(16).filter(|w| w == b"carpool\0carpool_").count();
        let marks = simple + prepared;
        questions.fetch_add(marks, Ordering::Relaxed);
        let (mut head, tail) = buf[..n].split_at(if largest == usize::MAX { 0 } else { n.min(CUT_UP) });
        while !head.is_empty() {
            let (piece, rest) = head.split_at(size.min(head.len()));
            if to.write_all(piece).is_err() {
                return;
            }
            head = rest;
            size = size % largest + 1;
        }
        if to.write_all(tail).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
