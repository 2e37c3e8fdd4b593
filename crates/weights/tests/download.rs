//! Finding and downloading weights, from a server on this machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;

use engraft_weights::{Source, WeightsFolders};
use tempfile::TempDir;

/// SHA-256 of `weights`, from `printf weights | sha256sum`.
const CONTENT: &[u8] = b"weights";
const SHA256: &str = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";

/// Answers `requests` requests with these bytes, then hangs up.
fn serve(answer: Vec<u8>, requests: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().take(requests) {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            stream.write_all(&answer).unwrap();
        }
    });
    format!("http://{address}/models/tiny-{}.pth", &SHA256[..8])
}

fn answer(status: &str, length: usize, content: &[u8]) -> Vec<u8> {
    let header = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [header.as_bytes(), content].concat()
}

fn source(url: &str) -> Source {
    Source {
        url: url.to_string(),
        file_name: format!("tiny-{}.pth", &SHA256[..8]),
        sha256_prefix: SHA256[..8].to_string(),
    }
}

/// Caches that do not exist yet, in a folder that is removed with its first value.
fn folders() -> (TempDir, WeightsFolders) {
    let root = tempfile::tempdir().unwrap();
    let folders =
        WeightsFolders { torch: root.path().join("torch"), engraft: root.path().join("engraft/weights") };
    (root, folders)
}

fn names_in(folder: &PathBuf) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The message of a download that fails, of which nothing may stay.
fn failure(url: &str) -> String {
    let (_root, folders) = folders();
    let error = folders.find_or_download(&source(url), |_, _| ()).unwrap_err().to_string();
    assert_eq!(names_in(&folders.engraft), [""; 0]);
    let place = folders.engraft.join(source(url).file_name).display().to_string();
    assert!(error.contains(url) && error.contains(&place) && error.contains("--weights FILE"), "{error}");
    error
}

#[test]
fn a_download_is_verified_kept_and_found_again() {
    let url = serve(answer("200 OK", CONTENT.len(), CONTENT), 1);
    let (_root, folders) = folders();
    let mut seen = Vec::new();
    let path = folders.find_or_download(&source(&url), |so_far, total| seen.push((so_far, total))).unwrap();
    assert_eq!(path, folders.engraft.join(source(&url).file_name));
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(names_in(&folders.engraft).len(), 1);
    assert_eq!(seen.last(), Some(&(7, Some(7))));

    // The server is gone: the file is there.
    let again = folders.find_or_download(&source(&url), |_, _| panic!("nothing is downloaded")).unwrap();
    assert_eq!(again, path);
}

#[test]
fn pytorchs_cache_comes_first() {
    let (_root, folders) = folders();
    let source = source("http://127.0.0.1:1/unused");
    for folder in [&folders.engraft, &folders.torch] {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(&source.file_name), CONTENT).unwrap();
        assert_eq!(folders.find_or_download(&source, |_, _| ()).unwrap(), folder.join(&source.file_name));
    }
}

#[test]
fn two_at_once_both_get_the_file() {
    let content = vec![7; 3_000_000];
    let url = serve(answer("200 OK", content.len(), &content), 2);
    let source = Source { sha256_prefix: "892f2fe0".to_string(), ..source(&url) };
    let (_root, folders) = folders();
    thread::scope(|scope| {
        let download = || folders.find_or_download(&source, |_, _| ()).unwrap();
        let both = [scope.spawn(download), scope.spawn(download)];
        for one in both {
            assert_eq!(fs::read(one.join().unwrap()).unwrap(), content);
        }
    });
    assert_eq!(names_in(&folders.engraft).len(), 1);
}

#[test]
fn another_content_is_refused_and_deleted() {
    let url = serve(answer("200 OK", 5, b"trash"), 1);
    let error = failure(&url);
    assert!(
        error.contains("its SHA-256 begins with e06da304, expected is 9a129038. It was deleted;"),
        "{error}"
    );
}

#[test]
fn a_file_that_the_server_lacks() {
    let url = serve(answer("404 Not Found", 9, b"Not Found"), 1);
    let error = failure(&url);
    assert!(
        error.contains(&format!(
            "cannot download {url}: the server has no such file (HTTP 404). Fetch it elsewhere"
        )),
        "{error}"
    );
    let url = serve(answer("503 Service Unavailable", 0, b""), 1);
    assert!(failure(&url).contains("the server answered with HTTP status 503"));
}

#[test]
fn a_connection_cut_in_the_middle() {
    let url = serve(answer("200 OK", 1000, CONTENT), 1);
    let error = failure(&url);
    assert!(error.contains(": the connection broke off ("), "{error}");
}

#[test]
fn no_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/tiny.pth", listener.local_addr().unwrap());
    drop(listener);
    let error = failure(&url);
    assert!(error.to_lowercase().contains("connection refused"), "{error}");
}

#[test]
fn a_cache_that_cannot_be_written() {
    let (root, mut folders) = folders();
    fs::write(root.path().join("file"), "").unwrap();
    folders.engraft = root.path().join("file/weights");
    let error =
        folders.find_or_download(&source("http://127.0.0.1:1/unused"), |_, _| ()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write {}", folders.engraft.display())), "{error}");
}
