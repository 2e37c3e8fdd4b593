//! Ctrl-C: the first one asks the program to finish what it is at, the second ends it.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// A flag that becomes true with the first Ctrl-C; the second one ends the program.
pub(crate) fn stop_on_ctrl_c() -> &'static AtomicBool {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this batch; press Ctrl-C again to stop at once");
    };
    // Without a handler Ctrl-C ends the program, which is what it does by default.
    let _ = ctrlc::set_handler(handler);
    &STOP
}
