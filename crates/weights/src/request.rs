//! One HTTP request for a file, or for the rest of one.

use engraft_tensor::WriteError;
use std::io::{ErrorKind, Read};
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body, Error};

use crate::part_file::PartFile;

/// Why a request did not bring the file.
pub(crate) enum Failure {
    /// The same request could succeed a moment later.
    Transient(String),
    /// There is no way to the server: no network, no such name, nobody who listens.
    Unreachable(String),
    /// The same request will fail again.
    Final(String),
    /// What arrived could not be written.
    Write(WriteError),
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

/// Requests with a limit on how long no byte may arrive.
pub(crate) struct Requests {
    agent: Agent,
    stall: Duration,
}

impl Requests {
    /// The proxy is that of the environment (`ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
    pub(crate) fn new(stall: Duration) -> Self {
        let config = Agent::config_builder()
            .timeout_resolve(Some(stall))
            .timeout_connect(Some(stall))
            .timeout_per_write(Some(stall))
            .timeout_per_read(Some(stall))
            .build();
        Self { agent: config.new_agent(), stall }
    }

    /// Appends to `part` what it lacks of the file at `url`, or all of the file to an emptied `part` if the
    /// server does not send parts. `progress` is called with the number of bytes so far and in total, if known.
    ///
    /// Returns whether the file was continued.
    pub(crate) fn complete(
        &self,
        url: &str,
        part: &mut PartFile,
        mut progress: impl FnMut(u64, Option<u64>),
    ) -> Result<bool, Failure> {
        let body = self.open(url, part)?;
        let is_continued = part.len() > 0;
        let total = body.content_length().map(|rest| part.len().saturating_add(rest));
        progress(part.len(), total);
        let mut reader = body.into_reader();
        let mut buffer = vec![0; 128 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(is_continued),
                Ok(count) => part.append(&buffer[..count])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken_off(Error::from(error))),
            }
            progress(part.len(), total);
        }
    }

    /// The rest of the file, or the whole file and an empty `part`.
    fn open(&self, url: &str, part: &mut PartFile) -> Result<Body, Failure> {
        if part.len() > 0 {
            let range = format!("bytes={}-", part.len());
            match self.agent.get(url).header(header::RANGE, range).call() {
                Ok(response) if starts_at(&response, part.len()) => return Ok(response.into_body()),
                Ok(response) if response.status() == StatusCode::OK => {
                    part.restart()?;
                    return Ok(response.into_body());
                }
                // Another part than asked for, or none because the file is no longer than what is there.
                Ok(_) | Err(Error::StatusCode(416)) => part.restart()?,
                Err(error) => return Err(self.failure(error)),
            }
        }
        let response = self.agent.get(url).call().map_err(|error| self.failure(error))?;
        Ok(response.into_body())
    }

    fn failure(&self, error: Error) -> Failure {
        let seconds = self.stall.as_secs_f64();
        match error {
            Error::StatusCode(404) => Failure::Final("the server has no such file (HTTP 404)".to_string()),
            Error::StatusCode(code) => {
                let reason = format!("the server answered with HTTP status {code}");
                match code {
                    408 | 429 | 500.. => Failure::Transient(reason),
                    _ => Failure::Final(reason),
                }
            }
            Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
                Failure::Unreachable(format!("there was no connection within {seconds} seconds"))
            }
            Error::Timeout(_) => Failure::Transient(format!("the server sent nothing for {seconds} seconds")),
            Error::HostNotFound => Failure::Unreachable("the server's name is not known here".to_string()),
            Error::ConnectionFailed => Failure::Unreachable(error.to_string()),
            Error::Io(error) => match error.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                    Failure::Unreachable(error.to_string())
                }
                _ => Failure::Transient(error.to_string()),
            },
            error => Failure::Final(error.to_string()),
        }
    }

    fn broken_off(&self, error: Error) -> Failure {
        match self.failure(error) {
            Failure::Transient(reason) | Failure::Unreachable(reason) | Failure::Final(reason) => {
                Failure::Transient(format!("the connection broke off ({reason})"))
            }
            write => write,
        }
    }
}

/// Whether the answer is the part of the file from this byte on.
fn starts_at(response: &Response<Body>, start: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}
