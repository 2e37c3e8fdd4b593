//! Disks that are full and folders that may not be written.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{Run, Sandbox, TINY, event, images_and_cached, words};

/// Nobody, whose rights end where permissions say so.
const NOBODY: u32 = 65534;

impl Sandbox {
    /// The program, for whom every file ends at some size, as if the disk were full: `blocks` of 512 or 1024 bytes, which
    /// depends on the shell.
    fn engraft_with_limit(&self, blocks: usize, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"trap "" XFSZ; ulimit -f "$0"; exec "$@""#]);
        command.arg(blocks.to_string()).arg(env!("CARGO_BIN_EXE_engraft")).args(words(line));
        self.set_up(&mut command);
        command
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_leaves_the_old_one() {
    let sandbox = Sandbox::with_flowers();
    let line =
        "train flowers --arch squeezenet1_1 --weights random --train head --epochs 1 --out out.safetensors";
    for old in [None, Some("the old one")] {
        if let Some(old) = old {
            sandbox.write("out.safetensors", old);
        }
        Run::of(&mut sandbox.engraft_with_limit(500, line)).failed(1, &["cannot write "]);
        let found = fs::read_to_string(sandbox.path("out.safetensors")).ok();
        assert_eq!(found.as_deref(), old);
        let is_part =
            |file: &std::path::PathBuf| file.extension().is_some_and(|extension| extension == "part");
        assert!(!sandbox.files("").iter().any(is_part), "{:?}", sandbox.files(""));
    }
    // Nothing is lost but the head: the features are in the cache.
    let events = sandbox.train(&line["train ".len()..]);
    assert_eq!(images_and_cached(&events), (21, 21));
}

#[test]
fn a_cache_that_is_full_ends_no_training() {
    let sandbox = Sandbox::with_flowers();
    sandbox.photos("flowers/train", &["1", "2", "10"], 60);
    // The features of 189 images need 48 kB, the checkpoint 9. In the temporary folder files are no longer, and the rest stays in memory.
    let line = format!("train flowers --json {TINY} --epochs 2 --out out.safetensors");
    let run = Run::of(&mut sandbox.engraft_with_limit(28, &line)).succeeded();
    assert!(run.stderr.starts_with("warning: cannot write "), "{}", run.stderr);
    assert!(run.stderr.contains("from now on are not kept"), "{}", run.stderr);
    assert_eq!(images_and_cached(&run.objects()), (189, 0));
    let checkpoint = sandbox.read("out.safetensors");
    // What there was room for is used.
    let (images, cached) = images_and_cached(&sandbox.run(&line).succeeded().objects());
    assert!(images == 189 && (56..=112).contains(&cached), "{cached}");
    assert!(sandbox.read("out.safetensors") == checkpoint);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_is_said_to_be() {
    let sandbox = Sandbox::with_flowers();
    sandbox.photos("flowers/train", &["1", "2", "10"], 60);
    fs::create_dir(sandbox.path("disk")).unwrap();
    // A small disk in the sandbox, for the commands of a shell alone; and what is on it in the end.
    let on_disk = |kilobytes: usize, commands: &str, line: &str| {
        let mut command = Command::new("unshare");
        let mount = format!("mount -t tmpfs -o size={kilobytes}k none disk || exit 77");
        let script = format!("{mount}; {commands}; code=$?; find disk -type f >&2; exit $code");
        command.args(["-rm", "sh", "-c", &script, env!("CARGO_BIN_EXE_engraft")]).args(words(line));
        sandbox.set_up(&mut command);
        command
    };
    let probe = on_disk(1000, "true", "").output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: no disk can be mounted here: {probe:?}");
        return;
    }
    let line = "train flowers --arch squeezenet1_1 --weights random --train head --epochs 1 --out disk/out.safetensors";
    let run = Run::of(&mut on_disk(1000, r#""$0" "$@""#, line));
    run.failed(
        1,
        &["error: cannot write disk/out.safetensors: the disk is full", "is not lost: it is in runs/"],
    )
    .leaves_nothing_on("disk/");

    // Features may take a quarter of what is free, so that they never fill a disk.
    let line = format!("train flowers --json {TINY} --epochs 1 --out out.safetensors");
    let run = Run::of(&mut on_disk(32, r#"ENGRAFT_CACHE=disk "$0" "$@""#, &line)).succeeded();
    for words in [
        "warning: the features take up to ",
        "warning: cannot write disk/features/",
        ": the cache is full, as it may take ",
        "features that are computed from now on are not kept\n",
    ] {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
    assert_eq!(images_and_cached(&run.objects()), (189, 0));
}

impl Run {
    /// No line of the errors is the path of a file there.
    #[cfg(target_os = "linux")]
    fn leaves_nothing_on(&self, disk: &str) {
        assert!(!self.stderr.lines().any(|line| line.starts_with(disk)), "{}", self.stderr);
    }
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_before_the_work() {
    let sandbox = Sandbox::with_flowers();
    sandbox.write("file.txt", "");
    for (out, reason) in [
        ("none/out.safetensors", "cannot write none/out.safetensors: the folder none does not exist"),
        ("file.txt/out.safetensors", "cannot write file.txt/out.safetensors: "),
        ("flowers", "cannot write flowers: it is a folder; name a file"),
    ] {
        let run = sandbox.run(&format!("train flowers {TINY} --out {out}")).failed(1, &[reason]);
        assert_eq!(run.stdout, "", "{out}");
    }
    assert!(!sandbox.path("cache").exists());

    let mut command = sandbox.engraft(&words(&format!("train flowers {TINY} --out out.safetensors")));
    Run::of(command.env("ENGRAFT_CACHE", sandbox.path("file.txt/cache"))).failed(
        1,
        &[
            "cannot use the cache folder ",
            "choose another with the variable ENGRAFT_CACHE",
            "--no-cache keeps no features",
        ],
    );
    sandbox.assert_nothing_written();
}

#[test]
fn a_folder_without_permission_is_an_error_before_the_work() {
    let sandbox = Sandbox::with_flowers();
    fs::create_dir(sandbox.path("locked")).unwrap();
    fs::set_permissions(sandbox.path("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    let open = |mode| fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(mode)).unwrap();
    open(0o755);
    let run = |line: &str, cache: &str| {
        let mut command = sandbox.engraft(&words(line));
        command.env("ENGRAFT_CACHE", sandbox.path(cache));
        if fs::metadata(sandbox.path("locked")).unwrap().uid() == 0 {
            // Nothing is locked for root.
            command.uid(NOBODY).gid(NOBODY);
        }
        match command.output() {
            Err(error) => {
                println!("skipped: cannot run the program as another user: {error}");
                None
            }
            Ok(_) => Some(Run::of(&mut command)),
        }
    };
    let Some(out) = run(&format!("train flowers {TINY} --out locked/out.safetensors"), "cache") else {
        return;
    };
    out.failed(1, &["cannot write locked/out.safetensors: no permission to write in locked"]);

    open(0o777);
    let cache =
        run(&format!("train flowers {TINY} --epochs 1 --out out.safetensors"), "locked/cache").unwrap();
    cache.failed(1, &["cannot use the cache folder ", "--no-cache keeps no features"]);
    let line = format!("train flowers {TINY} --epochs 1 --json --no-cache --out out.safetensors");
    let events = run(&line, "locked/cache").unwrap().succeeded().objects();
    assert_eq!(event(&events, "end")["checkpoint"], "out.safetensors");
}
