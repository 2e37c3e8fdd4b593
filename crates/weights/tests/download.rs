//! Finding and downloading weights, from a server on this machine.

#[path = "support/server.rs"]
mod server;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use engraft_weights::{Downloads, Progress, Source, WeightsError, WeightsFolders};
use server::{Reply, Server};
use tempfile::TempDir;

/// SHA-256 of `weights`, from `printf weights | sha256sum`.
const CONTENT: &[u8] = b"weights";
const SHA256: &str = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";
const NAME: &str = "tiny-9a129038.pth";
const PART: &str = "tiny-9a129038.pth.part";

fn source(server: &str) -> Source {
    Source {
        url: format!("{server}/models/{NAME}"),
        file_name: NAME.to_string(),
        sha256_prefix: SHA256[..8].to_string(),
    }
}

/// Caches that do not exist yet, and no pauses between attempts.
struct Machine {
    root: TempDir,
    downloads: Downloads,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folders =
            WeightsFolders { torch: root.path().join("torch"), engraft: root.path().join("engraft/weights") };
        let (stall, pauses) = (Duration::from_secs(30), vec![Duration::from_millis(1); 3]);
        Self { root, downloads: Downloads { folders, mirror: None, stall, pauses } }
    }

    /// A machine on which an earlier download broke off.
    fn with_part(content: &[u8]) -> Self {
        let machine = Self::new();
        fs::create_dir_all(&machine.downloads.folders.engraft).unwrap();
        fs::write(machine.cached(PART), content).unwrap();
        machine
    }

    fn cached(&self, name: &str) -> PathBuf {
        self.downloads.folders.engraft.join(name)
    }

    fn cached_names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.downloads.folders.engraft).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Downloads from the server, and returns the reasons why it had to be waited.
    #[track_caller]
    fn downloads_from(&self, server: &Server) -> Vec<String> {
        let mut reasons = Vec::new();
        let progress = |progress| match progress {
            Progress::Bytes { .. } => {}
            Progress::Waiting(reason) => reasons.push(reason),
        };
        let path = self.downloads.find_or_download(&source(&server.url), progress).unwrap();
        assert_eq!(path, self.cached(NAME));
        assert_eq!(fs::read(path).unwrap(), CONTENT);
        assert_eq!(self.cached_names(), [NAME]);
        reasons
    }

    /// The message of a download that fails.
    #[track_caller]
    fn fails_with(&self, source: &Source) -> String {
        let error = self.downloads.find_or_download(source, |_| ()).unwrap_err().to_string();
        let place = self.cached(NAME).display().to_string();
        assert!(error.contains(&source.url), "{error}");
        assert!(error.contains(&place) && error.contains("name a weights file of your own"), "{error}");
        error
    }
}

#[test]
fn a_download_is_verified_kept_and_found_again() {
    let server = Server::new([Reply::new(CONTENT)]);
    let machine = Machine::new();
    let mut seen = Vec::new();
    machine.downloads.find_or_download(&source(&server.url), |progress| seen.push(progress)).unwrap();
    assert_eq!(seen.first(), Some(&Progress::Bytes { so_far: 0, total: Some(7) }));
    assert_eq!(seen.last(), Some(&Progress::Bytes { so_far: 7, total: Some(7) }));
    // The server is gone, and the file is there.
    assert_eq!(machine.downloads_from(&server), [""; 0]);
    assert_eq!(server.requests(), ["/models/tiny-9a129038.pth from 0"]);
}

#[test]
fn pytorchs_cache_comes_first() {
    let machine = Machine::new();
    let source = source("http://127.0.0.1:1");
    for folder in [&machine.downloads.folders.engraft, &machine.downloads.folders.torch] {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(NAME), CONTENT).unwrap();
        let found = machine.downloads.find_or_download(&source, |_| panic!("nothing is downloaded")).unwrap();
        assert_eq!(found, folder.join(NAME));
    }
}

