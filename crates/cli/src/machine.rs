//! What machine this is.

use std::fs;
use std::process::Command;

/// The processor's name as the system has it; where it has none, its architecture.
pub(crate) fn processor() -> String {
    let name = if cfg!(target_os = "macos") { name_on_macos() } else { name_on_linux() };
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.into())
}

fn name_on_linux() -> Option<String> {
    let processors = fs::read_to_string("/proc/cpuinfo").ok()?;
    let fields = processors.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(field, _)| field.trim() == "model name").map(|(_, name)| name.trim().to_owned()).next()
}

fn name_on_macos() -> Option<String> {
    let sysctl = Command::new("/usr/sbin/sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
    Some(String::from_utf8(sysctl.stdout).ok()?.trim().to_owned())
}
