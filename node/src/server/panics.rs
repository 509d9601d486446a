//! A panic anywhere ends the process. What a panicking task leaves behind, a lock held or a step half
//! done, can't be trusted; what is on disk can.

use std::backtrace::Backtrace;
use std::panic;

/// Makes every panic log itself and abort the process.
pub(super) fn abort_on_panic() {
    panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_string();
        let backtrace = Backtrace::force_capture();
        tracing::error!(thread = name, "{info}\n{backtrace}");
        // Once more past the logger, which may be what panicked or filtered out.
        eprintln!("thread {name}: {info}");
        std::process::abort();
    }));
}