#[test]
fn a_connection_that_is_cut_again_and_again_continues_where_it_was_cut() {
    let cut = |sent| Reply { sent: Some(sent), ..Reply::new(CONTENT) };
    // Four attempts without a byte would be too many; these are five with two bytes at most.
    let server = Server::new([cut(2), cut(1), cut(0), cut(1), cut(1), cut(2)]);
    let machine = Machine::new();
    let reasons = machine.downloads_from(&server);
    assert_eq!(reasons.len(), 5);
    let url = source(&server.url).url;
    assert!(reasons[0].starts_with(&format!("{url}: the connection broke off (")), "{reasons:?}");
    assert!(reasons[0].ends_with("; trying again in 0.001 seconds"), "{reasons:?}");
    assert_eq!(server.requests(), [0, 2, 3, 3, 4, 5].map(|start| format!("/models/{NAME} from {start}")));
}

#[test]
fn what_is_there_stays_for_the_next_run() {
    let machine = Machine::new();
    let cut = |sent| Reply { sent: Some(sent), ..Reply::new(CONTENT) };
    let server = Server::new([cut(3), cut(0), cut(0), cut(0)]);
    let error = machine.fails_with(&source(&server.url));
    assert!(error.contains(": the connection broke off ("), "{error}");
    assert_eq!(machine.cached_names(), [PART]);
    assert_eq!(fs::read(machine.cached(PART)).unwrap(), b"wei");

    let server = Server::new([Reply::new(CONTENT)]);
    assert_eq!(machine.downloads_from(&server), [""; 0]);
    assert_eq!(server.requests(), ["/models/tiny-9a129038.pth from 3"]);
}

#[test]
fn a_part_that_is_complete_needs_no_server() {
    let machine = Machine::with_part(CONTENT);
    assert_eq!(machine.downloads_from(&Server::new([])), [""; 0]);
}

#[test]
fn a_server_that_knows_no_parts_sends_the_whole() {
    let server = Server::new([Reply { knows_range: false, ..Reply::new(CONTENT) }]);
    let machine = Machine::with_part(b"wei");
    assert_eq!(machine.downloads_from(&server), [""; 0]);

    let cut = Reply { knows_range: false, sent: Some(3), ..Reply::new(CONTENT) };
    let error = Machine::new().fails_with(&source(&Server::new(vec![cut; 4]).url));
    assert!(error.contains(": the connection broke off ("), "{error}");
}

#[test]
fn a_part_that_was_damaged_is_fetched_anew() {
    for part in [&b"xxx"[..], b"more than there is"] {
        let machine = Machine::with_part(part);
        assert_eq!(machine.downloads_from(&Server::new(vec![Reply::new(CONTENT); 2])), [""; 0]);
    }
}

#[test]
fn a_server_that_stalls_is_asked_again() {
    let server =
        Server::new([Reply { sent: Some(3), stalls: true, ..Reply::new(CONTENT) }, Reply::new(CONTENT)]);
    let mut machine = Machine::new();
    machine.downloads.stall = Duration::from_millis(500);
    let reasons = machine.downloads_from(&server);
    assert!(
        reasons[0].contains("the connection broke off (the server sent nothing for 0.5 seconds)"),
        "{reasons:?}"
    );
    assert_eq!(server.requests()[1], "/models/tiny-9a129038.pth from 3");
}

#[test]
fn an_overloaded_server_is_asked_again() {
    for status in ["503 Service Unavailable", "429 Too Many Requests", "500 Internal Server Error"] {
        let server = Server::new([Reply::error(status), Reply::error(status), Reply::new(CONTENT)]);
        let reasons = Machine::new().downloads_from(&server);
        let code = &status[..3];
        assert!(reasons[1].contains(&format!("the server answered with HTTP status {code};")), "{reasons:?}");
    }
    let machine = Machine::new();
    let server = Server::new(vec![Reply::error("503 Service Unavailable"); 4]);
    let error = machine.fails_with(&source(&server.url));
    assert!(error.contains("the server answered with HTTP status 503. Fetch it elsewhere"), "{error}");
    assert_eq!(server.requests().len(), 4);
    assert_eq!(machine.cached_names(), [""; 0]);
}

