//! For tests: a server on loopback that answers connections by a script and notes what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One canned answer.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Status, extra header lines and body; the connection stays open.
    Reply(u16, &'static str, String),
    /// The connection is closed when the request has come.
    Close,
    /// Nothing comes for so long; then the connection is closed.
    Hang(Duration),
    /// The reply, then the connection is closed without saying so.
    ReplyAndClose(u16, String),
}

/// Shorthand for a plain reply.
pub(crate) fn reply(status: u16, body: impl Into<String>) -> Answer {
    Answer::Reply(status, "", body.into())
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// The number of the connection, from 0.
    pub(crate) connection: usize,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

type Answerer = dyn Fn(usize, &Asked) -> Answer + Send + Sync;

/// The server; it lives as long as the test process.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

impl Script {
    /// Answers the n-th request (over all connections) with the n-th entry, later ones with the last.
    pub(crate) fn of(answers: Vec<Answer>) -> Script {
        Script::by(move |n, _| answers[n.min(answers.len() - 1)].clone())
    }

    /// Answers by a function of the request's number and the request.
    pub(crate) fn by(f: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Script {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let script = Script {
            url: format!("http://{}", listener.local_addr().unwrap()),
            asked: Arc::new(Mutex::new(Vec::new())),
        };
        let (asked, f): (_, Arc<Answerer>) = (script.asked.clone(), Arc::new(f));
        std::thread::spawn(move || {
            for (n, stream) in listener.incoming().flatten().enumerate() {
                let (asked, f) = (asked.clone(), f.clone());
                std::thread::spawn(move || serve(stream, n, &asked, &*f));
            }
        });
        script
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The request lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|a| a.line.trim_end_matches(" HTTP/1.1").to_owned()).collect()
    }
}

fn serve(stream: TcpStream, connection: usize, log: &Mutex<Vec<Asked>>, f: &Answerer) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut asked = Asked { line: line.trim().to_owned(), headers: Vec::new(), body: String::new(), connection };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((k, v)) = line.trim().split_once(':') else { break };
            asked.headers.push((k.to_owned(), v.trim().to_owned()));
        }
        let length = asked.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        asked.body = String::from_utf8_lossy(&body).into_owned();
        let number = {
            let mut log = log.lock().unwrap();
            log.push(asked.clone());
            log.len() - 1
        };
        let (status, head, body, close) = match f(number, &asked) {
            Answer::Reply(status, head, body) => (status, head, body, false),
            Answer::ReplyAndClose(status, body) => (status, "", body, true),
            Answer::Close => return None,
            Answer::Hang(d) => {
                std::thread::sleep(d);
                return None;
            }
        };
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{head}\r\n{body}", body.len()).ok()?;
        if close {
            return None;
        }
    }
}
