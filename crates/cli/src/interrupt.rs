//! Ctrl-C and SIGTERM: the first one asks the program to save and end, the second one ends it.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// A flag that becomes true with the first Ctrl-C or SIGTERM; the second one ends the program.
pub(crate) fn stop_on_signal() -> &'static AtomicBool {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this batch; press Ctrl-C again to stop at once");
    };
    // Without a handler the signals end the program, which is what they do by default.
    let _ = ctrlc::set_handler(handler);
    &STOP
}