#[test]
fn a_file_that_the_server_lacks_is_asked_for_once() {
    let server = Server::new(vec![Reply::error("404 Not Found"); 2]);
    let (machine, source) = (Machine::new(), source(&server.url));
    let error = machine.fails_with(&source);
    let words = format!(
        "cannot download {}: the server has no such file (HTTP 404). Fetch it elsewhere and put it at {}",
        source.url,
        machine.cached(NAME).display()
    );
    assert!(error.starts_with(&words), "{error}");
    assert_eq!(server.requests().len(), 1);
    assert_eq!(machine.cached_names(), [""; 0]);
}

#[test]
fn another_content_is_refused_and_deleted() {
    let machine = Machine::new();
    let error = machine.fails_with(&source(&Server::new([Reply::new(b"trash")]).url));
    assert!(
        error.contains("its SHA-256 begins with e06da304, expected is 9a129038. It was deleted;"),
        "{error}"
    );
    assert_eq!(machine.cached_names(), [""; 0]);
    // Also when a part was there: it is not known which of the two is wrong until the file came in one piece.
    let machine = Machine::with_part(b"wei");
    let server = Server::new(vec![Reply::new(b"trash"); 2]);
    assert!(machine.fails_with(&source(&server.url)).contains("begins with e06da304"));
    assert_eq!(machine.cached_names(), [""; 0]);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn another_length_than_announced_is_noticed() {
    let short = Reply { announced: Some(5), ..Reply::new(CONTENT) };
    let error = Machine::new().fails_with(&source(&Server::new([short]).url));
    assert!(error.contains("is not the file that was published"), "{error}");

    // What is announced never comes; the request for the rest shows that there is none.
    let long = Reply { announced: Some(1000), ..Reply::new(CONTENT) };
    let server = Server::new([long, Reply::new(CONTENT), Reply::new(CONTENT)]);
    assert_eq!(Machine::new().downloads_from(&server).len(), 1);
    assert_eq!(server.requests(), [0, 7, 0].map(|start| format!("/models/{NAME} from {start}")));
}

#[test]
fn no_server_is_an_error_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let machine = Machine::new();
    let error = machine.fails_with(&source(&url));
    assert!(error.to_lowercase().contains("connection refused"), "{error}");
    assert_eq!(machine.cached_names(), [""; 0]);
}

/// Two processes, the second of which begins when the first has its first answer, and waits before that one goes
/// on. Returns what the first says.
fn two_processes(machine: &Machine, server: &Server) -> Result<PathBuf, WeightsError> {
    let (downloads, source) = (&machine.downloads, &source(&server.url));
    let (begins, has_begun) = mpsc::channel();
    let (waits, is_waiting) = mpsc::channel();
    let first = |progress| {
        if progress == (Progress::Bytes { so_far: 0, total: Some(CONTENT.len() as u64) }) {
            begins.send(()).unwrap();
            is_waiting.recv().unwrap();
        }
    };
    let text = "another process is downloading tiny-9a129038.pth; waiting for it";
    let second = move |progress| {
        if progress == Progress::Waiting(text.to_string()) {
            waits.send(()).unwrap();
        }
    };
    thread::scope(|scope| {
        let other = scope.spawn(move || {
            has_begun.recv().unwrap();
            downloads.find_or_download(source, second).unwrap()
        });
        let result = downloads.find_or_download(source, first);
        assert_eq!(fs::read(other.join().unwrap()).unwrap(), CONTENT);
        result
    })
}

#[test]
fn a_second_process_waits_for_the_first() {
    let machine = Machine::new();
    let server = Server::new([Reply::new(CONTENT)]);
    two_processes(&machine, &server).unwrap();
    assert_eq!(server.requests().len(), 1);
    assert_eq!(machine.cached_names(), [NAME]);
}

#[test]
fn the_process_that_waited_takes_over_from_one_that_fails() {
    let machine = Machine::new();
    let server = Server::new([Reply::new(b"rubbish"), Reply::new(CONTENT)]);
    let error = two_processes(&machine, &server).unwrap_err().to_string();
    assert!(error.contains("It was deleted"), "{error}");
    assert_eq!(machine.cached_names(), [NAME]);
}

