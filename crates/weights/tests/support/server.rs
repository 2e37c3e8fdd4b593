//! A web server on this machine that answers as it is told, for as long as it is told.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// How to answer one request.
#[derive(Clone)]
pub struct Reply {
    /// Sent in place of the content, as `404 Not Found`.
    pub error: Option<&'static str>,
    pub content: Vec<u8>,
    /// Whether a request for a part gets a part.
    pub knows_range: bool,
    /// How many bytes of the body are sent, if not all of them.
    pub sent: Option<usize>,
    /// Whether the connection stays open after that.
    pub stalls: bool,
    /// What is said of the body's length, if not the truth.
    pub announced: Option<usize>,
}

impl Reply {
    pub fn new(content: &[u8]) -> Self {
        let content = content.to_vec();
        Self { error: None, content, knows_range: true, sent: None, stalls: false, announced: None }
    }

    pub fn error(status: &'static str) -> Self {
        Self { error: Some(status), ..Self::new(b"") }
    }

    fn send(&self, start: usize, stream: &mut TcpStream) {
        let length = self.content.len();
        let (status, range, body) = match self.error {
            Some(status) => (status, String::new(), &[][..]),
            None if start == 0 || !self.knows_range => ("200 OK", String::new(), &self.content[..]),
            None if start < length => {
                let range = format!("Content-Range: bytes {start}-{}/{length}\r\n", length - 1);
                ("206 Partial Content", range, &self.content[start..])
            }
            None => ("416 Range Not Satisfiable", format!("Content-Range: bytes */{length}\r\n"), &[][..]),
        };
        let announced = self.announced.unwrap_or(body.len());
        let header =
            format!("HTTP/1.1 {status}\r\n{range}Content-Length: {announced}\r\nConnection: close\r\n\r\n");
        let sent = &body[..self.sent.unwrap_or(body.len()).min(body.len())];
        // The other side may have gone.
        let _ = stream.write_all(&[header.as_bytes(), sent].concat());
        if self.stalls {
            let _ = stream.read(&mut [0]);
        }
    }
}

pub struct Server {
    /// `http://127.0.0.1:...`
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers as many requests as there are replies, then refuses.
    pub fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        let mut replies: VecDeque<_> = replies.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        thread::spawn(move || {
            while let Some(reply) = replies.pop_front() {
                let mut stream = listener.accept().unwrap().0;
                let (mut line, mut start) = head(&stream);
                if let Some(target) = line.strip_prefix("CONNECT ") {
                    // As a proxy it plays the other server itself.
                    seen.lock().unwrap().push(format!("proxy to {}", target.split(' ').next().unwrap()));
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                    (line, start) = head(&stream);
                }
                let path = line.split(' ').nth(1).unwrap_or_default();
                seen.lock().unwrap().push(format!("{path} from {start}"));
                reply.send(start, &mut stream);
            }
        });
        Self { url, requests }
    }

    /// `/path from byte` of each request so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// The first line of a request, and the first byte that it asks for.
fn head(stream: &TcpStream) -> (String, usize) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let mut start = 0;
    for line in lines {
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap();
        }
    }
    (first, start)
}