#[test]
fn many_at_once_download_once() {
    let content = vec![7; 3_000_000];
    let server = Server::new([Reply::new(&content)]);
    let source = Source { sha256_prefix: "892f2fe0".to_string(), ..source(&server.url) };
    let machine = Machine::new();
    thread::scope(|scope| {
        let download = || machine.downloads.find_or_download(&source, |_| ()).unwrap();
        for one in [(); 8].map(|()| scope.spawn(download)) {
            assert_eq!(fs::read(one.join().unwrap()).unwrap(), content);
        }
    });
    assert_eq!(machine.cached_names(), [NAME]);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_mirror_replaces_the_publisher() {
    let server = Server::new([Reply::new(CONTENT)]);
    let mut machine = Machine::new();
    machine.downloads.mirror = Some(format!("{}/mirror/of/torch/", server.url));
    machine.downloads.find_or_download(&source("http://127.0.0.1:1"), |_| ()).unwrap();
    assert_eq!(server.requests(), ["/mirror/of/torch/tiny-9a129038.pth from 0"]);
}

#[test]
fn a_mirror_that_is_a_folder_is_used_where_it_is() {
    let mut machine = Machine::new();
    let mirror = machine.root.path().join("mirror");
    for name in [mirror.display().to_string(), format!("file://{}", mirror.display())] {
        machine.downloads.mirror = Some(name);
        let error = machine.fails_with(&source("http://127.0.0.1:1"));
        assert!(
            error.contains(&format!("the mirror has no file {}", mirror.join(NAME).display())),
            "{error}"
        );
        fs::create_dir_all(&mirror).unwrap();
        fs::write(mirror.join(NAME), CONTENT).unwrap();
        let found = machine.downloads.find_or_download(&source("http://127.0.0.1:1"), |_| ()).unwrap();
        assert_eq!(found, mirror.join(NAME));
        fs::remove_dir_all(&mirror).unwrap();
    }
}

#[test]
fn a_cache_that_cannot_be_written() {
    let mut machine = Machine::new();
    fs::write(machine.root.path().join("file"), "").unwrap();
    machine.downloads.folders.engraft = machine.root.path().join("file/weights");
    let source = source("http://127.0.0.1:1");
    let error = machine.downloads.find_or_download(&source, |_| ()).unwrap_err().to_string();
    let start = format!("cannot write {}", machine.downloads.folders.engraft.display());
    assert!(error.starts_with(&start), "{error}");
}

/// The variables of the environment belong to a process, so that each case runs in one of its own.
#[test]
fn proxy_and_mirror_come_from_the_environment() {
    let server = Server::new([(); 3].map(|()| Reply::new(CONTENT)));
    let run = |variables: &[(&str, &str)]| {
        let root = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "downloads_as_the_environment_says", "--ignored"]);
        for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.env("ENGRAFT_CACHE", root.path()).env("TORCH_HOME", root.path());
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(fs::read(root.path().join("weights").join(NAME)).unwrap(), CONTENT);
    };
    run(&[("ALL_PROXY", &server.url), ("TEST_SERVER", "http://weights.invalid")]);
    run(&[("ENGRAFT_WEIGHTS_MIRROR", &server.url), ("TEST_SERVER", "http://weights.invalid")]);
    run(&[("ALL_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "127.0.0.1"), ("TEST_SERVER", &server.url)]);
    assert_eq!(
        server.requests(),
        [
            "proxy to weights.invalid:80",
            "/models/tiny-9a129038.pth from 0",
            "/tiny-9a129038.pth from 0",
            "/models/tiny-9a129038.pth from 0"
        ]
    );
}

#[test]
#[ignore = "part of proxy_and_mirror_come_from_the_environment"]
fn downloads_as_the_environment_says() {
    let server = std::env::var("TEST_SERVER").unwrap_or_default();
    engraft_weights::find_or_download(&source(&server), |_| ()).unwrap();
}
